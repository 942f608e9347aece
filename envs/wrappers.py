"""Wrappers of the imagined environment for policies that answer with several actions at once.

Easy to get wrong: a chunk is first announced to the environment, which imagines it in one pass.  Then it is stepped
through tick by tick, so that every wrapper inside (a time limit, a recorder, a paired truth) sees each frame.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.lane_wrappers import number
from wcsim.envs.unmoved import unmoved
from wcsim.errors import ConfigError
from wcsim.estimate import Estimate
from wcsim.metrics.images import psnr_db


class ChunkAction(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """One step plays `ticks` actions `[ticks, A]`: rewards add up, and it stops at the first success or truncation.

    together: imagine all frames of a step in one pass, as a chunk; else one after the other, as single steps do.
    `info` holds `rewards` `[ticks]` per tick, zero where it stopped before, and `ticks`, how many it played.
    """

    def __init__(self, env: gym.Env[Any, Any], ticks: int, *, together: bool = True) -> None:
        if ticks < 1:
            raise ConfigError(f"ticks is {ticks}; a chunk has at least 1")
        RecordConstructorArgs.__init__(self, ticks=ticks, together=together)
        gym.Wrapper.__init__(self, env)
        single = env.action_space
        assert isinstance(single, gym.spaces.Box)
        low, high = (np.repeat(bound[None], ticks, axis=0) for bound in (single.low, single.high))
        self.action_space = gym.spaces.Box(low, high, dtype=np.float32)
        self.ticks, self.together = ticks, together

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment inside."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "rewards": np.zeros(self.ticks), "ticks": 0}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play a chunk `[ticks, A]`; the observation is that of the last tick played."""
        base = base_of(self.env)
        base.inputs.check(base.interface.to_task(action), (self.ticks,))
        with unmoved(self.env):
            base.expect(action, together=self.together)
            rewards = np.zeros(self.ticks)
            for tick, single in enumerate(np.asarray(action, dtype=np.float32)):
                observation, reward, terminated, truncated, info = self.env.step(single)
                rewards[tick] = number(reward)
                if terminated or truncated:
                    break
        played = {"rewards": rewards, "ticks": tick + 1}
        return observation, float(rewards.sum()), terminated, truncated, {**info, **played}


def base_of(env: gym.Env[Any, Any]) -> ImaginedEnv:
    """The imagined environment inside all wrappers; ConfigError where there is none."""
    base = env.unwrapped
    if not isinstance(base, ImaginedEnv):
        raise ConfigError(f"this needs an ImaginedEnv inside, got {type(base).__name__}")
    return base


def chunk_difference(env: ImaginedEnv, actions: np.ndarray) -> dict[str, np.ndarray]:
    """How far actions `[k, A]` played as one chunk lead from the same played one by one, both from here.

    psnr_db: `[k]` between the two frames after each tick.  The metrics of the task's quantities: `[k]` between what is
    estimated in them, NaN where one was not found.  The environment does not move.
    """
    chunked, single = env.branch(2)
    chunked.expect(actions)
    return _apart(chunked, single, actions)


def noise_difference(env: ImaginedEnv, actions: np.ndarray) -> dict[str, np.ndarray]:
    """How far actions `[k, A]` played one by one lead from the same under another episode's noise: a yardstick for
    `chunk_difference`, with the same figures."""
    one, other = env.branch(2)
    lane = env.snapshot().lane
    other._lane = replace(lane, state=replace(lane.state, seed=lane.state.seed + 1), ahead=None)
    one._lane = replace(lane, ahead=None)
    return _apart(one, other, actions)


def _apart(one: ImaginedEnv, other: ImaginedEnv, actions: np.ndarray) -> dict[str, np.ndarray]:
    frames, estimates = [], []
    for branch in (one, other):
        seen = []
        for action in actions:
            branch.step(action)
            seen.append((branch.lane.pixels, branch.last_estimate))
        frames.append(np.array([pixels for pixels, _ in seen]))
        estimates.append(Estimate.join([estimate for _, estimate in seen]))
    mine, theirs = (estimate.values for estimate in estimates)
    return {"psnr_db": psnr_db(*frames), **one.played.state.errors(mine, theirs)}
