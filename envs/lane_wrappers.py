"""Wrappers of single environments around the lanes of a vector environment: named in settings, made, and checked.

Easy to get wrong: lanes are imagined ahead from their actions, so a wrapper may change what is observed, but actions
only into chunks of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from wcsim.errors import ConfigError
from wcsim.registry import attribute

Wrapping = str | tuple[str, Mapping[str, Any]] | list[Any] | Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
"""A wrapper of single environments: `module:class`, or that and its keyword arguments, or a function."""


def wrap(env: gym.Env[Any, Any], wrappings: Sequence[Wrapping]) -> gym.Env[Any, Any]:
    """A single environment in wrappers, innermost first."""
    for wrapping in wrappings:
        if callable(wrapping):
            env = wrapping(env)
            continue
        path, settings = (wrapping, dict[str, Any]()) if isinstance(wrapping, str) else wrapping
        kind = attribute(path, what=f"lane_wrappers: {path!r}")
        env = kind(env, **settings)
    return env


def check_actions(space: gym.Space[Any], single: gym.spaces.Box) -> tuple[int, ...]:
    """The shape of a wrapped lane's actions; ConfigError unless they are single ones or chunks of them, because others
    could not be imagined ahead."""
    if isinstance(space, gym.spaces.Box) and space.shape[-1:] == single.shape:
        low, high = (np.broadcast_to(bound, space.shape) for bound in (single.low, single.high))
        if space.shape[1:] in ((), single.shape) and (space.low == low).all() and (space.high == high).all():
            return space.shape
    raise ConfigError(f"lane_wrappers make the action space {space}; a lane takes {single} or chunks of it; transform "
                      "actions outside, with gymnasium.wrappers.vector.TransformAction")


def number(reward: Any) -> float:
    """A wrapper's reward, which may be an array of one number.  Raises TypeError, which shows it, where it is none."""
    array = np.asarray(reward)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise TypeError(f"a wrapper must give one number as the reward, got {reward!r}")
    return float(array.reshape(()))


def lane_spec(settings: Mapping[str, Any], max_episode_steps: int | None) -> EnvSpec:
    """What a lane says of itself, as `gym.make` would have told it; wrappers look up the limit of steps in it."""
    return EnvSpec("wcsim/World-v0", entry_point="wcsim.envs.imagined:ImaginedEnv", kwargs=dict(settings),
                   max_episode_steps=max_episode_steps)
