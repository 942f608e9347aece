"""Whoever writes into an array that an environment gave or was given changes nothing inside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sameness import assert_same
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.paired import PairedTruth
from wcsim.envs.tasks import Start
from wcsim.envs.vector import ImaginedVectorEnv

FIDELITY = {"steps": 4, "cache": {"preset": "worldcache", "threshold": 0.3}}
MOVES = np.random.default_rng(0).uniform(0, 512, (6, 2)).astype(np.float32)


@pytest.fixture
def env(folder):
    env = ImaginedEnv("pusht", folder, fidelity=FIDELITY, render_mode="rgb_array_list")
    env.reset(seed=3)
    env.step(MOVES[0])
    return env


def future(env):
    return [env.step(move) for move in MOVES[1:3]]


def spoil(*values):
    """Write over arrays and tensors, as far as they let themselves be written to."""
    for value in values:
        if isinstance(value, np.ndarray) and not value.flags.writeable:
            continue
        value[...] = 0


def test_what_is_handed_out(env):
    snapshot = env.snapshot()
    expected = future(env)
    env.restore(snapshot)
    env.expect(MOVES[1:3], together=False)
    observation, *_, info = env.step(MOVES[1])
    assert_same(observation, expected[0][0])
    within = env.snapshot()
    spoil(observation["pixels"], observation["agent_pos"], info["block"], *env.render(), env.last_latents,
          snapshot.pixels, within.pixels, env.lane.pixels, env.lane.robot, *env.last_estimate.values.values(),
          env.last_trace.hit, *snapshot.state.tensors().values(), *env.state.tensors().values(), env.start.frames)
    assert_same(env.step(MOVES[2])[0], expected[1][0])
    for kept, first in ((snapshot, 0), (within, 1)):
        env.restore(kept)
        spoil(env.panels()[0]["cached"][0])
        assert_same(env.step(MOVES[1 + first])[0], expected[first][0])


def test_one_frame_is_rendered_as_a_copy(folder):
    env = ImaginedEnv("pusht", folder, fidelity=FIDELITY, render_mode="rgb_array")
    env.reset(seed=3)
    env.render()[...] = 0
    assert env.render().any()


def test_what_is_handed_in(env):
    start = env.played.start(5)
    frames, actions = np.repeat(start.frames, 2, axis=0), MOVES[:1].copy()
    mine = Start(frames, actions, start.truth)
    expected, _ = env.reset(seed=1, options={"start": mine})
    snapshot = env.snapshot()
    path = future(env)
    env.restore(snapshot)
    spoil(frames, actions)
    assert_same(env.restore(snapshot), expected)
    assert_same([env.step(move) for move in MOVES[1:3]][1], path[1])
    assert env.start.frames.any()


def test_both_sides_of_a_pair(folder):
    env = PairedTruth(ImaginedEnv("pusht", folder, fidelity=FIDELITY), refresh_every=2)
    env.reset(seed=3)
    start = env.snapshot()
    expected = [env.step(move) for move in MOVES[:3]]
    env.restore(start)
    for move, (observation, *_) in zip(MOVES[:3], expected, strict=True):
        action = move.copy()
        seen = env.step(action)[0]
        assert_same(seen, observation)
        snapshot = env.snapshot()
        spoil(action, env.true_frame.pixels, *snapshot.frames, *snapshot.actions, env.unwrapped.start.frames)
        spoil(*(frame for frames in env.panels()[0].values() for frame in frames))
    env.close()


@pytest.mark.parametrize("view", [
    lambda frames: frames[:, ::-1], lambda frames: frames[:, :, ::-1], lambda frames: frames[..., ::-1],
    lambda frames: frames.swapaxes(1, 2), lambda frames: np.asfortranarray(frames),
])
def test_views_of_frames_are_frames(folder, view):
    env = ImaginedEnv("pusht", folder, fidelity=FIDELITY)
    start = env.played.start(5)
    frames = view(start.frames)
    frames.setflags(write=False)
    plain = replace(start, frames=np.ascontiguousarray(frames))
    expected = env.reset(seed=1, options={"start": plain})
    assert_same(env.reset(seed=1, options={"start": replace(start, frames=frames)}), expected)
    seen = env.step(MOVES[0])
    env.anchor(frames, start.actions)
    after = env.step(MOVES[1])
    env.reset(seed=1, options={"start": plain})
    assert_same(env.step(MOVES[0]), seen)
    env.anchor(plain.frames, start.actions)
    assert_same(env.step(MOVES[1]), after)
    estimate, same = env.played.estimate(frames), env.played.estimate(plain.frames)
    assert_same(estimate.values, same.values)


def test_seeds_of_numpy_are_seeds(folder):
    env = ImaginedEnv("pusht", folder, fidelity=FIDELITY)
    assert_same(env.reset(seed=np.int64(3)), env.reset(seed=3))
    assert env.np_random_seed == 3
    env.reset(seed=2**63 - 1)
    vector = ImaginedVectorEnv(2, task="pusht", world=folder, fidelity=FIDELITY)
    for seeds in (np.int32(3), np.array([3, 4]), [np.uint8(3), 4], (3, None)):
        observation = vector.reset(seed=seeds)[0]
        np.testing.assert_array_equal(observation["pixels"][0], env.reset(seed=3)[0]["pixels"])


def test_the_rate_of_a_video_is_whole_where_it_can_be(env):
    assert type(env.metadata["render_fps"]) is int
    assert env.metadata["render_fps"] == 10
