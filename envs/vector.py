"""N environments that imagine together: every step is one forward pass of one world for all lanes that need one.

Each lane is an `ImaginedEnv` of its own (`envs`), so a lane means what a single environment means, down to its random
numbers.  Easy to get wrong: in NEXT_STEP a lane whose episode ended ignores its action, is reset and costs no model
call; in DISABLED it must be reset by `options={"reset_mask": ...}` before the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.snapshots import EnvSnapshot
from wcsim.errors import ConfigError, SnapshotError
from wcsim.spans import Spans

OUTPUTS = ("numpy", "torch")


class ImaginedVectorEnv(VectorEnv[Any, Any, Any]):
    """The vector form of `ImaginedEnv`, which takes the same settings.

    num_envs: lanes.  max_episode_steps: when a lane is truncated; None takes the task's.  autoreset_mode: a Gymnasium
    `AutoresetMode` or its value.  output: `numpy`, or `torch` for observations, rewards and flags as tensors.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        output: str = "numpy",
        **settings: Any,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs is {num_envs}; it must be at least 1")
        if output not in OUTPUTS:
            raise ConfigError(f"output {output!r} is unknown; known: {', '.join(OUTPUTS)}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        first = ImaginedEnv(**settings)
        first._max_episode_steps = max_episode_steps or first._max_episode_steps
        self.envs = [first, *(first.sibling() for _ in range(num_envs - 1))]
        self.num_envs = num_envs
        self.render_mode = first.render_mode
        self.metadata = {**first.metadata, "autoreset_mode": self.autoreset_mode, "torch": output == "torch"}
        self.single_action_space, self.single_observation_space = first.action_space, first.observation_space
        self.action_space = batch_space(first.action_space, num_envs)
        self.observation_space = batch_space(first.observation_space, num_envs)
        self.last_timing: dict[str, float] = {}

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every lane.

        seed: an int stands for seed, seed + 1, ...; a sequence has one per lane; lanes without one go on drawing.
        options: `reset_mask`, bool `[N]`, resets some lanes alone; `start`, one `Start` for all lanes or one per lane.
        """
        options = dict(options or {})
        seeds, mask = self._seeds(seed), self._mask(options.pop("reset_mask", None))
        starts = self._starts(options.pop("start", None))
        infos: dict[str, Any] = {}
        for n in np.flatnonzero(mask).tolist():
            given = options if starts[n] is None else {**options, "start": starts[n]}
            _, info = self.envs[n].reset(seed=seeds[n], options=given)
            infos = self._add_info(infos, info, n)
        return self._observations(), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Imagine one control tick under `actions` `[N, A]` in every lane whose episode is not over."""
        mode, over = self.autoreset_mode, [env.over for env in self.envs]
        if mode is AutoresetMode.DISABLED and any(over):
            ended = [n for n, ended in enumerate(over) if ended]
            raise gym.error.ResetNeeded(f"the episodes of lanes {ended} are over; reset them with "
                                        "options={'reset_mask': mask} before the next step")
        going = [n for n in range(self.num_envs) if not (over[n] and mode is AutoresetMode.NEXT_STEP)]
        results = self._imagine(going, self._array(actions))
        rewards, infos = np.zeros(self.num_envs), dict[str, Any]()
        terminated, truncated = np.zeros(self.num_envs, dtype=np.bool_), np.zeros(self.num_envs, dtype=np.bool_)
        for n, env in enumerate(self.envs):
            if n not in results:
                _, info = env.reset()
            else:
                observation, rewards[n], terminated[n], truncated[n], info = results[n]
                if env.over and mode is AutoresetMode.SAME_STEP:
                    infos = self._add_info(infos, {"final_obs": observation, "final_info": info}, n)
                    _, info = env.reset()
            infos = self._add_info(infos, info, n)
        return self._observations(), *map(self._out, (rewards, terminated, truncated)), infos

    def _imagine(self, going: list[int], actions: np.ndarray) -> dict[int, tuple[Any, float, bool, bool, Any]]:
        """What single environments would return from `step`, for the lanes `going`, with the time limit applied."""
        if not going:
            return {}
        lanes, imagination = [self.envs[n].lane for n in going], self.envs[0].imagination
        checked = imagination.check(actions[going], (len(going),))
        spans = Spans(self.envs[0].world.device)
        ticks = imagination.step(lanes, checked, spans)
        assert ticks[0].trace is not None
        timing, results = spans.ms(), {}
        for n, tick in zip(going, ticks, strict=True):
            env = self.envs[n]
            observation, reward, terminated, _, info = env.take(tick, timing)
            truncated = env.elapsed >= env._max_episode_steps
            env.over = terminated or truncated
            results[n] = observation, reward, terminated, truncated, info
        self.last_timing = {**ticks[0].trace.spans_ms, **timing}
        return results

    def expect(self, actions: Any) -> None:
        """Imagine the frames of the next actions `[N, k, A]` of all lanes together; see `ImaginedEnv.expect`."""
        array, imagination = self._array(actions, ticks=True), self.envs[0].imagination
        lanes = [env.lane for env in self.envs]
        checked = imagination.check(array, array.shape[:2])
        for env, lane in zip(self.envs, imagination.expect(lanes, checked, Spans(self.envs[0].world.device)),
                             strict=True):
            env._lane = lane

    def snapshot(self) -> list[EnvSnapshot]:
        """Every lane as a value; see `ImaginedEnv.snapshot`."""
        return [env.snapshot() for env in self.envs]

    def restore(self, snapshots: Sequence[EnvSnapshot]) -> Any:
        """Put every lane at its snapshot, be they of several lanes or one repeated; the observations there."""
        if len(snapshots) != self.num_envs:
            raise SnapshotError(f"{self.num_envs} lanes need as many snapshots, got {len(snapshots)}")
        for env, snapshot in zip(self.envs, snapshots, strict=True):
            env.check_snapshot(snapshot)
        for env, snapshot in zip(self.envs, snapshots, strict=True):
            env.restore(snapshot)
        return self._observations()

    def render(self) -> tuple[Any, ...]:
        """What every lane renders."""
        return tuple(env.render() for env in self.envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """An attribute of every lane, called if it can be."""
        found = [env.get_wrapper_attr(name) for env in self.envs]
        return tuple(value(*args, **kwargs) if callable(value) else value for value in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of every lane."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every lane: one value for all, or a list or tuple with one per lane."""
        each = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ValueError(f"{self.num_envs} lanes need as many values, got {len(each)}")
        for env, value in zip(self.envs, each, strict=True):
            env.set_wrapper_attr(name, value)

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        seeds = [seed + n for n in range(self.num_envs)] if isinstance(seed, int | np.integer) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{self.num_envs} lanes need as many seeds, got {len(seeds)}")
        for one in seeds:
            if one is not None and (not isinstance(one, int | np.integer) or one < 0):
                raise gym.error.Error(f"seeds must be non-negative integers or None, got {one!r}")
        return [None if one is None else int(one) for one in seeds]

    def _mask(self, mask: Any) -> np.ndarray:
        """Which lanes to reset: `[N]` bool."""
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"options['reset_mask'] must be a numpy array of bool, got "
                            f"{getattr(mask, 'dtype', type(mask).__name__)}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"options['reset_mask'] must have shape ({self.num_envs},) and name a lane, got {mask}")
        if any(env._lane is None for env, chosen in zip(self.envs, mask, strict=True) if not chosen):
            raise gym.error.ResetNeeded("lanes outside options['reset_mask'] have never been reset; reset all first")
        return mask

    def _starts(self, starts: Any) -> list[Any]:
        """The start of every lane, checked; None where the seed decides."""
        each = list(starts) if isinstance(starts, list | tuple) else [starts] * self.num_envs
        if len(each) != self.num_envs:
            raise ValueError(f"{self.num_envs} lanes need as many starts, got {len(each)}")
        for start in each:
            if start is not None:
                self.envs[0].imagination.check_start(start)
        return each

    def _array(self, actions: Any, *, ticks: bool = False) -> np.ndarray:
        """Actions as an array `[N, A]` (or `[N, k, A]`); their values are not looked at."""
        array = actions.detach().cpu().numpy() if isinstance(actions, torch.Tensor) else np.asarray(actions)
        if array.ndim != 2 + ticks or len(array) != self.num_envs:
            self.envs[0].imagination.check(array, (self.num_envs, *array.shape[1 : 1 + ticks]))
        return array

    def _observations(self) -> Any:
        """The frames on show, batched."""
        single = self.single_observation_space
        empty: Any = create_empty_array(single, n=self.num_envs, fn=np.zeros)
        batch: Any = concatenate(single, [env._observation() for env in self.envs], empty)
        return {name: self._out(values) for name, values in batch.items()}

    def _out(self, values: np.ndarray) -> Any:
        return torch.from_numpy(values) if self.metadata["torch"] else values
