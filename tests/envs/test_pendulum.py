"""A second task through the Task interface alone: one torque, 64 pixels, starts of three frames."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from tiny_worlds import save_world_of
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.paired import PairedTruth
from wcsim.envs.pendulum import UPRIGHT, Pendulum, PendulumTruth, tips
from wcsim.envs.tasks import play_exploration
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.errors import ConfigError, SnapshotError
from wcsim.spec import wrap_angle


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return save_world_of(Pendulum(), tmp_path_factory.mktemp("worlds") / "pendulum")


@pytest.fixture(scope="module")
def looks():
    truth = PendulumTruth()
    return [truth.restore((angle, 0.0)) for angle in np.linspace(-np.pi, np.pi, 40)]


def test_angles_are_read_from_pixels(looks):
    seen = Pendulum().estimate(np.array([look.pixels for look in looks]))
    angles = np.array([look.state[0] for look in looks])
    assert seen.shape_ok.all()
    assert np.degrees(np.abs(wrap_angle(seen.values["angle"][:, 0] - angles))).max() < 1.5
    np.testing.assert_allclose(seen.values["tip"], tips(angles), atol=3.0)
    clear = np.abs(np.abs(angles) - UPRIGHT) > 0.05
    np.testing.assert_array_equal(seen.success[clear], (np.abs(angles) < UPRIGHT)[clear])


def test_what_is_no_rod_is_not_found(looks):
    frames = np.array([np.full((64, 64, 3), 255), np.full((64, 64, 3), (204, 77, 77))], dtype=np.uint8)
    seen = Pendulum().estimate(frames)
    assert not seen.found["angle"].any()
    assert np.isnan(seen.values["tip"]).all()
    assert not seen.progress.any()
    doubled = np.minimum(looks[0].pixels, looks[12].pixels)
    assert not Pendulum().estimate(doubled[None]).shape_ok[0]


def test_a_snapshot_has_the_same_future():
    truth = PendulumTruth()
    with pytest.raises(SnapshotError, match="call reset"):
        truth.snapshot()
    truth.reset(3)
    snapshot = truth.snapshot()
    torques = np.random.default_rng(0).uniform(-2, 2, (5, 1))
    first = [truth.step(torque).state for torque in torques]
    truth.restore(snapshot)
    np.testing.assert_array_equal(first, [truth.step(torque).state for torque in torques])


def test_exploration_reaches_the_top():
    seen, actions = play_exploration(Pendulum(), seed=1, steps=200)
    assert min(abs(wrap_angle(frame.state[0])) for frame in seen) < UPRIGHT
    assert np.abs(actions).max() <= 2.0


def test_the_engine_takes_it_as_it_takes_any_task(world):
    env = ImaginedEnv("pendulum", world, fidelity={"steps": 4, "cache": "none"})
    observation, _ = env.reset(seed=2)
    assert observation["pixels"].shape == (64, 64, 3)
    assert int(env.state.length[0]) == 3
    vector = ImaginedVectorEnv(3, task="pendulum", world=world, fidelity={"steps": 4, "cache": "none"})
    vector.reset(seed=2)
    torque = np.array([[1.0], [-1.0], [0.5]], dtype=np.float32)
    seen = vector.step(torque)[0]
    np.testing.assert_array_equal(seen["pixels"][0], env.step(torque[0])[0]["pixels"])
    paired = PairedTruth(env, refresh_every=2)
    paired.reset(seed=2)
    assert [paired.step(torque[1])[4]["refreshed"] for _ in range(4)] == [False, True, False, True]
    paired.close()


def test_misuse_is_named(folder):
    with pytest.raises(ConfigError, match="max_episode_steps is 0"):
        Pendulum(max_episode_steps=0)
    with pytest.raises(ConfigError, match="asked for 'pendulum'"):
        ImaginedEnv("pendulum", folder)
    with pytest.raises(ValueError, match="uint8"):
        Pendulum().estimate(np.zeros((1, 96, 96, 3), np.uint8))
    assert isinstance(Pendulum().action_space, gym.spaces.Box)
