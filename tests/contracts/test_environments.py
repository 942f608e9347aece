"""What every registered environment promises, single and vector, and what evaluators of others expect of it."""

from __future__ import annotations

import importlib.util

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import wcsim
import wcsim.envs.env
from outside_task import Press
from sameness import assert_same
from served import served
from tiny_worlds import save_world_of
from wcsim.envs.cube import Cube
from wcsim.envs.pendulum import Pendulum
from wcsim.envs.snapshots import EnvSnapshot

for name, (task, _, steps, further) in wcsim.envs.WORLDS.items():  # also tasks for which no world ships
    if f"wcsim/{name}-v0" not in gym.registry:
        gym.register(f"wcsim/{name}-v0", "wcsim.envs.imagined:ImaginedEnv", max_episode_steps=steps,
                     vector_entry_point="wcsim.envs.vector:ImaginedVectorEnv", kwargs={"task": task, **further})

IDS = sorted(name for name in gym.registry if name.startswith("wcsim/"))
FINALS = {"final_obs", "_final_obs", "final_info", "_final_info"}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*symmetric and normalized space"),  # actions are positions on a table
    pytest.mark.filterwarnings("ignore:cache .* skipped nothing"),  # few denoise steps, and random actions
]


@pytest.fixture(scope="module")
def tiny_worlds(folder, tmp_path_factory):
    """Worlds of random weights by task; `None` is a task from outside the package."""
    worlds = tmp_path_factory.mktemp("worlds")
    return {"pusht": {"world": folder}, "cube": {"world": save_world_of(Cube(), worlds / "cube")},
            "pendulum": {"world": save_world_of(Pendulum(), worlds / "pendulum")},
            None: {"task": "outside_task:Press", "world": save_world_of(Press(), worlds / "press")}}


@pytest.fixture(scope="module")
def address(folder):
    """Of a server that the remote environment plays with."""
    with served(folder, sessions=1000) as (address, _):
        yield address


@pytest.fixture(params=["tiny", pytest.param("shipped", marks=pytest.mark.slow)])
def settings(request, name, tiny_worlds):
    """A tiny world for every run, the shipped one of the id for the slow ones."""
    kwargs = gym.spec(name).kwargs
    if name == "wcsim/Remote-v0":
        if request.param == "shipped":
            pytest.skip("its world is the server's")
        return {"address": request.getfixturevalue("address"), "fidelity": {"steps": 2, "cache": "none"}}
    if request.param == "shipped":
        if "world" not in kwargs:
            pytest.skip("no world ships for this task")
        return {"fidelity": {"steps": 8}}
    return {**tiny_worlds[kwargs.get("task")], "fidelity": {"steps": 2, "cache": "none"}}


@pytest.mark.parametrize("name", IDS)
def test_single(name, settings):
    env = gym.make(name, disable_env_checker=True, **settings)
    check_env(env.unwrapped, skip_render_check=True)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    env.reset(seed=1)
    again.reset(seed=1)
    env.action_space.seed(0)
    for _ in range(2):
        action = env.action_space.sample()
        one, other = env.step(action), again.step(action)
        assert_same(one, other)
        assert type(one[1]) is float
        assert type(one[2]) is type(one[3]) is bool
    assert isinstance(env.unwrapped.snapshot(), EnvSnapshot)
    for mode in env.metadata["render_modes"]:
        shown = gym.make(name, render_mode=mode, disable_env_checker=True, **settings)
        shown.reset(seed=0)
        assert shown.render() is not None
    env.close()


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector(name, mode, settings):
    env = gym.make_vec(name, num_envs=2, vectorization_mode="vector_entry_point", autoreset_mode=mode.value, **settings)
    assert env.metadata["autoreset_mode"] is mode
    observation, info = env.reset(seed=[5, 6])
    assert env.observation_space.contains(observation)
    env.action_space.seed(0)
    singles = [gym.make(name, disable_env_checker=True, **settings) for _ in range(2)]
    for seed, single in zip((5, 6), singles, strict=True):
        single.reset(seed=seed)
    for _ in range(2):
        actions = env.action_space.sample()
        observation, reward, terminated, truncated, told = env.step(actions)
        over = terminated | truncated
        finals = FINALS if mode is AutoresetMode.SAME_STEP and over.any() else set()
        assert told.keys() == info.keys() | finals
        assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)
        for lane, single in enumerate(singles):
            seen, gain, *ended, _ = single.step(actions[lane])
            assert (gain, ended) == (reward[lane], [terminated[lane], truncated[lane]])
            if not over[lane]:  # else it may be at its next start already
                assert_same(seen, {name: lane_of(value, lane) for name, value in observation.items()})
        if over.any():  # noise, which a tiny world shows, may look like success
            break
    env.close()


def lane_of(value, lane):
    """One lane of a batched part of an observation."""
    return {name: part[lane] for name, part in value.items()} if isinstance(value, dict) else value[lane]


@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_loop_of_lerobots_evaluation(folder, n_envs):
    """The calls that `lerobot_eval.rollout` makes, in its order."""
    spec = importlib.util.spec_from_file_location("hub_env", wcsim.envs.env.__file__)
    hub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hub)
    cfg = {"world": folder, "fidelity": {"steps": 2, "cache": "none"}, "max_episode_steps": 3}
    ((_, tasks),) = hub.make_env(n_envs=n_envs, use_async_envs=False, cfg=cfg).items()
    ((_, env),) = tasks.items()
    assert isinstance(env, gym.vector.VectorEnv)
    observation, _ = env.reset(seed=list(range(n_envs)), options={"lerobot_new_rollout": True})
    done, step, max_steps = np.array([False] * n_envs), 0, env.call("_max_episode_steps")[0]
    assert max_steps == 3
    assert type(env.unwrapped.metadata["render_fps"]) is int
    successes = []
    while not np.all(done) and step < max_steps:
        image, position = torch.from_numpy(observation["pixels"]), torch.from_numpy(observation["agent_pos"]).float()
        assert image.dtype == torch.uint8
        assert image.shape == (n_envs, 96, 96, 3)
        assert position.shape == (n_envs, 2)
        assert all(isinstance(text, str) for name in ("task", "task_description") for text in env.call(name))
        action = np.full((n_envs, 2), 256.0, dtype=np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        frames = np.stack(env.call("render"))
        assert (frames.dtype, frames.shape) == (np.uint8, (n_envs, 96, 96, 3))
        found = info["final_info"]["is_success"] if "final_info" in info else info["is_success"]
        successes.append(found.tolist())
        assert reward.shape == (n_envs,)
        done, step = terminated | truncated | done, step + 1
    assert done.all()
    assert "final_info" in info
    assert len(successes) == 3
    env.close()


@pytest.mark.slow
def test_stable_baselines3_trains(folder):
    sb3 = pytest.importorskip("stable_baselines3")
    env = gym.make("wcsim/PushT-v0", world=folder, fidelity={"steps": 2, "cache": "none"}, max_episode_steps=4)
    model = sb3.A2C("MultiInputPolicy", env, n_steps=4, device="cpu", seed=0)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(total_timesteps=12)
    assert any(not torch.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    action, _ = model.predict(env.reset(seed=0)[0])
    assert env.action_space.contains(action)
