"""Draws of third-party policies: a function of seed, episode and step, lane by lane."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from linear_world import SPEC, frame_at
from wcsim.agents.adapters import ChunkedPolicy
from wcsim.agents.policies import PerLane
from wcsim.agents.randomness import seeded, seeded_lanes, seeded_policy
from wcsim.estimate import Episode

SEEN = {"pixels": frame_at(7, 9), "agent_pos": np.array([1.0, 2.0], np.float32)}


def numpy_state() -> list[int]:
    """The state of numpy's old global generator."""
    state: Any = np.random.get_state()
    found: list[int] = state[1].tolist()
    return found


def test_third_party_draws_follow_from_seed_episode_and_step_and_disturb_nobody() -> None:
    def drawn(seed: int, number: int) -> list[float]:
        def source(seen: Any) -> np.ndarray:
            return np.array([torch.rand(()).item(), np.random.rand() + random.random()])  # what libraries do

        policy = ChunkedPolicy(source, SPEC.action, seed=seed, restart=lambda: torch.rand(9))
        policy.reset(Episode(number, 0))
        return [float(value) for _ in range(2) for value in policy.act(SEEN)]

    before = torch.get_rng_state(), numpy_state(), random.getstate()
    first = drawn(0, 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (numpy_state(), random.getstate()) == before[1:]
    torch.rand(5)
    assert drawn(0, 3) == first
    assert first[:2] != first[2:]
    assert drawn(0, 4) != first != drawn(1, 3)
    with pytest.raises(KeyError), seeded(1):
        raise KeyError
    assert random.getstate() == before[2]


def test_torch_draws_for_a_batch_what_it_draws_for_each_lane_alone() -> None:
    def draw(rows: int, chances: torch.Tensor) -> list[torch.Tensor]:
        return [torch.randn(rows, 40), torch.rand(2 * rows, 3).reshape(rows, 6), torch.zeros(rows, 5).normal_(),
                torch.randn_like(chances), torch.multinomial(chances, 2), torch.bernoulli(chances),
                torch.randint(0, 99, (rows, 4)), torch.normal(chances, 1.0),
                torch.nn.functional.dropout(torch.ones(rows, 64), 0.5, training=True)]

    chances, lanes = torch.tensor([[0.2, 0.3, 0.5], [0.9, 0.05, 0.05], [0.1, 0.1, 0.8]]), [(4, 0), (9, 2), (4, 1)]
    with seeded_lanes(1, lanes):
        together = draw(3, chances)
    for row, lane in enumerate(lanes):
        with seeded(1, *lane):
            alone = draw(1, chances[row : row + 1])
        for whole, one in zip(together, alone, strict=True):
            assert torch.equal(whole[row : row + 1], one)
    with seeded_lanes(1, lanes):
        shared = torch.rand(()), torch.randn(4, generator=torch.Generator().manual_seed(0)), np.random.rand()
    with seeded_lanes(1, lanes):
        again = torch.rand(()), torch.randn(4, generator=torch.Generator().manual_seed(0)), np.random.rand()
    assert all(torch.equal(torch.as_tensor(one), torch.as_tensor(two)) for one, two in zip(shared, again, strict=True))


@pytest.mark.parametrize("per_lane", [False, True])
def test_a_policy_of_ones_own_draws_by_seed_episode_and_step_in_each_lane(per_lane: bool) -> None:
    class Whole:
        reports = None

        def reset(self, mask: np.ndarray, episodes: Any) -> None:
            torch.rand(int(mask.sum()))

        def act(self, observations: Any, steps_left: int | None = None) -> np.ndarray:
            return torch.rand(len(observations["agent_pos"]), 2).numpy()

    class One:
        report = "it"

        def reset(self, episode: Episode) -> None:
            random.random()

        def act(self, observation: Any, steps_left: int | None = None) -> np.ndarray:
            return np.array([random.random(), np.random.rand()])

    def acted(numbers: list[int], seed: int = 0) -> np.ndarray:
        made: Any = PerLane([One() for _ in numbers]) if per_lane else Whole()
        policy: Any = seeded_policy(made, len(numbers), seed=seed)
        policy.reset(np.ones(len(numbers), bool), [Episode(number, 0) for number in numbers])
        rows = [policy.act({"agent_pos": np.zeros((len(numbers), 2))}) for _ in range(2)]
        assert list(policy.reports) == [["it", None][not per_lane]] * len(numbers)
        return np.array(rows)

    state = random.getstate(), torch.get_rng_state()
    both = acted([4, 7])
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])
    assert np.array_equal(both[:, 1:], acted([7]))
    assert len(np.unique(both)) == 8
    assert not np.array_equal(both, acted([4, 7], seed=1))
