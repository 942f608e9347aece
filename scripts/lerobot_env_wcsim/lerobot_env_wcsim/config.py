"""The configuration that LeRobot parses from its command line, and the environments that it makes.

Easy to get wrong: the lanes of a wcsim environment share one forward pass in LeRobot's own process, so asynchronous
environments, a process each, would only be slower; `--eval.use_async_envs=true` changes nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

from wcsim.envs.env import ID, make_env, settings_of
from wcsim.envs.rates import rate
from wcsim.envs.tasks import make_task
from wcsim.world.checkpoints import find_world, read_description

OPTIONS = ("preset", "task", "world", "task_options", "steps", "cache", "fidelity", "device", "compiled", "render_mode")


@EnvConfig.register_subclass("wcsim")
@dataclass
class WcsimEnvConfig(EnvConfig):
    """`make_env`'s settings by their names; None: a `WCSIM_ENV_` variable's, else the default.

    env_id: of the environment, as `wcsim/Pendulum-v0`.  task, world: for `wcsim/World-v0`.  steps: denoise steps.
    cache: a preset's name.  fidelity: any field of `wcsim.types.Fidelity`.  episode_length: most steps of an episode.
    fps, features and features_map follow from the world and its task.
    """

    env_id: str | None = None
    preset: str | None = None
    world: str | None = None
    task_options: dict[str, Any] | None = None
    steps: int | None = None
    cache: str | None = None
    fidelity: dict[str, Any] | None = None
    device: str | None = None
    compiled: bool | None = None
    episode_length: int | None = None
    render_mode: str = "rgb_array"

    def __post_init__(self) -> None:
        settings = settings_of(self.gym_kwargs, os.environ)
        settings = {**(gym.spec(settings.get("id", ID)).kwargs or {}), **settings}
        task = make_task(settings["task"], **settings.get("task_options", {}))
        spec, _ = read_description(find_world(settings["world"]))
        space = task.observation_space
        pixels = space["pixels"]
        views = {f"pixels/{name}": (f"observation.images.{name}", view) for name, view in pixels.items()} if isinstance(
            pixels, gym.spaces.Dict) else {"pixels": ("observation.image", pixels)}
        self.fps = rate(spec.fps)
        self.features_map = {"action": "action", "agent_pos": "observation.state",
                             **{name: theirs for name, (theirs, _) in views.items()}}
        self.features = {
            "action": PolicyFeature(type=FeatureType.ACTION, shape=task.action_space.shape),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=space["agent_pos"].shape),
            **{name: PolicyFeature(type=FeatureType.VISUAL, shape=view.shape) for name, (_, view) in views.items()},
        }

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Settings of `make_env`, those that are set."""
        told = {"id": self.env_id, "max_episode_steps": self.episode_length,
                **{name: getattr(self, name) for name in OPTIONS}}
        return {name: value for name, value in told.items() if value is not None}

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """What LeRobot asks for: suite to task number to a vector environment."""
        return make_env(n_envs=n_envs, use_async_envs=use_async_envs, cfg=self)
