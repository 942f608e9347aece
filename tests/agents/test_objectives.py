"""Costs of imagined latents, against sums done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from linear_world import FIDELITY, TASK, LinearWorld, estimated, frame_at
from wcsim.agents.objectives import (
    LatentGoal,
    StateGoal,
    distance,
    frame_weights,
    imagined_cost,
    objective_of,
    relative_distance,
)
from wcsim.errors import ConfigError
from wcsim.estimate import Episode, Goal
from wcsim.spec import Quantity, StateSpec

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


def goal_at(x: float, y: float, turn: float = 0.0, **agent: Any) -> Goal:
    return Goal({"block": np.array([x, y]), "turn": np.array([turn]), **agent})


def test_cost_of_one_frame() -> None:
    objective = StateGoal(TASK, goal_at(20.0, 14.0, np.pi / 2), weights={"turn": 10.0}, approach=0.5,
                          progress_weight=7.0)
    seen = estimated((8.0, 10.0), (23.0, 10.0), np.pi, progress=0.25)
    assert objective.frame_costs(seen) == pytest.approx([5.0 + 10 * np.pi / 2 + 0.5 * 15 - 0.25 * 7])


def test_a_robot_with_a_goal_of_its_own_pays_for_the_way_there() -> None:
    goal = goal_at(23.0, 10.0, np.pi, agent=np.array([5.0, 14.0]))
    seen = estimated((8.0, 10.0), (23.0, 10.0), np.pi)
    assert StateGoal(TASK, goal, approach=0.0, reach=0.3).frame_costs(seen) == pytest.approx([0.3 * 5.0])
    assert StateGoal(TASK, goal, approach=0.0).frame_costs(seen) == [0.0]


def test_a_robot_in_which_the_task_tells_its_goal_counts_in_full_and_has_nothing_to_approach() -> None:
    class Arm:
        state = StateSpec((Quantity("tip", 2, "px", "position", "robot", goal=True),))
        estimate = estimate_state = None

    goal = Goal({"tip": np.array([8.0, 14.0])})
    objective = StateGoal(Arm(), goal, approach=9.0, reach=9.0)  # type: ignore[arg-type]
    assert objective.frame_costs(estimated((0, 0), (0, 0)).__class__(
        {"tip": np.array([[5.0, 10.0]])}, {}, np.zeros(1), np.zeros(1, bool), np.ones(1, bool))) == [5.0]


@pytest.mark.parametrize(("angle", "error"), [(3.0, 2 * np.pi - 6.0), (-3.0, 0.0), (-3.0 + 2 * np.pi, 0.0), (0.0, 3.0)])
def test_angles_wrap_and_cost_in_radians(angle: float, error: float) -> None:
    objective = StateGoal(TASK, goal_at(0.0, 0.0, -3.0), approach=0.0)
    assert objective.frame_costs(estimated((0, 0), (0, 0), angle)) == pytest.approx([error], abs=1e-12)


def test_distances_of_every_kind() -> None:
    half = np.sqrt(0.5)
    for quantity, value, goal, expected in (
        (Quantity("a", 3, "m", "position"), [1.0, 2.0, 2.0], [0.0, 0.0, 0.0], 3.0),
        (Quantity("a", 1, "m", "scalar"), [1.0], [3.5], 2.5), (Quantity("a", 1, "1", "binary"), [1.0], [0.0], 1.0),
        (Quantity("a", 4, "1", "quaternion"), [half, half, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], np.pi / 2),
    ):
        assert distance(quantity, np.array([value]), np.array(goal)) == pytest.approx([expected])


def test_whatever_is_lost_is_dear_but_finite() -> None:
    nan, objective = (np.nan, np.nan), StateGoal(TASK, goal_at(0.0, 0.0), lost=500.0)
    for agent, block in ((nan, (0, 0)), ((0, 0), nan), (nan, nan)):
        assert objective.frame_costs(estimated(agent, block)) == [500.0]


def test_only_what_is_read_is_decoded() -> None:
    actions = np.full((2, 7, 2), 1.0)
    for options, frames in (({}, 1), ({"discount": 0.9}, 7), ({"discount": 0.9, "every": 3}, 3), ({"every": 9}, 1)):
        world = LinearWorld()
        costs = cost_of(world, StateGoal(TASK, goal_at(30.0, 17.0), approach=0.0, **options))(actions)
        assert world.decoded == 2 * frames
        if frames == 1:
            assert costs == pytest.approx([3.0, 3.0])  # the block ends at (10 + 7 + 10, 17)


def test_an_objective_is_that_of_the_episode() -> None:
    own, goal = LatentGoal(GOAL), goal_at(1.0, 2.0)
    assert objective_of(Episode(0, 0), own, None) is own
    assert objective_of(Episode(0, 0, goal=goal), own, None) is own
    aimed = objective_of(Episode(0, 0, goal=goal), own, lambda one: StateGoal(TASK, one or goal_at(0.0, 0.0)))
    assert isinstance(aimed, StateGoal)
    assert aimed.goal is goal
    assert objective_of(Episode(0, 0), own, lambda one: LatentGoal(GOAL, 0.5)) is own
    with pytest.raises(ConfigError, match="episode 3 has no goal"):
        objective_of(Episode(3, 0), None, None)


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
        StateGoal(TASK, goal_at(0.0, 0.0), discount=float("nan"))
    with pytest.raises(ConfigError, match="every must be 1 or more, got 0"):
        StateGoal(TASK, goal_at(0.0, 0.0), every=0)
    with pytest.raises(ConfigError, match="quantity 'lid' is unknown; known: agent, block, turn"):
        StateGoal(TASK, goal_at(0.0, 0.0), weights={"lid": 1.0})


def test_relative_distance() -> None:
    seen = torch.tensor([3.0, 4.0])
    assert relative_distance(seen, seen) == 0.0
    assert relative_distance(torch.tensor([3.0, 5.0]), seen) == pytest.approx(0.2)
    assert relative_distance(torch.zeros(2), seen) == 1.0
