"""The imagined environment keeps Gymnasium's contract, and its snapshots are complete."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import wcsim  # noqa: F401  registers the ids
from wcsim.envs.imagined import ImaginedEnv
from wcsim.errors import ActionError, CheckpointError, ConfigError, SnapshotError

CACHE = {"preset": "worldcache", "threshold": 0.3}
FAST = {"steps": 2, "cache": "none"}


@pytest.fixture
def env(folder):
    return ImaginedEnv("pusht", folder, fidelity={"steps": 6, "cache": CACHE}, render_mode="rgb_array_list")


def actions(count, seed=0):
    return np.random.default_rng(seed).uniform(0, 512, (count, 2)).astype(np.float32)


def play(env, moves):
    return [env.step(move) for move in moves]


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left[0]["pixels"], right[0]["pixels"])
        np.testing.assert_array_equal(left[0]["agent_pos"], right[0]["agent_pos"])
        assert left[1:4] == right[1:4]


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space")  # PushT's actions are positions on its table
def test_passes_the_checker(folder):
    env = gym.make("wcsim/PushT-v0", world=folder, fidelity=FAST, disable_env_checker=True).unwrapped
    check_env(env, skip_render_check=True)


def test_the_registered_id_makes_it(folder):
    env = gym.make("wcsim/PushT-v0", world=folder, fidelity=FAST, max_episode_steps=2)
    env.reset(seed=1)
    assert env.step(actions(1)[0])[3] is False
    assert env.step(actions(1)[0])[3] is True
    assert gym.spec("wcsim/PushT-v0").to_json()


def test_the_same_seed_is_the_same_episode(env):
    env.reset(seed=3)
    first = play(env, actions(3))
    env.reset(seed=3)
    assert_same(first, play(env, actions(3)))
    env.reset(seed=4)
    assert not np.array_equal(first[-1][0]["pixels"], play(env, actions(3))[-1][0]["pixels"])


def test_a_restored_snapshot_has_the_same_future(env, folder):
    env.reset(seed=3)
    play(env, actions(2))
    snapshot = env.snapshot()
    future = play(env, actions(3, seed=1))
    env.restore(snapshot)
    assert_same(future, play(env, actions(3, seed=1)))
    other = ImaginedEnv("pusht", folder, fidelity={"steps": 6, "cache": CACHE})
    other.reset(seed=9)
    other.restore(snapshot)
    assert_same(future, play(other, actions(3, seed=1)))
    env.restore(snapshot)
    one, _ = env.reset()
    other.restore(snapshot)
    two, _ = other.reset()
    np.testing.assert_array_equal(one["pixels"], two["pixels"])  # the generator came along


def test_branches_go_their_own_ways(env):
    env.reset(seed=3)
    play(env, actions(1))
    left, right = env.branch(2)
    moves = actions(2, seed=1)
    straight = play(env, moves)
    assert_same(straight, play(left, moves))
    play(right, actions(2, seed=2))
    assert_same(straight[-1:], [straight[-1]])
    assert left.world is env.world


def test_renders_every_frame_once(env):
    env.reset(seed=3)
    play(env, actions(2))
    frames = env.render()
    assert [frame.shape for frame in frames] == [(96, 96, 3)] * 3
    assert env.render() == []


def test_info_is_deterministic_and_timings_are_beside_it(env):
    env.reset(seed=3)
    info = env.step(actions(1)[0])[4]
    env.reset(seed=3)
    again = env.step(actions(1)[0])[4]
    assert info.keys() == again.keys() == env.reset(seed=3)[1].keys()
    for key, value in info.items():
        np.testing.assert_array_equal(value, again[key])
    assert {"imagine", "decode", "estimate", "deep"} <= env.last_timing.keys() or not env.last_timing


def test_a_bad_action_leaves_the_state_alone(env):
    env.reset(seed=3)
    play(env, actions(1))
    before = env.snapshot()
    for bad in (np.array([np.nan, 0.0]), np.array([0.0, 600.0]), np.zeros(3)):
        with pytest.raises(ActionError):
            env.step(bad)
    assert env.snapshot().lane is before.lane


def test_misuse_is_named(folder):
    env = ImaginedEnv("pusht", folder)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(actions(1)[0])
    with pytest.raises(SnapshotError, match="reset"):
        env.snapshot()
    with pytest.raises(ConfigError, match="render_mode 'ascii' is unknown"):
        ImaginedEnv("pusht", folder, render_mode="ascii")
    with pytest.raises(ConfigError, match="cache preset 'fast' is unknown"):
        ImaginedEnv("pusht", folder, fidelity={"cache": "fast"})
    with pytest.raises(CheckpointError, match="neither a folder"):
        ImaginedEnv("pusht", "atlantis")


def test_graphs_of_the_blocks_are_a_world_of_their_own(folder):
    plain = ImaginedEnv("pusht", folder, fidelity={"steps": 3, "cache": "none"})
    graphs = ImaginedEnv("pusht", folder, fidelity={"steps": 3, "cache": "none"}, compiled=True)
    assert graphs.world is not plain.world, "nobody else's world is compiled"
    assert graphs.sibling().world is graphs.world is ImaginedEnv("pusht", folder, compiled=True).world
    asked = []
    with torch.compiler.set_stance("force_eager"):  # graphs themselves: tests/world/test_compile.py
        for env in (plain, graphs):
            env.reset(seed=3)
            asked.append(env.step(np.array([100.0, 200.0], np.float32))[0]["pixels"])
    np.testing.assert_array_equal(*asked)


def test_a_planner_does_not_share_the_noise_of_the_environment(folder):
    env = ImaginedEnv("pusht", folder, fidelity={"steps": 3, "cache": "none"})
    env.reset(seed=3)
    action = env.action_space.low
    shared, own = env.snapshot().state, env.state
    assert torch.equal(own.latents, shared.latents)
    assert torch.equal(own.frame, shared.frame)
    (_, same_noise, _), (_, guessed, _) = (
        env.world.advance(state, action[None, None], env.fidelity) for state in (shared, own))
    again = env.world.advance(env.state, action[None, None], env.fidelity)[1]
    env.step(action)
    assert torch.equal(same_noise[0, 0], env.last_latents)
    assert not torch.allclose(guessed[0, 0], env.last_latents, atol=1e-2)
    assert torch.equal(guessed, again), "the same guess every time"
