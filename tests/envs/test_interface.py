"""What an agent is shown and in which units it acts, single and vector."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wcsim  # noqa: F401  registers the ids
from sameness import assert_same
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.interface import Interface
from wcsim.envs.paired import PairedTruth
from wcsim.envs.pusht import PushT
from wcsim.envs.wrappers import ChunkAction
from wcsim.errors import ActionError, ConfigError

FIDELITY = {"steps": 2, "cache": "none"}
UNIT = np.array([[-1, 1], [0, 0.5]], np.float32)
PIXELS = np.array([[0, 512], [256, 384]], np.float32)
"""The same on a table of 512 pixels."""


def make(folder, **settings):
    return gym.make("wcsim/PushT-v0", world=folder, fidelity=FIDELITY, disable_env_checker=True, **settings)


def make_vec(folder, **settings):
    return gym.make_vec("wcsim/PushT-v0", num_envs=2, vectorization_mode="vector_entry_point", world=folder,
                        fidelity=FIDELITY, **settings)


def test_unit_actions_are_the_tasks_own(folder):
    unit, task = make(folder, action_space="unit"), make(folder)
    assert unit.action_space == gym.spaces.Box(-1, 1, (2,), np.float32)
    unit.reset(seed=0)
    task.reset(seed=0)
    for one, other in zip(UNIT, PIXELS, strict=True):
        assert_same(unit.step(one), task.step(other))
    vector, plain = make_vec(folder, action_space="unit"), make_vec(folder)
    assert vector.action_space == gym.spaces.Box(-1, 1, (2, 2), np.float32)
    vector.reset(seed=0)
    plain.reset(seed=0)
    assert_same(vector.step(UNIT), plain.step(PIXELS))


@pytest.mark.filterwarnings("ignore:.*imagination is off")
def test_unit_actions_pass_through_wrappers(folder):
    def wrapped(units):
        return ChunkAction(PairedTruth(make(folder, action_space=units).unwrapped, refresh_every=2), 2)

    unit, task = wrapped("unit"), wrapped("task")
    assert unit.action_space.low.min() == -1
    unit.reset(seed=0)
    task.reset(seed=0)
    for _ in range(2):
        assert_same(unit.step(UNIT), task.step(PIXELS))
    chunk = ["wcsim.envs.wrappers:ChunkAction", {"ticks": 2}]
    vector, plain = (make_vec(folder, lane_wrappers=[chunk], action_space=units) for units in ("unit", "task"))
    vector.reset(seed=0)
    plain.reset(seed=0)
    assert_same(vector.step(np.array([UNIT, UNIT])), plain.step(np.array([PIXELS, PIXELS])))


def test_a_refused_unit_action_leaves_the_state_alone(folder):
    env = make(folder, action_space="unit")
    env.reset(seed=0)
    lane = env.unwrapped.lane
    with pytest.raises(ActionError, match=r"= 1.5 is out of range; allowed: .* in \[-1, 1\]"):
        env.step(np.array([0, 1.5]))
    with pytest.raises(ActionError, match=r"shape \(1, 2\)"):
        env.step(np.array([[0, 0.5]]))
    assert env.unwrapped.lane is lane


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2))
def test_unit_actions_are_linear_and_within_bounds(action):
    there = Interface(PushT(), action_space="unit").to_task(np.array(action))
    assert there.dtype == np.float32
    assert PushT().action_space.contains(there)
    np.testing.assert_allclose(there, 256 + 256 * np.array(action), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("kind", ["pixels", "pixels_agent_pos", "state"])
def test_observations_by_type(folder, kind):
    env, both = make(folder, obs_type=kind), make(folder)
    seen, whole = env.reset(seed=1), both.reset(seed=1)
    vector = make_vec(folder, obs_type=kind)
    batch = vector.reset(seed=[1, 2])
    for _ in range(2):
        observation, info = seen[0], seen[-1]
        assert env.observation_space.contains(observation)
        assert vector.observation_space.contains(batch[0])
        expected = {"pixels": whole[0]["pixels"], "pixels_agent_pos": whole[0], "state": np.concatenate(
            [whole[0]["agent_pos"], np.clip(info["block"], 0, 512), info["block_angle"]]).astype(np.float32)}[kind]
        assert_same(observation, expected)
        first = {name: value[0] for name, value in batch[0].items()} if isinstance(batch[0], dict) else batch[0][0]
        assert_same(first, expected)
        seen, whole, batch = env.step(PIXELS[0]), both.step(PIXELS[0]), vector.step(PIXELS[[0, 1]])
    base = env.unwrapped
    snapshot, shown = base.snapshot(), base.step(PIXELS[1])[0]
    fresh = ImaginedEnv("pusht", folder, fidelity=FIDELITY, obs_type=kind)
    assert fresh.observation_space.contains(fresh.restore(snapshot))
    assert_same(fresh.step(PIXELS[1])[0], shown)
    assert_same(env.unwrapped.sibling().restore(snapshot), seen[0])


def test_unknown_names_are_told(folder):
    with pytest.raises(ConfigError, match="action_space 'units' is unknown; known: task, unit"):
        make(folder, action_space="units")
    with pytest.raises(ConfigError, match="obs_type 'image' is unknown; known: pixels_agent_pos, pixels, state"):
        make_vec(folder, obs_type="image")
