"""LeRobot's EnvHub asks a repository for an `env.py` with `make_env`; this is it, and it may be copied as it stands."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

import wcsim  # noqa: F401  registers the ids

ID = "wcsim/PushT-v0"


def make_env(n_envs: int = 1, use_async_envs: bool = False, cfg: Any = None) -> dict[str, dict[int, VectorEnv]]:
    """Suite name to task number to a vector environment of `n_envs` lanes, in LeRobot's autoreset mode.

    use_async_envs has no effect: the lanes share one forward pass, in this process.  cfg: settings of `ImaginedEnv`,
    as a mapping or an object whose `gym_kwargs` are one; `id` among them names another environment than PushT, as
    `wcsim/World-v0` with any `task` and `world`.
    """
    del use_async_envs
    settings = dict(getattr(cfg, "gym_kwargs", cfg) or {})
    env = gym.make_vec(settings.pop("id", ID), num_envs=n_envs, vectorization_mode="vector_entry_point",
                       **{"autoreset_mode": AutoresetMode.SAME_STEP.value, **settings})
    return {"wcsim": {0: env}}
