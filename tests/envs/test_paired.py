"""Imagined beside truth: in lock-step, and set upon true frames when asked or when a guard says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sameness import assert_same
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.paired import Guard, PairedTruth
from wcsim.envs.tasks import Start
from wcsim.errors import ConfigError

FIDELITY = {"steps": 6, "cache": {"preset": "worldcache", "threshold": 0.3}}


def paired(folder, **settings):
    return PairedTruth(ImaginedEnv("pusht", folder, fidelity=FIDELITY), **settings)


def actions(count, seed=0):
    return np.random.default_rng(seed).uniform(0, 512, (count, 2)).astype(np.float32)


def play(env, moves):
    return [env.step(move) for move in moves]


def test_both_play_the_same_actions(folder):
    env, alone = paired(folder), ImaginedEnv("pusht", folder, fidelity=FIDELITY)
    env.reset(seed=1)
    alone.reset(seed=1)
    truth = alone.played.make_truth()
    truth.restore(alone.start.truth)
    for action in actions(3):
        observation, *_, info = env.step(action)
        np.testing.assert_array_equal(observation["pixels"], alone.step(action)[0]["pixels"])
        np.testing.assert_array_equal(env.true_frame.pixels, truth.step(action).pixels)
        assert info["truth_progress"] == truth.look().coverage
    assert info.keys() == env.reset(seed=2)[1].keys()
    truth.close()
    env.close()


def test_a_refresh_puts_true_frames_into_the_context(folder):
    env = paired(folder, refresh_every=5)
    env.reset(seed=1)
    told = [env.step(action)[4] for action in actions(6)]
    assert [info["refreshed"] for info in told] == [False] * 4 + [True, False]
    assert [info["since_refresh"] for info in told] == [1, 2, 3, 4, 5, 1]
    env.reset(seed=1)
    seen = [env.true_frame.pixels]
    for action in actions(5):
        before = env.unwrapped.state if len(seen) == 5 else None
        env.step(action)
        seen.append(env.true_frame.pixels)
    state, world = env.unwrapped.state, env.unwrapped.world
    assert before is not None
    assert state.frame.tolist() == [5]  # the noise goes on where it was
    assert torch.equal(state.seed, before.seed)
    torch.testing.assert_close(state.latents[0], world.encode(np.array(seen[-4:])), atol=1e-5, rtol=1e-4)
    assert state.known[0].tolist() == [False, True, True, True]
    env.close()


def bounds(name):
    return {"estimate_error": {name: 0.0}} if name.endswith("px") else {name: 0.0}


@pytest.mark.parametrize("bound", ["latent_drift", "cache_drift", "agent_px"])
def test_a_guard_can_refresh_truncate_or_warn(folder, bound):
    moves = actions(3)
    env = paired(folder, on_alarm="refresh", **bounds(bound))
    env.reset(seed=1)
    told = [env.step(move)[4] for move in moves]
    assert any(info["refreshed"] for info in told)
    assert [info["refreshed"] for info in told] == [info["alarm"] for info in told]
    env.close()

    env = paired(folder, on_alarm="truncate", **bounds(bound))
    env.reset(seed=1)
    assert any(env.step(move)[3] for move in moves)
    env.close()

    env = paired(folder, **bounds(bound))
    env.reset(seed=1)
    with pytest.warns(UserWarning, match=f"the imagination is off: {bound} .* is over 0"):
        play(env, moves)
    env.close()


def test_guards_take_no_nan_for_an_answer():
    guard = Guard(latent_drift=0.5, estimate_error={"agent_px": 20.0})
    assert guard.alarms({"latent_drift": 0.1, "cache_drift": 9.0, "agent_px": 3.0}) == []
    assert guard.alarms({"latent_drift": float("nan"), "cache_drift": 0.0, "agent_px": float("inf")}) == [
        "latent_drift nan is over 0.5", "agent_px inf is over 20"]


def test_misuse_is_named(folder):
    with pytest.raises(ConfigError, match="on_alarm 'panic' is unknown; known: warn, truncate, refresh"):
        paired(folder, on_alarm="panic")
    with pytest.raises(ConfigError, match="refresh_every is 0"):
        paired(folder, refresh_every=0)
    with pytest.raises(ConfigError, match="estimate_error of cube_cm is unknown; known: agent_px, block_px"):
        paired(folder, estimate_error={"cube_cm": 1.0})
    env = paired(folder)
    env.reset(seed=1)
    lane = env.unwrapped.lane
    with pytest.raises(ConfigError, match="has no truth"):
        env.reset(options={"start": Start(np.zeros((1, 96, 96, 3), np.uint8), np.zeros((0, 2)), None)})
    assert env.unwrapped.lane is lane
    env.close()


def test_a_restored_pair_has_the_same_future_on_both_sides(folder):
    env, moves = paired(folder, refresh_every=3), actions(6)
    env.reset(seed=1)
    play(env, moves[:2])
    snapshot = env.snapshot()
    future = play(env, moves[2:])
    for other in (env, paired(folder, refresh_every=3)):
        other.reset(seed=9)
        other.restore(snapshot)
        for expected, move in zip(future, moves[2:], strict=True):
            assert_same(other.step(move), expected)
        np.testing.assert_array_equal(other.true_frame.state, env.true_frame.state)
        other.close()
