"""Candidates scored by what a world's state model predicts, without a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor

from wcsim.agents.chunks import Effort, PlannedChunks
from wcsim.agents.mpc import MPCConfig
from wcsim.agents.objectives import Judged, imagined_cost
from wcsim.backbones.cosmos2.tiny import tiny_parts, tiny_state_model, tiny_world
from wcsim.cache.none import NoCache
from wcsim.envs.judge import Judgement
from wcsim.envs.pusht import PushT
from wcsim.envs.tasks import make_task
from wcsim.errors import ConfigError, WcsimError
from wcsim.experiments.planners import JudgedConfig, LatentGoalConfig, MPCAgentConfig
from wcsim.types import Fidelity, WorldState
from wcsim.world.world import World


@pytest.fixture(scope="module")
def task() -> PushT:
    return make_task("pusht")


@pytest.fixture(scope="module")
def world() -> World:
    return World(*tiny_parts(control_channels=4), state_model=tiny_state_model())


def began(world: World, task: PushT) -> WorldState:
    start = task.start(3)
    return world.init(start.frames[None], start.actions[None], [7])


def plans(count: int, ticks: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 512, (count, ticks, 2))


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


def test_quantities_are_judged_as_the_simulator_has_them(task: PushT) -> None:
    truth = task.make_truth()
    try:
        look = truth.restore(task.start(5).truth)
        for action in plans(1, 4)[0]:
            look = truth.step(action)
        true = look.judgement
    finally:
        truth.close()
    told = task.judge_quantities({"agent": true.agent, "block": true.block[:, :2], "block_angle": true.block[:, 2:]})
    for name in ("agent", "block", "coverage"):
        np.testing.assert_allclose(getattr(told, name), getattr(true, name), atol=2e-2)


def test_the_objective_scores_what_is_predicted_as_it_scores_what_is_seen(world: World, task: PushT) -> None:
    objective = JudgedConfig(every=2, discount=0.5).build(world, task)
    assert isinstance(objective, Judged)
    state, actions = began(world, task), plans(4, 5)
    cost = imagined_cost(world, state, fidelity=None, objective=objective, max_lanes=2)
    predicted = world.predict_state(state, actions)
    by_hand = np.zeros(4)
    for tick, weight in ((4, 16 / 21), (2, 4 / 21), (0, 1 / 21)):
        seen: Judgement = task.judge_quantities({name: value[:, tick] for name, value in predicted.items()})
        by_hand += weight * objective.frame_costs(seen)
    np.testing.assert_allclose(cost(actions), by_hand)


def test_an_objective_of_pictures_is_refused(world: World, task: PushT) -> None:
    objective = LatentGoalConfig().build(world, task)
    with pytest.raises(ConfigError, match="use the objective judged"):
        imagined_cost(world, began(world, task), fidelity=None, objective=objective, max_lanes=2)


def test_a_planner_predicts_many_and_imagines_few(world: World, task: PushT) -> None:
    settings: dict[str, Any] = {
        "horizon": 4, "rounds": 2, "candidates": 40, "elites": 6, "replan_every": 2, "fidelity": {"steps": 1},
        "screens": [{"survivors": 3}],
    }
    agent = MPCAgentConfig(**settings).build(world, task)
    pixels = task.start(3).frames[-1]
    agent.reset({"pixels": pixels}, episode=0)
    action = agent.act({"pixels": pixels})
    assert action.shape == (2,)
    assert agent.last is not None
    assert agent.last.calls == 80
    assert agent.last.rank_agreement is not None
    assert [trace.hit.shape[-1] for trace in agent.last.traces] == [3, 3, 1]


def test_a_screen_without_survivors_has_the_last_word(world: World, task: PushT) -> None:
    settings: dict[str, Any] = {
        "horizon": 4, "rounds": 2, "candidates": 40, "elites": 6, "replan_every": 2, "fidelity": {"steps": 1}}
    pixels = task.start(3).frames[-1]
    agent = MPCAgentConfig(**settings, screens=[{"survivors": 0}]).build(world, task)
    agent.reset({"pixels": pixels}, episode=0)
    agent.act({"pixels": pixels})
    assert agent.last is not None
    assert agent.last.rank_agreement is None
    assert [trace.hit.shape[-1] for trace in agent.last.traces] == [1]  # the plan that is followed, to compare with
    with pytest.raises(ConfigError, match="must see whole plans"):
        MPCAgentConfig(**settings, screens=[{"survivors": 0, "ticks": 2}]).build(world, task)


def test_without_a_fidelity_nothing_is_pictured_and_the_plan_is_the_same(world: World, task: PushT) -> None:
    settings: dict[str, Any] = {"horizon": 4, "rounds": 2, "candidates": 40, "elites": 6, "replan_every": 2}
    start = task.start(3)
    played = []
    for changes in ({"fidelity": None}, {"fidelity": {"steps": 1}, "screens": [{"survivors": 0}]}):
        agent = MPCAgentConfig(**settings, **changes).build(world, task)
        agent.reset({"pixels": start.frames[-1]}, episode=0)
        played.append([agent.act({"pixels": start.frames[-1]}) for _ in range(3)])
        assert agent.last is not None
        assert agent.last.reason == "schedule"
        assert (agent.last.error is None, agent.last.kept is None, not agent.last.traces) == (
            (True,) * 3 if changes["fidelity"] is None else (False,) * 3)
    np.testing.assert_array_equal(*played)


@pytest.mark.parametrize("changes", [{"screens": [{"survivors": 3}]}, {"error_bound": 0.5}, {"proposals": [8.0]}])
def test_what_needs_pictures_needs_a_fidelity(world: World, task: PushT, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="fidelity"):
        MPCAgentConfig(fidelity=None, **changes).build(world, task)


def test_chunks_are_planned_on_what_is_predicted(world: World, task: PushT) -> None:
    config = MPCConfig(horizon=4, rounds=2, candidates=4, elites=2, replan_every=2)
    source = PlannedChunks(world, JudgedConfig().build(world, task), config, efforts=[Effort(None, 40, elites=6)])
    pixels = task.start(3).frames[-1]
    source.reset({"pixels": pixels, "agent_pos": np.array([200.0, 200.0])})
    chunk = source.chunk({"pixels": pixels}, np.zeros((0, 2)))
    source.see({"pixels": pixels}, chunk[0])
    assert source.last is not None
    assert source.last.calls == 80
    assert source.errors == []
