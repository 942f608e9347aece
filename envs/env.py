"""LeRobot's EnvHub asks a repository for an `env.py` with `make_env`; this is it, and it may be copied as it stands.

Easy to get wrong: EnvHub's own configuration cannot hold settings (its `gym_kwargs` are always empty), so they come
from environment variables, and what a configuration does say goes before them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import yaml
from gymnasium.vector import AutoresetMode, VectorEnv

import wcsim  # noqa: F401  registers the ids
from wcsim.errors import ConfigError

ID = "wcsim/PushT-v0"
PREFIX = "WCSIM_ENV_"
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "quick": {"fidelity": {"steps": 10}, "max_episode_steps": 100},
}
"""Settings by name: `full`, the world's own fidelity and the task's own length; `quick`, a look within minutes."""

OPTIONS = ("id", "preset", "task", "world", "task_options", "fidelity", "steps", "cache", "device", "compiled",
           "max_episode_steps", "render_mode", "action_space", "obs_type", "lane_wrappers", "autoreset_mode", "output")


def make_env(n_envs: int = 1, use_async_envs: bool = False, cfg: Any = None) -> dict[str, dict[int, VectorEnv]]:
    """Suite name to task number to a vector environment of `n_envs` lanes, in LeRobot's autoreset mode, which renders.

    use_async_envs has no effect: the lanes share one forward pass, in this process.  cfg: settings, as a mapping or an
    object whose `gym_kwargs` are one.  Each may be an environment variable instead, as YAML under its name in capitals
    after `WCSIM_ENV_`: `WCSIM_ENV_STEPS=10`, `WCSIM_ENV_FIDELITY='{steps: 10, cache: none}'`.  Where both say
    something, `cfg` counts.

    id: of the environment, PushT; `wcsim/World-v0` plays any `task` in any `world`.  preset: `full` or `quick`, under
    what else is said.  steps: denoise steps; cache: a preset's name; both are short for those of `fidelity`.
    max_episode_steps, autoreset_mode, lane_wrappers, output: see `ImaginedVectorEnv`; all else: see `ImaginedEnv`.
    Raises ConfigError for another option.
    """
    del use_async_envs
    given = settings_of(getattr(cfg, "gym_kwargs", cfg) or {}, os.environ)
    env = gym.make_vec(given.pop("id", ID), num_envs=n_envs, vectorization_mode="vector_entry_point",
                       **{"autoreset_mode": AutoresetMode.SAME_STEP.value, "render_mode": "rgb_array", **given})
    return {"wcsim": {0: env}}


def settings_of(given: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """What `gym.make_vec` takes, from settings, else variables, else a preset; ConfigError names what is unknown."""
    told = {name: _value(name, text) for name, text in variables.items() if name.startswith(PREFIX)}
    whole = {**{name.removeprefix(PREFIX).lower(): value for name, value in told.items()}, **given}
    for name in whole:
        if name not in OPTIONS:
            where = "" if name in given else f" (from the variable {PREFIX}{name.upper()})"
            raise ConfigError(f"make_env has no option {name!r}{where}; known: {', '.join(OPTIONS)}")
    preset = whole.pop("preset", "full")
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} is unknown; known: {', '.join(PRESETS)}")
    base, own = PRESETS[preset], whole.pop("fidelity", None) or {}
    short = {name: whole.pop(name) for name in ("steps", "cache") if name in whole}
    if not isinstance(own, Mapping):
        raise ConfigError(f"fidelity is a mapping, got {type(own).__name__}")
    fidelity = {**base.get("fidelity", {}), **own, **short}
    return {**base, **whole, **({"fidelity": fidelity} if fidelity else {})}


def _value(name: str, text: str) -> Any:
    """A variable's value; ConfigError unless it is YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the variable {name} is not YAML: {text!r}") from error
