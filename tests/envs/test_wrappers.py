"""Our wrappers, and Gymnasium's own around the imagined environment."""

from __future__ import annotations

from dataclasses import replace

import cv2
import gymnasium as gym
import numpy as np
import pytest

import wcsim  # noqa: F401  registers the ids
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.paired import PairedTruth
from wcsim.envs.pusht import PushT
from wcsim.envs.recorder import Recorder
from wcsim.envs.wrappers import ChunkAction, chunk_difference
from wcsim.errors import ActionError, ConfigError

TICKS = 3
FIDELITY = {"steps": 2, "cache": "none"}


def make(folder, **settings):
    return gym.make("wcsim/PushT-v0", disable_env_checker=True, world=folder, fidelity=FIDELITY, **settings)


def actions(count, seed=0):
    return np.random.default_rng(seed).uniform(0, 512, (count, 2)).astype(np.float32)


def test_a_chunk_is_its_ticks(folder):
    env, plain = ChunkAction(make(folder), TICKS), make(folder)
    assert env.action_space.shape == (TICKS, 2)
    env.reset(seed=1)
    plain.reset(seed=1)
    chunk = actions(TICKS)
    plain.unwrapped.expect(chunk)
    rewards = [plain.step(action)[1] for action in chunk]
    observation, reward, terminated, truncated, info = env.step(chunk)
    assert (terminated, truncated, info["ticks"]) == (False, False, TICKS)
    np.testing.assert_array_equal(info["rewards"], rewards)
    assert reward == pytest.approx(sum(rewards))
    np.testing.assert_array_equal(observation["pixels"], plain.unwrapped.lane.pixels)


def test_apart_from_together_it_is_single_steps_bit_for_bit(folder):
    env, plain = ChunkAction(make(folder), TICKS, together=False), make(folder)
    env.reset(seed=1)
    plain.reset(seed=1)
    chunk = actions(TICKS)
    for action in chunk:
        expected = plain.step(action)[0]["pixels"]
    np.testing.assert_array_equal(env.step(chunk)[0]["pixels"], expected)


def test_it_stops_at_the_first_success(folder, monkeypatch):
    env = ChunkAction(make(folder), TICKS)
    env.reset(seed=1)
    estimate = PushT.estimate

    def second_of_chunk(self, frames):
        return replace(estimate(self, frames), success=np.arange(len(frames)) == 1)

    monkeypatch.setattr(PushT, "estimate", second_of_chunk)
    _, _, terminated, _, info = env.step(actions(TICKS))
    assert terminated
    assert info["ticks"] == 2
    assert info["rewards"][2] == 0.0
    assert info.keys() == env.reset(seed=2)[1].keys()
    state = env.unwrapped.state
    assert int(state.frame[0]) == 0


def test_it_stops_at_the_time_limit(folder):
    env = ChunkAction(make(folder, max_episode_steps=4), TICKS)
    env.reset(seed=1)
    env.step(actions(TICKS))
    _, _, _, truncated, info = env.step(actions(TICKS))
    assert truncated
    assert info["ticks"] == 1


def test_within_a_chunk_the_state_is_that_of_the_frame_on_show(folder):
    env = make(folder).unwrapped
    env.reset(seed=1)
    chunk = actions(TICKS)
    env.expect(chunk)
    env.step(chunk[0])
    state = env.state
    assert int(state.frame[0]) == 1
    np.testing.assert_array_equal(state.latents[0, -1], env.last_latents)
    snapshot, other = env.snapshot(), actions(1, seed=9)[0]
    turned = env.step(other)[0]["pixels"]  # another action than announced
    env.restore(snapshot)
    np.testing.assert_array_equal(env.step(chunk[1])[0]["pixels"], snapshot.lane.ahead.frames[1])
    env.restore(snapshot)
    np.testing.assert_array_equal(env.step(other)[0]["pixels"], turned)


def test_a_bad_chunk_moves_nothing(folder):
    env = ChunkAction(make(folder), TICKS)
    env.reset(seed=1)
    lane = env.unwrapped.lane
    bad = actions(TICKS)
    bad[-1, 0] = np.nan
    for action, words in ((bad, "not finite"), (actions(2), r"takes \(3, 2\)"), (actions(TICKS) + 600, "out of range")):
        with pytest.raises(ActionError, match=words):
            env.step(action)
    assert env.unwrapped.lane is lane
    with pytest.raises(ConfigError, match="ticks is 0"):
        ChunkAction(make(folder), 0)
    with pytest.raises(ConfigError, match="needs an ImaginedEnv inside"):
        PairedTruth(gym.make("CartPole-v1"))


def test_the_difference_between_chunked_and_single_is_reported(folder):
    env = make(folder).unwrapped
    env.reset(seed=1)
    told = chunk_difference(env, actions(TICKS))
    assert told["psnr_db"].shape == told["block_angle_deg"].shape == (TICKS,)
    assert np.isfinite(told["psnr_db"]).all()
    assert env.elapsed == 0


def frames_of(path):
    """How many frames a video has, and how many a second."""
    video = cv2.VideoCapture(str(path))
    return int(video.get(cv2.CAP_PROP_FRAME_COUNT)), video.get(cv2.CAP_PROP_FPS)


def test_a_recorder_keeps_every_frame_of_a_chunk(folder, tmp_path):
    inner = PairedTruth(make(folder, render_mode="rgb_array_list"))
    env = Recorder(ChunkAction(inner, TICKS), str(tmp_path))
    for _ in range(2):
        env.reset(seed=1)
        env.step(actions(TICKS))
        env.step(actions(TICKS))
    env.close()
    videos = sorted(tmp_path.iterdir())
    assert [path.name for path in videos] == ["episode_0000.mp4", "episode_0001.mp4"]
    assert frames_of(videos[0]) == (1 + 2 * TICKS, 10.0)


def test_a_recorder_of_the_imagination_alone(folder, tmp_path):
    env = Recorder(make(folder, render_mode="rgb_array_list"), str(tmp_path))
    env.reset(seed=1)
    env.step(actions(1)[0])
    path = env.write()
    assert frames_of(path) == (2, 10.0)
    assert env.write() is None
    with pytest.raises(ConfigError, match="needs render_mode 'rgb_array_list'"):
        Recorder(make(folder), str(tmp_path))


def test_gymnasiums_own_wrappers(folder):
    env = gym.wrappers.RecordEpisodeStatistics(make(folder, max_episode_steps=3))
    env = gym.wrappers.TransformReward(env, lambda reward: 2 * reward)
    pixels = env.observation_space["pixels"]
    env = gym.wrappers.TransformObservation(env, lambda observation: observation["pixels"], pixels)
    env = gym.wrappers.FrameStackObservation(gym.wrappers.ResizeObservation(env, (48, 48)), 2)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (2, 48, 48, 3)
    for action in actions(3):
        observation, _, _, truncated, info = env.step(action)
    assert truncated
    assert info["episode"]["l"] == 3
    assert env.observation_space.contains(observation)


def test_wrappers_of_one_array_take_frames_alone(folder):
    env = gym.wrappers.GrayscaleObservation(make(folder, obs_type="pixels"))
    env = gym.wrappers.ResizeObservation(env, (48, 48))
    assert env.reset(seed=0)[0].shape == (48, 48)
    assert env.observation_space.contains(env.step(actions(1)[0])[0])
    with pytest.raises((AssertionError, TypeError)):  # by the release of Gymnasium
        gym.wrappers.ResizeObservation(make(folder), (48, 48))


def test_gymnasiums_vector_wrappers(folder):
    env = gym.make_vec("wcsim/PushT-v0", num_envs=2, world=folder, fidelity=FIDELITY, max_episode_steps=2)
    env = gym.wrappers.vector.RecordEpisodeStatistics(env)
    env.reset(seed=0)
    for action in actions(2):
        *_, info = env.step(np.stack([action, action]))
    assert info["episode"]["l"].tolist() == [2, 2]


def test_specs_with_our_wrappers_round_trip(folder, tmp_path):
    env = make(folder, render_mode="rgb_array_list")
    env = Recorder(ChunkAction(PairedTruth(env, refresh_every=3, on_alarm="refresh"), TICKS), str(tmp_path))
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again, Recorder)
    assert isinstance(again.env, ChunkAction)
    assert again.env.env.refresh_every == 3
    assert isinstance(again.unwrapped, ImaginedEnv)
