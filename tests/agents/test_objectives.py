"""Costs of imagined latents, against sums done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from linear_world import FIDELITY, LinearWorld, PointPoses, frame_at, judge
from wcsim.agents.objectives import Judged, LatentGoal, frame_weights, imagined_cost, relative_distance
from wcsim.errors import ConfigError

GOAL = torch.tensor([20.0, 10.0], dtype=torch.float64)[:, None, None]


def cost_of(world: LinearWorld, objective: Any = None, max_lanes: int = 64, **options: Any) -> Any:
    state = world.init(frame_at(10, 10)[None, None], np.zeros((1, 0, 2)), np.array([3]))
    return imagined_cost(world, state, fidelity=FIDELITY, objective=objective or LatentGoal(GOAL),  # type: ignore[arg-type]
                         max_lanes=max_lanes, **options)


def test_latent_cost_is_the_distance_to_the_goal_and_decodes_nothing() -> None:
    world = LinearWorld()
    actions = np.array([[[4.0, 0], [4.0, 0]], [[4.0, 4.0], [0, 0]], [[0, 0], [0, 0]]])
    assert cost_of(world)(actions) == pytest.approx(np.array([2.0, np.sqrt(52), 10.0]) / np.sqrt(2))
    assert world.decoded == 0


def test_earlier_frames_are_discounted() -> None:
    actions = np.array([[[4.0, 0], [4.0, 0], [2.0, 0]]])
    cost = cost_of(LinearWorld(), LatentGoal(GOAL, discount=0.5))(actions)
    assert cost == pytest.approx([(0.25 * 6 + 0.5 * 2 + 0) / 1.75 / np.sqrt(2)])


def test_equal_candidates_cost_the_same_in_a_noisy_world() -> None:
    actions = np.repeat(np.array([[[1.0, 2.0], [3.0, -1.0]]]), 7, axis=0)
    costs = cost_of(LinearWorld(noise=2.0))(actions)
    assert (costs == costs[0]).all()
    assert costs[0] != cost_of(LinearWorld())(actions)[0]


def test_batching_changes_memory_and_no_cost() -> None:
    actions = np.random.default_rng(0).uniform(-4, 4, (7, 3, 2))
    whole, parts, traces = LinearWorld(noise=1.0), LinearWorld(noise=1.0), []
    assert (cost_of(whole)(actions) == cost_of(parts, max_lanes=3, watch=traces.append)(actions)).all()
    assert (whole.batches, parts.batches) == ([7], [3, 3, 1])
    assert [trace.hit.shape[-1] for trace in traces] == [3, 3, 1]


def test_more_lanes_than_one_or_fewer_than_one_per_batch_are_refused() -> None:
    world = LinearWorld()
    state = world.init(frame_at(1, 1)[None, None], np.zeros((1, 0, 2)), np.array([0]))
    options: dict[str, Any] = {"fidelity": FIDELITY, "objective": LatentGoal(GOAL)}
    with pytest.raises(ConfigError, match="one lane, got 2"):
        imagined_cost(world, state.branch(2), max_lanes=4, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_lanes must be 1 or more, got 0"):
        imagined_cost(world, state, max_lanes=0, **options)  # type: ignore[arg-type]


def test_judged_cost_of_one_frame() -> None:
    objective = Judged(judge, goal=(20.0, 14.0, np.pi / 2), angle_px=10.0, approach=0.5, coverage_px=7.0)
    poses = PointPoses(np.array([[8.0, 10.0]]), np.array([[23.0, 10.0, np.pi]]), np.array([0.25]), np.array([True]))
    assert objective.frame_costs(poses) == pytest.approx([5.0 + 10 * np.pi / 2 + 0.5 * 15 - 0.25 * 7])


def test_an_agent_with_a_goal_of_its_own_pays_for_the_way_there() -> None:
    objective = Judged(judge, goal=(23.0, 10.0, np.pi), approach=0.0, agent_goal=(5.0, 14.0), reach=0.3)
    poses = PointPoses(np.array([[8.0, 10.0]]), np.array([[23.0, 10.0, np.pi]]), np.zeros(1), np.array([True]))
    assert objective.frame_costs(poses) == pytest.approx([0.3 * 5.0])


@pytest.mark.parametrize(("angle", "error"), [(3.0, 2 * np.pi - 6.0), (-3.0, 0.0), (-3.0 + 2 * np.pi, 0.0), (0.0, 3.0)])
def test_angles_wrap(angle: float, error: float) -> None:
    poses = PointPoses(np.zeros((1, 2)), np.array([[0.0, 0.0, angle]]), np.zeros(1), np.array([True]))
    objective = Judged(judge, goal=(0.0, 0.0, -3.0), angle_px=1.0, approach=0.0)
    assert objective.frame_costs(poses) == pytest.approx([error], abs=1e-12)


def test_a_lost_block_or_agent_is_dear_but_finite() -> None:
    nan = np.full((1, 2), np.nan)
    seen, lost = np.zeros((1, 3)), np.full((1, 3), np.nan)
    objective = Judged(judge, goal=(0.0, 0.0, 0.0), lost_px=500.0)
    for agent, block, found in ((nan, seen, True), (np.zeros((1, 2)), lost, False), (nan, seen, False)):
        assert objective.frame_costs(PointPoses(agent, block, np.zeros(1), np.array([found]))) == [500.0]


def test_judged_decodes_only_what_it_reads() -> None:
    actions = np.full((2, 7, 2), 1.0)
    for options, frames in (({}, 1), ({"discount": 0.9}, 7), ({"discount": 0.9, "every": 3}, 3), ({"every": 9}, 1)):
        world = LinearWorld()
        costs = cost_of(world, Judged(judge, (30.0, 17.0, 0.0), approach=0.0, **options))(actions)
        assert world.decoded == 2 * frames
        if frames == 1:
            assert costs == pytest.approx([3.0, 3.0])  # the block ends at (10 + 7 + 10, 17)


def test_frame_weights_by_hand() -> None:
    assert frame_weights(4, discount=0.0)[0] == [3]
    ticks, weights = frame_weights(6, every=2, discount=0.5)
    assert ticks == [1, 3, 5]
    assert weights == pytest.approx(np.array([1 / 16, 1 / 4, 1]) / (21 / 16))
    assert frame_weights(3, discount=1.0)[1] == pytest.approx([1 / 3] * 3)


def test_bad_objectives_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"discount must be in \[0, 1\], got 1.5"):
        LatentGoal(GOAL, discount=1.5)
    with pytest.raises(ConfigError, match="discount"):
        Judged(judge, (0.0, 0.0, 0.0), discount=float("nan"))
    with pytest.raises(ConfigError, match="every must be 1 or more, got 0"):
        Judged(judge, (0.0, 0.0, 0.0), every=0)


def test_relative_distance() -> None:
    seen = torch.tensor([3.0, 4.0])
    assert relative_distance(seen, seen) == 0.0
    assert relative_distance(torch.tensor([3.0, 5.0]), seen) == pytest.approx(0.2)
    assert relative_distance(torch.zeros(2), seen) == 1.0
