"""A task of one's own: three quantities, two cameras, a 3-D action, and nothing in the package knows its name."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from outside_task import BUTTON, Press
from sameness import assert_same
from tiny_worlds import save_world_of
from wcsim.envs.base_task import BaseTask
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.paired import PairedTruth
from wcsim.envs.recorder import Recorder
from wcsim.envs.snapshots import load_snapshots, save_snapshots
from wcsim.envs.tasks import Start, episode_of, make_task, play_exploration
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.envs.wrappers import chunk_difference
from wcsim.errors import ConfigError

FIDELITY = {"steps": 2, "cache": "none"}
NAME = "outside_task:Press"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return save_world_of(Press(), tmp_path_factory.mktemp("worlds") / "press")


def test_the_estimator_agrees_with_the_truth():
    task = make_task(NAME, patience=7)
    assert task.max_episode_steps == 7
    looks, actions = play_exploration(task, 1, 30)
    assert task.action_space.contains(actions[0].astype(np.float32))
    estimate = task.estimate(np.array([look.pixels for look in looks]))
    for number, look in enumerate(looks):
        errors = task.state.errors(estimate.select(number).values, look.estimate.values)
        assert errors["hand_px"][0] < 0.8
        assert errors["grip_1"][0] < 0.01
        assert errors["pressed_wrong"][0] == 0.0
    truth = task.make_truth()
    truth.restore((*BUTTON, 0.0, 0.0))
    pressed = truth.step(np.array([0.0, 0.0, 1.0]))
    assert pressed.estimate.success[0]
    assert task.estimate(pressed.pixels[None]).success[0]
    assert not looks[0].estimate.success[0]
    assert episode_of(task, task.start(3), number=0, seed=3).instruction == "Press the button."


def test_single_and_vector_are_the_same(world):
    env = gym.make("wcsim/World-v0", task=NAME, world=world, fidelity=FIDELITY, task_options={"patience": 3})
    vector = ImaginedVectorEnv(2, task=NAME, world=world, fidelity=FIDELITY, task_options={"patience": 3})
    one, all_lanes = env.reset(seed=6)[0], vector.reset(seed=5)[0]
    assert env.observation_space.contains(one)
    assert vector.observation_space.contains(all_lanes)
    rng = np.random.default_rng(0)
    for tick in range(3):
        actions = rng.uniform(env.action_space.low, env.action_space.high, (2, 3)).astype(np.float32)
        seen, *_, truncated, info = env.step(actions[1])
        lanes = vector.step(actions)
        for camera, view in seen["pixels"].items():
            np.testing.assert_array_equal(view, lanes[0]["pixels"][camera][1])
        np.testing.assert_array_equal(seen["agent_pos"], lanes[0]["agent_pos"][1])
        assert truncated is (tick == 2), "after the task's own number of steps"
    assert {"hand", "hand_found", "grip", "pressed", "progress", "is_success", "shape_ok"} <= info.keys()


def test_everything_around_an_environment_takes_it(world, tmp_path):
    env = ImaginedEnv(NAME, world, fidelity=FIDELITY, render_mode="rgb_array_list")
    paired = PairedTruth(env, refresh_every=2, estimate_error={"hand_px": 4.0}, on_alarm="refresh")
    recorded = Recorder(paired, str(tmp_path / "videos"))
    recorded.reset(seed=1)
    action = np.array([1.0, 1.0, 0.5], np.float32)
    info = recorded.step(action)[4]
    assert {"hand_px", "grip_1", "pressed_wrong", "truth_progress"} <= info.keys()
    assert paired.strip_metric == "pressed_wrong"
    snapshot = paired.snapshot()
    future = [recorded.step(action) for _ in range(2)]
    paired.restore(snapshot)
    for expected in future:
        assert_same(paired.step(action), expected)
    save_snapshots(tmp_path / "kept", [snapshot.imagined])
    env.restore(load_snapshots(tmp_path / "kept")[0])
    np.testing.assert_array_equal(env.step(action)[0]["pixels"]["front"], future[0][0]["pixels"]["front"])
    assert chunk_difference(env, np.stack([action] * 2)).keys() == {"psnr_db", *env.played.state.metrics}
    recorded.close()
    assert len(list((tmp_path / "videos").iterdir())) == 1


def test_an_instruction_and_a_goal_belong_to_the_episode(world):
    env = ImaginedEnv(NAME, world, fidelity=FIDELITY)
    assert env.task_description == "Press the button."
    start = env.played.start(1)
    told = Start(start.frames, start.actions, start.truth, instruction="Press it twice.")
    env.reset(seed=1, options={"start": told})
    assert env.task_description == "Press it twice."
    assert episode_of(env.played, told, number=2, seed=1).instruction == "Press it twice."
    env.reset(seed=1)
    assert env.task_description == "Press the button."


class Nothing:
    """Not a task."""


class Bare(BaseTask):
    """A task that says no more than it must."""

    name, description, action, state, cameras = "bare", "Do.", Press.action, Press.state, Press.cameras


def test_misuse_is_named(world, folder):
    with pytest.raises(ConfigError, match="'test_outside_task:Nothing' is no task: it lacks name"):
        make_task("test_outside_task:Nothing")
    with pytest.raises(ConfigError, match="cannot be loaded from 'outside_task:Push'"):
        make_task("outside_task:Push")
    with pytest.raises(ConfigError, match="has no option 'speed'; known: patience"):
        make_task(NAME, speed=1)
    with pytest.raises(ConfigError, match="world 'tiny' imagines task 'pusht' .* asked for 'press'"):
        ImaginedEnv(NAME, folder)
    bare = Bare()
    with pytest.raises(ConfigError, match="task 'bare' has no simulator"):
        bare.start(0)
    with pytest.raises(ConfigError, match="task 'bare' has no frame of its goal"):
        bare.goal_frame()
    with pytest.raises(ValueError, match=r"the estimator of task 'bare' reads uint8 \[N, 32, 48, 3\]"):
        bare.estimate(np.zeros((1, 32, 32, 3), np.uint8))
    found = bare.estimate(np.zeros((2, 32, 48, 3), np.uint8))
    assert np.isnan(found.values["hand"]).all()
    np.testing.assert_array_equal(bare.hold_action(np.zeros((32, 48, 3), np.uint8)), [0.0, 0.0, 0.5])
    assert not bare.files()
