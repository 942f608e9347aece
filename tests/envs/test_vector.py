"""The vector environment is its single environments, lane by lane, in every autoreset mode and bit for bit."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import wcsim  # noqa: F401  registers the ids
from sameness import assert_same
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.pusht import PushT
from wcsim.envs.tasks import Start
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.errors import ActionError, ConfigError, SnapshotError

LANES = 5
SETTINGS = {"fidelity": {"steps": 6, "cache": {"preset": "worldcache", "threshold": 0.3}}, "max_episode_steps": 4}
MODES = [mode.value for mode in AutoresetMode]


@pytest.fixture
def endings(monkeypatch):
    """Success in every third picture or so, so that lanes end at times of their own."""
    estimate = PushT.estimate

    def estimate_by_sum(self, frames):
        return replace(estimate(self, frames), success=frames.astype(np.int64).sum((1, 2, 3)) % 3 == 0)

    monkeypatch.setattr(PushT, "estimate", estimate_by_sum)


def make(folder, **settings):
    return gym.make_vec("wcsim/PushT-v0", vectorization_mode="vector_entry_point",
                        **{"num_envs": LANES, "world": folder, **SETTINGS, **settings})


def make_oracle(folder, mode):
    return gym.make_vec("wcsim/PushT-v0", num_envs=LANES, vectorization_mode="sync", world=folder,
                        vector_kwargs={"autoreset_mode": mode}, disable_env_checker=True, **SETTINGS)


def actions(ticks, seed=0, lanes=LANES):
    return np.random.default_rng(seed).uniform(0, 512, (ticks, lanes, 2)).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
def test_it_is_sync_vector_env_in_every_mode(folder, endings, mode):
    env, oracle = make(folder, autoreset_mode=mode), make_oracle(folder, mode)
    assert env.metadata["autoreset_mode"] is AutoresetMode(mode)
    assert env.action_space == oracle.action_space
    assert env.observation_space == oracle.observation_space
    seeds = [3, 1, 4, 1, 5]
    assert_same(env.reset(seed=seeds), oracle.reset(seed=seeds))
    ended = np.zeros(LANES, dtype=bool)
    for action in actions(9):
        mine, theirs = env.step(action), oracle.step(action)
        assert_same(mine, theirs)
        over = mine[2] | mine[3]
        ended |= over
        if mode == "Disabled" and over.any():
            assert_same(env.reset(options={"reset_mask": over}), oracle.reset(options={"reset_mask": over.copy()}))
    assert ended.all()
    assert_same(env.reset(seed=7), oracle.reset(seed=7))


@pytest.mark.parametrize(("cache", "hold"), [("none", 0.0), ({"preset": "worldcache", "threshold": 0.3}, 0.0),
                                             ({"preset": "dicache"}, 0.0), ("none", 0.3),
                                             ({"preset": "worldcache", "threshold": 0.3}, 0.3)])  # fmt: skip
def test_an_episode_is_the_same_in_any_slot_of_any_batch(folder, cache, hold):
    assert_slots_agree(folder, cache, hold, threads=1)


def assert_slots_agree(folder, cache, hold, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        moves, seeds = actions(4), [3, 1, 4, 15, 9]
        settings = {"fidelity": {"steps": 6, "cache": cache, "context_refresh": hold}, "max_episode_steps": 99}
        whole = make(folder, **settings)
        expected = rollout(whole, seeds, moves)
        for lanes in ([0], [4, 2, 3]):
            part = make(folder, num_envs=len(lanes), **settings)
            seen = rollout(part, [seeds[lane] for lane in lanes], moves[:, lanes])
            for pictures, latents, expected_pictures, expected_latents in zip(*seen, *expected, strict=True):
                np.testing.assert_array_equal(pictures, expected_pictures[lanes])
                assert torch.equal(latents, expected_latents[lanes])
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("cache", "hold"), [("none", 0.0), ({"preset": "worldcache", "threshold": 0.5}, 0.0),
                                             ("wcsim", 0.3)])  # fmt: skip
def test_the_shipped_world_does_not_see_the_batch_either(cache, hold, threads):
    assert_slots_agree("pusht-96", cache, hold, threads)


def rollout(env, seeds, moves):
    env.reset(seed=seeds)
    pictures, latents = [], []
    for action in moves:
        pictures.append(env.step(action)[0]["pixels"])
        latents.append(torch.stack([single.last_latents for single in env.envs]))
    return pictures, latents


def test_a_lane_that_resets_costs_no_model_call(folder, endings):
    env = make(folder, max_episode_steps=1)
    env.reset(seed=0)
    env.step(actions(1)[0])
    timing = env.last_timing
    _, rewards, terminated, truncated, info = env.step(np.full((LANES, 2), np.nan))
    assert env.last_timing is timing  # nothing was imagined
    assert not rewards.any()
    assert not (terminated | truncated).any()
    assert info["_is_success"].all()


def test_infos_have_one_set_of_keys(folder):
    env = make(folder)
    _, first = env.reset(seed=0)
    for action in actions(6):
        assert env.step(action)[-1].keys() == first.keys()
    assert {key for key in first if not key.startswith("_")} == {key[1:] for key in first if key.startswith("_")}


def test_spec_and_attributes(folder):
    env = make(folder, autoreset_mode="SameStep")
    again = gym.make_vec(type(env.spec).from_json(env.spec.to_json()))
    assert isinstance(again, ImaginedVectorEnv)
    assert again.num_envs == LANES
    assert again.autoreset_mode is AutoresetMode.SAME_STEP
    assert env.call("_max_episode_steps") == (4,) * LANES
    assert env.get_attr("task_description")[0].startswith("Push the T")
    env.set_attr("note", list(range(LANES)))
    assert env.get_attr("note") == tuple(range(LANES))
    env.set_attr("note", "all")
    assert env.get_attr("note") == ("all",) * LANES
    with pytest.raises(ValueError, match="5 lanes need as many values, got 2"):
        env.set_attr("note", [1, 2])
    assert make(folder, num_envs=2).num_envs == 2
    env.reset(seed=0)
    assert env.render() == (None,) * LANES


def test_torch_outputs_are_the_same_numbers(folder):
    env, other = make(folder), make(folder, output="torch")
    plain, tensors = env.reset(seed=2)[0], other.reset(seed=2)[0]
    move = actions(1)[0]
    plain, tensors = env.step(move), other.step(torch.from_numpy(move))
    for key in ("pixels", "agent_pos"):
        np.testing.assert_array_equal(plain[0][key], tensors[0][key].numpy())
    for one, other in zip(plain[1:4], tensors[1:4], strict=True):
        assert torch.equal(torch.from_numpy(one), other)


def test_snapshots_of_lanes_go_into_any_lane(folder):
    env, single = make(folder, num_envs=3), ImaginedEnv("pusht", folder, fidelity=SETTINGS["fidelity"])
    env.reset(seed=5)
    env.step(actions(1, lanes=3)[0])
    snapshots = env.snapshot()
    move = actions(1, seed=1, lanes=3)[0]
    env.restore([snapshots[2]] * 3)
    together = env.step(np.repeat(move[:1], 3, axis=0))[0]["pixels"]
    single.reset(seed=0)
    single.restore(snapshots[2])
    alone = single.step(move[0])[0]["pixels"]
    for lane in range(3):
        np.testing.assert_array_equal(together[lane], alone)
    with pytest.raises(SnapshotError, match="3 lanes need as many snapshots, got 2"):
        env.restore(snapshots[:2])


def test_a_chunk_for_all_lanes_in_one_pass(folder):
    env, single = make(folder, num_envs=3), ImaginedEnv("pusht", folder, fidelity=SETTINGS["fidelity"])
    env.reset(seed=5)
    chunk = actions(3, lanes=3).swapaxes(0, 1)
    env.expect(chunk)
    seen = [env.step(chunk[:, tick])[0]["pixels"] for tick in range(3)]
    for lane in range(3):
        single.reset(seed=5 + lane)
        single.expect(chunk[lane])
        for tick in range(3):
            np.testing.assert_array_equal(single.step(chunk[lane, tick])[0]["pixels"], seen[tick][lane])


@pytest.mark.parametrize(("bad", "error", "words"), [
    (np.full((LANES, 2), np.nan), ActionError, "not finite"),
    (np.full((LANES, 2), 513.0), ActionError, "out of range"),
    (np.zeros((LANES, 3)), ActionError, r"shape \(5, 3\); this environment takes \(5, 2\)"),
    (np.zeros((2, 2)), ActionError, "this environment takes"),
    (np.zeros(2), ActionError, "this environment takes"),
    (np.full((LANES, 2), "left"), ActionError, "real numbers"),
    (np.zeros((LANES, 2), dtype=bool), ActionError, "dtype bool"),
])
def test_a_bad_action_disturbs_no_lane(folder, bad, error, words):
    env = make(folder)
    env.reset(seed=0)
    lanes = [single.lane for single in env.envs]
    with pytest.raises(error, match=words):
        env.step(bad)
    assert all(single.lane is lane for single, lane in zip(env.envs, lanes, strict=True))


@pytest.mark.parametrize(("seed", "options", "error", "words"), [
    ([1, 2], None, ValueError, "5 lanes need as many seeds, got 2"),
    ([1, 2, 3, 4, -5], None, gym.error.Error, "from 0 to 2"),
    (-1, None, gym.error.Error, "from 0 to 2"),
    (2**63 - LANES + 1, None, gym.error.Error, "got 9223372036854775808"),
    ([0, 1, 2, 3, 4.0], None, gym.error.Error, "got 4.0"),
    (None, {"reset_mask": [True] * LANES}, ConfigError, "numpy array of bool"),
    (None, {"reset_mask": np.ones(2, dtype=bool)}, ConfigError, r"shape \(5,\)"),
    (None, {"reset_mask": np.zeros(LANES, dtype=bool)}, ConfigError, "name a lane"),
    (None, {"reset_mask": np.ones(LANES)}, ConfigError, "float64"),
    (0, {"start": [None] * 4 + [Start(np.zeros((1, 64, 64, 3), np.uint8), np.zeros((0, 2)), None)]}, ConfigError,
     r"task 'pusht' begins with uint8 \(T >= 1, 96, 96, 3\)"),
    (0, {"start": Start(np.zeros((2, 96, 96, 3), np.uint8), np.zeros((0, 2)), None)}, ActionError, r"takes \(1, 2\)"),
])
def test_a_bad_reset_disturbs_no_lane(folder, seed, options, error, words):
    env = make(folder)
    env.reset(seed=0)
    before, given = env.snapshot(), None if options is None else dict(options)
    with pytest.raises(error, match=words):
        env.reset(seed=seed, options=options)
    for one, other in zip(before, env.snapshot(), strict=True):
        assert one.lane is other.lane
        assert one.generator == other.generator
    assert options is None or options.keys() == given.keys()


def test_misuse_is_named(folder, endings):
    env = make(folder, autoreset_mode="Disabled", max_episode_steps=1)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(actions(1)[0])
    with pytest.raises(gym.error.ResetNeeded, match="reset all first"):
        env.reset(options={"reset_mask": np.arange(LANES) == 1})
    env.reset(seed=0)
    env.step(actions(1)[0])
    with pytest.raises(gym.error.ResetNeeded, match=r"lanes \[0, 1, 2, 3, 4\] are over"):
        env.step(actions(1)[0])
    with pytest.raises(ConfigError, match="num_envs is 0"):
        make(folder, num_envs=0)
    with pytest.raises(ConfigError, match="output 'jax' is unknown"):
        make(folder, output="jax")
