"""A planner's parts as configuration: whose goal it pursues, and what several cameras make of an observation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from wcsim.agents.objectives import LatentGoal, StateGoal
from wcsim.cameras import Camera, Cameras
from wcsim.envs.base_task import BaseTask
from wcsim.envs.tasks import make_task
from wcsim.errors import ConfigError
from wcsim.estimate import Episode, Estimate, Goal
from wcsim.experiments.planning import LatentGoalConfig, MPCPolicyConfig, StateGoalConfig
from wcsim.experiments.policy_context import PolicyContext, frame_of, hold_of, observe_of
from wcsim.spec import Quantity, StateSpec
from wcsim.types import ActionSpec
from wcsim.world.world import World

PUSHT = make_task("pusht", start="near")


class Gripper(BaseTask):
    """Two cameras, and an action that is no position: nothing but the mosaic tells it."""

    name, description = "gripper", "Close the gripper."
    action = ActionSpec((-1.0,), (1.0,), ("close",), "1")
    state = StateSpec((Quantity("width", 1, "m", "scalar", "robot", low=0.0, high=0.1),
                       Quantity("lid", 1, "rad", "angle")))
    cameras = Cameras((Camera("front", 4, 6), Camera("wrist", 2, 2)))

    def hold_action(self, frame: np.ndarray) -> np.ndarray:
        assert frame.shape == (4, 8, 3)
        return np.array([frame.sum() / 3.0])

    def estimate(self, frames: np.ndarray) -> Estimate:
        found = frames[:, 0, 0, 0] > 0
        values = {"width": np.where(found[:, None], 0.05, np.nan), "lid": np.full((len(frames), 1), 0.3)}
        none = np.zeros(len(frames))
        return Estimate(values, {"width": found, "lid": none < 1}, none, none > 1, found)


@pytest.fixture(scope="module")
def world(folder: str) -> World:
    return World.load(folder)


def test_several_cameras_become_one_mosaic_for_whoever_holds() -> None:
    task, seen = Gripper(), {"pixels": {"front": np.ones((4, 6, 3), np.uint8), "wrist": np.zeros((2, 2, 3), np.uint8)}}
    assert frame_of(task)(seen).shape == (4, 8, 3)
    assert hold_of(task)(seen).tolist() == [72 / 3.0]
    thirds = {"pixels": {"front": np.full((4, 6, 3), 1, np.uint8), "wrist": np.full((2, 2, 3), 7, np.uint8)}}
    exact, rounded = hold_of(task)(thirds), hold_of(task, rounded=True)(thirds)
    assert exact.dtype == rounded.dtype == np.float64
    assert rounded == np.float32(exact)


def test_imagined_frames_are_observed_as_an_environment_does() -> None:
    task, frames = Gripper(), np.zeros((2, 4, 8, 3), np.uint8)
    frames[0] = 1
    seen = observe_of(task)(frames, {"agent_pos": np.array([[0.01], [0.02]], np.float32), "task": ["a", "b"]})
    assert seen["agent_pos"].tolist() == [[pytest.approx(0.05)], [pytest.approx(0.02)]]  # not found: as before
    assert seen["environment_state"].tolist() == [[0.3], [0.3]]
    assert seen["pixels"]["wrist"].shape == (2, 2, 2, 3)
    assert seen["task"] == ["a", "b"]


def test_the_objective_is_of_the_episodes_goal_or_the_tasks_own(world: World) -> None:
    other = Goal({"block": np.array([1.0, 2.0]), "block_angle": np.array([0.1]), "agent": np.array([3.0, 4.0])})
    config = StateGoalConfig(weights={"block_angle": 5.0}, reach=0.3)
    own, aimed = config.build(world, PUSHT), config.build(world, PUSHT, other)
    assert isinstance(own, StateGoal)
    assert isinstance(aimed, StateGoal)
    assert own.goal is PUSHT.goal
    assert aimed.goal is other
    assert (aimed.every, aimed.discount, aimed.reach, aimed.weights) == (2, 0.5, 0.3, {"block_angle": 5.0})
    with pytest.raises(ConfigError, match="needs a goal, and task 'gripper' has none"):
        config.build(world, Gripper())
    with pytest.raises(ConfigError, match="quantity 'lid' is unknown"):
        StateGoalConfig(weights={"lid": 1.0}).build(world, PUSHT)


def test_a_latent_goal_is_the_frame_of_that_very_goal(world: World) -> None:
    config, frame = LatentGoalConfig(), PUSHT.goal_frame()
    own = config.build(world, PUSHT)
    shown = config.build(world, PUSHT, Goal({}, 255 - frame))
    assert isinstance(own, LatentGoal)
    assert isinstance(shown, LatentGoal)
    assert torch.equal(own.goal, world.encode(frame[None])[0])
    assert torch.equal(shown.goal, world.encode(255 - frame[None])[0])
    told = config.build(world, PUSHT, PUSHT.goal)
    assert isinstance(told, LatentGoal)
    assert torch.equal(told.goal, own.goal)
    with pytest.raises(ConfigError, match="this goal has none"):
        config.build(world, PUSHT, Goal({"block": np.zeros(2)}))


def test_experts_are_imagined_as_ideas_and_need_frames(world: World) -> None:
    settings: dict[str, Any] = {"horizon": 2, "replan_every": 1, "rounds": 1, "candidates": 4, "elites": 1,
                                "std_fraction": 0.001}
    start = PUSHT.start(7)
    seen = {"pixels": start.frames[-1:], "agent_pos": np.array([[100.0, 100.0]], np.float32), "task": ["push"]}

    def acted(*proposals: float) -> np.ndarray:
        config = MPCPolicyConfig(**settings, fidelity={"steps": 1}, proposals=proposals)  # type: ignore[arg-type]
        policy = config.build(PolicyContext(PUSHT, lambda: world, 1))
        policy.reset(np.ones(1, bool), [Episode(0, 0, goal=PUSHT.goal)])
        action = policy.act(seen, 5)
        assert policy.reports[0] is not None
        assert policy.reports[0].calls == 4
        return action

    assert np.isfinite(acted(0.0, 10.0)).all()
    assert np.array_equal(acted(0.0, 10.0), acted(0.0, 10.0))
    with pytest.raises(ConfigError, match="give a fidelity instead of null"):
        MPCPolicyConfig(**settings, fidelity=None, proposals=(0.0,)).build(PolicyContext(PUSHT, lambda: world, 1))
