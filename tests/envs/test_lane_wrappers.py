"""Wrappers of single environments around every lane: what they say is what they say alone, from one forward pass."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import wcsim  # noqa: F401  registers the ids
from sameness import assert_same
from wcsim.envs.paired import PairedTruth
from wcsim.envs.pusht import PushT
from wcsim.envs.recorder import Recorder
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.envs.wrappers import ChunkAction
from wcsim.errors import ActionError, ConfigError, SnapshotError
from wcsim.world.world import World

LANES, TICKS = 3, 2
SETTINGS = {"fidelity": {"steps": 4, "cache": {"preset": "worldcache", "threshold": 0.3}}, "max_episode_steps": 5}
PAIRED = ["wcsim.envs.paired:PairedTruth", {"refresh_every": 3}]
CHUNK = ["wcsim.envs.wrappers:ChunkAction", {"ticks": TICKS}]


def make(folder, *wrappers, **settings):
    return gym.make_vec("wcsim/PushT-v0", num_envs=LANES, vectorization_mode="vector_entry_point", world=folder,
                        lane_wrappers=list(wrappers), **{**SETTINGS, **settings})


def actions(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 512, (*shape, 2)).astype(np.float32)


@pytest.fixture
def passes(monkeypatch):
    """Forward passes so far, each by its lanes and frames."""
    advance, seen = World.advance, []

    def counted(self, state, actions, fidelity):
        seen.append(actions.shape[:2])
        return advance(self, state, actions, fidelity)

    monkeypatch.setattr(World, "advance", counted)
    return seen


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.filterwarnings("ignore:cache .* skipped nothing")
def test_paired_lanes_of_chunks_are_those_of_sync_vector_env(folder, mode):
    env = make(folder, PAIRED, CHUNK, autoreset_mode=mode)
    oracle = gym.make_vec(
        "wcsim/PushT-v0", num_envs=LANES, vectorization_mode="sync", world=folder, disable_env_checker=True,
        wrappers=[lambda single: ChunkAction(PairedTruth(single, refresh_every=3), TICKS)],
        vector_kwargs={"autoreset_mode": mode}, **SETTINGS)
    assert env.single_action_space == oracle.single_action_space
    assert env.action_space == oracle.action_space
    assert_same(env.reset(seed=4), oracle.reset(seed=4))
    for chunk in actions(5, LANES, TICKS):
        assert_same(env.step(chunk), oracle.step(chunk))
    env.close()
    oracle.close()


def test_all_lanes_share_a_pass(folder, passes):
    env = make(folder, "wcsim.envs.paired:PairedTruth")
    env.reset(seed=0)
    *_, info = env.step(actions(LANES))
    assert passes == [(LANES, 1)]
    assert {"psnr_db", "truth_progress", "since_refresh"} <= info.keys()
    passes.clear()
    chunked = make(folder, CHUNK)
    chunked.reset(seed=0)
    *_, info = chunked.step(actions(LANES, TICKS))
    assert passes == [(LANES, TICKS)]
    assert info["rewards"].shape == (LANES, TICKS)
    env.close()


def test_all_lanes_share_a_call_of_the_estimator(folder, monkeypatch):
    estimate, seen = PushT.estimate, []

    def counted(self, frames):
        seen.append(len(frames))
        return estimate(self, frames)

    plain, chunked = make(folder), make(folder, CHUNK)
    plain.reset(seed=0)
    chunked.reset(seed=0)
    monkeypatch.setattr(PushT, "estimate", counted)
    plain.step(actions(LANES))
    chunked.step(actions(LANES, TICKS))
    assert seen == [LANES, LANES * TICKS]


def test_tick_by_tick_a_chunk_is_single_steps(folder, passes):
    apart = make(folder, [CHUNK[0], {"ticks": TICKS, "together": False}])
    plain = make(folder)
    apart.reset(seed=3)
    plain.reset(seed=3)
    chunk = actions(LANES, TICKS)
    chunked, *_, info = apart.step(chunk)
    assert len(passes) == 1
    for tick in range(TICKS):
        observation, rewards, _, _, told = plain.step(chunk[:, tick])
        np.testing.assert_array_equal(info["rewards"][:, tick], rewards)
    for key in ("hit_rate", "skipped", "block", "is_success"):
        assert_same(told[key], info[key])
    assert_same(observation, chunked)


def test_every_lane_is_recorded(folder, tmp_path):
    env = make(folder, lambda single: Recorder(single, str(tmp_path)), render_mode="rgb_array_list")
    env.reset(seed=0)
    env.step(actions(LANES))
    env.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"lane_0{n}_episode_0000.mp4" for n in range(LANES)]


def test_wrappers_may_change_observations(folder):
    def shown(single):
        pixels = single.observation_space["pixels"]
        return gym.wrappers.TransformObservation(single, lambda observation: observation["pixels"], pixels)

    env = make(folder, shown, ["gymnasium.wrappers:ResizeObservation", {"shape": (48, 48)}])
    observation, _ = env.reset(seed=0)
    assert observation.shape == (LANES, 48, 48, 3)
    assert env.observation_space.contains(env.step(actions(LANES))[0])
    with pytest.raises(SnapshotError, match="wrappers change what these lanes observe"):
        env.restore(env.snapshot())


def test_lanes_with_a_truth_return_to_snapshots(folder):
    env = make(folder, PAIRED)
    env.reset(seed=2)
    moves = actions(5, LANES)
    env.step(moves[0])
    snapshots = env.snapshot()
    future = [env.step(move) for move in moves[1:]]
    env.restore(snapshots)
    for expected, move in zip(future, moves[1:], strict=True):
        assert_same(env.step(move), expected)
    with pytest.raises(SnapshotError, match="a paired rollout returns to a PairedSnapshot"):
        env.restore([single.snapshot() for single in env.envs])
    with pytest.raises(SnapshotError, match="an environment returns to an EnvSnapshot, got PairedSnapshot"):
        env.envs[0].restore(snapshots[0])
    env.close()


def test_a_spec_with_lane_wrappers_round_trips(folder):
    env = make(folder, PAIRED, CHUNK)
    again = gym.make_vec(type(env.spec).from_json(env.spec.to_json()))
    assert isinstance(again, ImaginedVectorEnv)
    assert isinstance(again.lanes[1], ChunkAction)
    assert again.lanes[1].env.refresh_every == 3
    again.close()
    env.close()


def test_torch_outputs_go_all_the_way_down(folder):
    env, plain = make(folder, output="torch", autoreset_mode="SameStep", max_episode_steps=1), make(
        folder, autoreset_mode="SameStep", max_episode_steps=1)
    assert env.metadata["torch"]
    assert isinstance(env.reset(seed=1)[1]["progress"], torch.Tensor)
    plain.reset(seed=1)
    move = actions(LANES)
    info, numbers = env.step(torch.from_numpy(move))[-1], plain.step(move)[-1]
    assert info.keys() == numbers.keys()
    assert torch.equal(info["final_info"]["progress"], torch.from_numpy(numbers["final_info"]["progress"]))
    assert torch.equal(info["final_obs"][0]["pixels"], torch.from_numpy(numbers["final_obs"][0]["pixels"]))


def test_misuse_is_named(folder):
    with pytest.raises(ConfigError, match="lane_wrappers: 'wcsim.envs.paired:Twin' cannot be loaded"):
        make(folder, "wcsim.envs.paired:Twin")
    with pytest.raises(ConfigError, match="lane_wrappers make the action space"):
        make(folder, lambda single: gym.wrappers.TransformAction(
            single, lambda action: 512 * action, gym.spaces.Box(0, 1, (2,), np.float32)))
    env = make(folder, CHUNK)
    env.reset(seed=0)
    lanes = [single.lane for single in env.envs]
    with pytest.raises(ActionError, match=r"takes \(3, 2, 2\)"):
        env.step(actions(LANES))
    assert all(single.lane is lane for single, lane in zip(env.envs, lanes, strict=True))


def test_lanes_say_what_they_are(folder):
    env = make(folder, ["gymnasium.wrappers:TimeAwareObservation", {"flatten": False, "normalize_time": False}])
    observation, _ = env.reset(seed=0)
    assert observation["time"].tolist() == [[0]] * LANES
    assert env.step(actions(LANES))[0]["time"].tolist() == [[1]] * LANES
    assert env.single_observation_space["time"].high == SETTINGS["max_episode_steps"]
    single = gym.make(env.envs[1].spec)
    assert_same(single.reset(seed=1)[0]["pixels"], observation["pixels"][1])
    assert single.spec.max_episode_steps == SETTINGS["max_episode_steps"]


def test_tensors_are_what_learners_on_tensors_take(folder):
    env = make(folder, output="torch")
    env.reset(seed=0)
    _, reward, terminated, truncated, _ = env.step(torch.from_numpy(actions(LANES)))
    assert (reward.dtype, terminated.dtype, truncated.dtype) == (torch.float32, torch.bool, torch.bool)


def rewarding(reward):
    return lambda single: gym.wrappers.TransformReward(single, reward)


def test_a_wrappers_reward_may_be_an_array_of_one_number(folder):
    moves = actions(LANES)
    env, plain = make(folder, rewarding(lambda value: np.array([2 * value], np.float32)), CHUNK), make(folder, CHUNK)
    env.reset(seed=0)
    plain.reset(seed=0)
    chunk = actions(LANES, TICKS)
    np.testing.assert_allclose(env.step(chunk)[1], 2 * plain.step(chunk)[1], rtol=1e-6)
    env, plain = make(folder, rewarding(lambda value: np.array([2 * value]))), make(folder)
    env.reset(seed=0)
    plain.reset(seed=0)
    assert_same(env.step(moves)[1], 2 * plain.step(moves)[1])
    env = make(folder, rewarding(lambda value: np.zeros(2)))
    env.reset(seed=0)
    with pytest.raises(TypeError, match=r"a wrapper must give one number as the reward, got array\(\[0., 0.\]\)"):
        env.step(moves)
