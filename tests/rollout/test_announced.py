"""Actions that a policy knows beforehand are imagined together, where the fidelity names a chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor

from wcsim.agents.policies import PerLane, RandomPolicy, ReplayPolicy, announced
from wcsim.backbones.cosmos2.tiny import tiny_parts
from wcsim.cache.none import NoCache
from wcsim.envs.tasks import make_task
from wcsim.estimate import Episode
from wcsim.rollout.engine import opening, rollout
from wcsim.rollout.places import WorldPlace
from wcsim.rollout.sinks import Recorded, Recorder, listen
from wcsim.types import Fidelity, Trace, WorldState
from wcsim.world.world import World

ACTIONS = np.random.default_rng(0).uniform(0, 512, (2, 5, 2))
TASK = make_task("pusht", start="near")


class Counting(World):
    """A tiny world that counts how many frames it was asked for at once."""

    def __init__(self) -> None:
        super().__init__(*tiny_parts(task="pusht"))
        self.asked: list[int] = []

    def advance(self, state: WorldState, actions: np.ndarray, fidelity: Fidelity) -> tuple[WorldState, Tensor, Trace]:
        self.asked.append(actions.shape[1])
        return super().advance(state, actions, fidelity)


@pytest.fixture
def world() -> Counting:
    return Counting()


def play(world: World, policy: Any, chunk: int | None) -> list[Recorded]:
    starts, episodes = zip(*(opening(TASK, number, 700_001 + number) for number in range(2)), strict=True)
    recorder = Recorder()
    place = WorldPlace(TASK, world, Fidelity(2, NoCache(), chunk=chunk))
    listen(rollout(TASK, {"world": place}, policy, episodes, starts, acts_in="world", max_steps=5,
                   ends=lambda estimate, lanes: np.zeros(len(lanes), bool)), [recorder])
    return recorder.episodes


def recorded() -> PerLane:
    return PerLane([ReplayPolicy(TASK.action, ACTIONS[lane]) for lane in range(2)])


def test_a_chunk_is_imagined_at_once_and_shown_frame_by_frame(world: Counting) -> None:
    played = play(world, recorded(), 3)
    assert world.asked == [3, 2]
    starts = [opening(TASK, number, 700_001 + number)[0] for number in range(2)]
    state = world.init(np.stack([start.frames for start in starts]), np.stack([start.actions for start in starts]),
                       [700_001, 700_002])
    _, latents, _ = world.advance(state, ACTIONS.astype(np.float32)[:, :3], Fidelity(2, NoCache(), chunk=3))
    frames = world.decode(latents)
    for lane, kept in enumerate(played):
        assert np.array_equal(np.array(kept.places["world"].frames[1:4]), frames[lane])
        assert np.array_equal(kept.actions, ACTIONS[lane])


@pytest.mark.parametrize(("policy", "chunk"), [(recorded, None), (recorded, 1), (
    lambda: PerLane([RandomPolicy(TASK.action) for _ in range(2)]), 3)])
def test_else_it_is_one_frame_after_the_other(world: Counting, policy: Any, chunk: int | None) -> None:
    play(world, policy(), chunk)
    assert world.asked == [1] * 5


def test_what_is_announced_is_what_is_done() -> None:
    policy = recorded()
    policy.reset(np.ones(2, bool), [Episode(0, 0), Episode(1, 1)])
    done = [policy.act({"active": np.ones(2, bool)}) for _ in range(2)]
    ahead = announced(policy, [0, 1], 9)
    assert ahead is not None
    assert np.array_equal(ahead[:, 0], done[-1])
    assert np.array_equal(ahead, ACTIONS[:, 1:])
    assert announced(PerLane([RandomPolicy(TASK.action)]), [0], 3) is None
