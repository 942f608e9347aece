"""The real software of others, where it is installed: `scripts/foreign.py` makes environments that have it."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

import wcsim  # noqa: F401  registers the ids
from wcsim.agents.swm import WorldCost
from wcsim.messages import pack, unpack

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SETTINGS = {"fidelity": {"steps": 2, "cache": "none"}, "max_episode_steps": 4}


def test_torchrl_rolls_out(folder):
    libs = pytest.importorskip("torchrl.envs.libs.gym")
    env = libs.GymWrapper(gym.make("wcsim/PushT-v0", world=folder, **SETTINGS))
    rolled = env.rollout(3)
    assert rolled["pixels"].shape[-3:] == (96, 96, 3)
    assert rolled["next", "reward"].shape == (3, 1)


def test_a_solver_of_stable_worldmodel_plans_in_a_world(folder):
    solvers = pytest.importorskip("stable_worldmodel.solver")
    env = gym.make("wcsim/PushT-v0", world=folder, action_space="unit", obs_type="pixels", **SETTINGS)
    seen, _ = env.reset(seed=0)
    model = WorldCost(env.unwrapped.world, env.unwrapped.fidelity)
    solver = solvers.CEMSolver(model, num_samples=8, n_steps=2, topk=3)
    batched = gym.vector.utils.batch_space(env.action_space, 1)
    solver.configure(action_space=batched, n_envs=1, config=SimpleNamespace(horizon=2, action_block=1))
    goal = np.roll(seen, 8, axis=1)
    plan = solver.solve({"pixels": seen[None, None], "goal": goal[None, None]})
    assert plan["actions"].shape == (1, 2, 2)
    assert np.isfinite(plan["actions"].numpy()).all()
    env.step(np.clip(plan["actions"][0, 0].numpy(), -1, 1))


def test_openpi_packs_as_we_do():
    theirs = pytest.importorskip("openpi_client.msgpack_numpy")
    message = {"image": np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "state": np.zeros(2, np.float32), "prompt": "x"}
    for again in (theirs.unpackb(pack(message)), unpack(theirs.packb(message))):
        np.testing.assert_array_equal(again["image"], message["image"])
        np.testing.assert_array_equal(again["state"], message["state"])
        assert again["prompt"] == "x"
