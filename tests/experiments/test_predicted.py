"""Candidates scored by what a world's state model predicts, with no frame rendered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor

from wcsim.agents.chunks import Effort, PlannedChunks
from wcsim.agents.mpc import MPCConfig
from wcsim.agents.objectives import StateGoal, imagined_cost
from wcsim.backbones.cosmos2.tiny import tiny_parts, tiny_state_model, tiny_world
from wcsim.cache.none import NoCache
from wcsim.envs.pusht import PushT
from wcsim.errors import ConfigError, WcsimError
from wcsim.estimate import Episode
from wcsim.experiments.policies import LatentGoalConfig, MPCPolicyConfig, StateGoalConfig, hold_of
from wcsim.spec import flatten
from wcsim.types import Fidelity, WorldState
from wcsim.world.world import World

MANY = {"horizon": 4, "rounds": 2, "candidates": 40, "elites": 6, "replan_every": 2}


@pytest.fixture(scope="module")
def task() -> PushT:
    return PushT()


@pytest.fixture(scope="module")
def world() -> World:
    return World(*tiny_parts(control_channels=4), state_model=tiny_state_model())


def began(world: World, task: PushT) -> WorldState:
    start = task.start(3)
    return world.init(start.frames[None], start.actions[None], [7])


def plans(count: int, ticks: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 512, (count, ticks, 2))


def seen(task: PushT) -> dict[str, np.ndarray]:
    return {"pixels": task.start(3).frames[-1], "agent_pos": np.array([200.0, 200.0])}


def test_one_state_serves_all_candidates(world: World, task: PushT) -> None:
    state, actions = began(world, task), plans(5, 6)
    predicted = world.predict_state(state, actions)
    assert {name: value.shape for name, value in predicted.items()} == {
        "agent": (5, 6, 2), "block": (5, 6, 2), "block_angle": (5, 6, 1)}
    assert world.state_model is not None
    assert world.state_model.quantities == tuple(predicted)
    for name, value in predicted.items():
        assert value.dtype == np.float64
        np.testing.assert_array_equal(value, world.predict_state(state.branch(5), actions)[name])
        np.testing.assert_array_equal(value[2:3], world.predict_state(state, actions[2:3])[name])
        np.testing.assert_array_equal(value[:, :3], world.predict_state(state, actions[:, :3])[name])


def test_what_is_predicted_is_what_the_transformer_reads(
    world: World, task: PushT, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, actions = began(world, task), plans(1, 3)
    drawn: list[Tensor] = []
    assert world.state_model is not None
    maps = world.state_model.maps

    def watched(poses: Tensor) -> Tensor:
        drawn.append(poses)
        return maps(poses)

    monkeypatch.setattr(world.state_model, "maps", watched)
    world.advance(state, actions, Fidelity(1, NoCache()))
    values, predicted = world.state_model.values(drawn[0][:, -3:]), world.predict_state(state, actions)
    for name, value in values.items():
        np.testing.assert_array_equal(value, predicted[name])


def test_a_world_without_a_state_model_predicts_none(task: PushT) -> None:
    bare = tiny_world()
    with pytest.raises(ConfigError, match="has no state model"):
        bare.predict_state(began(bare, task), plans(1, 2))


@pytest.mark.parametrize(("lanes", "shape"), [(2, (3, 4, 2)), (1, (3, 0, 2)), (1, (4, 2))])
def test_actions_of_another_shape_are_refused(world: World, task: PushT, lanes: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(WcsimError, match=r"need \[\d, k >= 1, 2\]"):
        world.predict_state(began(world, task).branch(lanes), np.full(shape, 100.0))


def test_states_are_estimated_as_the_simulator_has_them(task: PushT) -> None:
    truth = task.make_truth()
    try:
        look = truth.restore(task.start(5).truth)
        for action in plans(1, 4)[0]:
            look = truth.step(action)
        true = look.estimate
    finally:
        truth.close()
    told = task.estimate_state(true.values)
    np.testing.assert_allclose(flatten(task.state.quantities, told.values), flatten(task.state.quantities, true.values))
    np.testing.assert_allclose(told.progress, true.progress, atol=2e-2)
    np.testing.assert_array_equal(told.success, true.success)


def test_the_objective_scores_what_is_predicted_as_it_scores_what_is_seen(world: World, task: PushT) -> None:
    objective = StateGoalConfig(every=2, discount=0.5).build(world, task)
    assert isinstance(objective, StateGoal)
    state, actions = began(world, task), plans(4, 5)
    cost = imagined_cost(world, state, fidelity=None, objective=objective, max_lanes=2)
    values = world.predict_state(state, actions)
    by_hand = np.zeros(4)
    for tick, weight in ((4, 16 / 21), (2, 4 / 21), (0, 1 / 21)):
        estimate = task.estimate_state({name: value[:, tick] for name, value in values.items()})
        by_hand += weight * objective.frame_costs(estimate)
    np.testing.assert_allclose(cost(actions), by_hand)


def test_an_objective_of_latents_is_refused(world: World, task: PushT) -> None:
    objective = LatentGoalConfig().build(world, task)
    with pytest.raises(ConfigError, match="use the objective state_goal"):
        imagined_cost(world, began(world, task), fidelity=None, objective=objective, max_lanes=2)


def test_a_planner_predicts_many_and_imagines_few(world: World, task: PushT) -> None:
    settings: dict[str, Any] = MANY | {"fidelity": {"steps": 1}, "rungs": [{"survivors": 3}]}
    agent = MPCPolicyConfig(**settings).agent(world, task)
    agent.reset(Episode(0, 0))
    action = agent.act(seen(task))
    assert action.shape == (2,)
    assert agent.report is not None
    assert agent.report.calls == 80
    assert agent.report.rank_agreement is not None
    assert [trace.hit.shape[-1] for trace in agent.report.traces] == [3, 3, 1]


def test_a_rung_without_survivors_has_the_last_word(world: World, task: PushT) -> None:
    settings: dict[str, Any] = MANY | {"fidelity": {"steps": 1}}
    agent = MPCPolicyConfig(**settings, rungs=[{"survivors": 0}]).agent(world, task)
    agent.reset(Episode(0, 0))
    agent.act(seen(task))
    assert agent.report is not None
    assert agent.report.rank_agreement is None
    assert [trace.hit.shape[-1] for trace in agent.report.traces] == [1]  # the plan that is followed, to compare with
    with pytest.raises(ConfigError, match="must see whole plans"):
        MPCPolicyConfig(**settings, rungs=[{"survivors": 0, "ticks": 2}]).agent(world, task)


def test_without_a_fidelity_nothing_is_rendered_and_the_plan_is_the_same(world: World, task: PushT) -> None:
    settings: dict[str, Any] = dict(MANY)
    played = []
    for changes in ({"fidelity": None}, {"fidelity": {"steps": 1}, "rungs": [{"survivors": 0}]}):
        agent = MPCPolicyConfig(**settings, **changes).agent(world, task)
        agent.reset(Episode(0, 0))
        played.append([agent.act(seen(task)) for _ in range(3)])
        assert agent.report is not None
        assert agent.report.reason == "schedule"
        assert (agent.report.error is None, agent.report.realised is None, not agent.report.traces) == (
            (True,) * 3 if changes["fidelity"] is None else (False,) * 3)
    np.testing.assert_array_equal(*played)


@pytest.mark.parametrize("changes", [{"rungs": [{"survivors": 3}]}, {"error_bound": 0.5}, {"proposals": [8.0]}])
def test_what_reads_frames_needs_a_fidelity(world: World, task: PushT, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="fidelity"):
        MPCPolicyConfig(fidelity=None, **changes).agent(world, task)


def test_chunks_are_planned_on_what_is_predicted(world: World, task: PushT) -> None:
    config = MPCConfig(horizon=4, rounds=2, candidates=4, elites=2, replan_every=2)
    source = PlannedChunks(world, StateGoalConfig().build(world, task), config, efforts=[Effort(None, 40, elites=6)],
                           hold=hold_of(task))
    source.reset(Episode(0, 0))
    chunk = source.chunk(seen(task), np.zeros((0, 2)))
    source.see(seen(task), chunk[0])
    assert source.last is not None
    assert source.last.calls == 80
    assert source.errors == []
