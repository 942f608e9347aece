"""N environments that imagine together: every step is one forward pass of one world for all lanes that need one.

Each lane is an `ImaginedEnv` of its own (`envs`), in the wrappers that were asked for (`lanes`).  A step imagines the
frames of all lanes in one batch.  Then each lane takes its step as it would alone, and finds its frames there.  Easy to
get wrong: in NEXT_STEP a lane whose episode ended ignores its action, is reset and costs no model call; in DISABLED it
must be reset by `options={"reset_mask": ...}` before the next step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.lane_wrappers import Wrapping, check_actions, lane_spec, number, wrap
from wcsim.envs.resets import Seeds, check_options, check_seeds
from wcsim.envs.unmoved import unmoved
from wcsim.errors import ActionError, ConfigError, SnapshotError
from wcsim.spans import Spans

OUTPUTS = ("numpy", "torch")


class ImaginedVectorEnv(VectorEnv[Any, Any, Any]):
    """The vector form of `ImaginedEnv`, which takes the same settings.

    num_envs: lanes.  max_episode_steps: when a lane is truncated; None takes the task's.  autoreset_mode: a Gymnasium
    `AutoresetMode` or its value.  lane_wrappers: what every lane is wrapped in, innermost first; wrappers may change
    observations, but take actions as they are or as chunks `[ticks, A]`.  output: `numpy`, or `torch` for observations,
    rewards, flags and the numbers of `info` as tensors.
    """

    single: type[ImaginedEnv] = ImaginedEnv
    """What a lane is."""
    lanes: Sequence[gym.Env[Any, Any]] = ()
    """The environments in their wrappers; none where making them failed, which a destructor still closes."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        lane_wrappers: Sequence[Wrapping] = (),
        output: str = "numpy",
        **settings: Any,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs is {num_envs}; it must be at least 1")
        if output not in OUTPUTS:
            raise ConfigError(f"output {output!r} is unknown; known: {', '.join(OUTPUTS)}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        first = self.single(**settings)
        first._max_episode_steps = first.horizon = max_episode_steps or first._max_episode_steps
        first.spec = lane_spec(settings, first.horizon)
        self.envs = [first, *(first.sibling() for _ in range(num_envs - 1))]
        self.lanes = [wrap(env.as_lane(number), lane_wrappers) for number, env in enumerate(self.envs)]
        self._action_shape = check_actions(self.lanes[0].action_space, first.interface.action_space())
        self._seen: list[Any] = [None] * num_envs
        self.num_envs = num_envs
        self.render_mode = first.render_mode
        self.metadata = {**first.metadata, "autoreset_mode": self.autoreset_mode, "torch": output == "torch"}
        self.single_action_space = self.lanes[0].action_space
        self.single_observation_space = self.lanes[0].observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.last_timing: dict[str, float] = {}

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every lane.

        seed: an int stands for seed, seed + 1, ...; a sequence has one per lane; lanes without one go on drawing.
        options: `reset_mask`, bool `[N]`, resets some lanes alone; `start`, one `Start` for all lanes or one per lane.
        """
        checked = check_options(options, ("start", "reset_mask"))
        seeds, mask = check_seeds(seed, self.num_envs), self._mask(checked.get("reset_mask"))
        starts = self._starts(checked.get("start"))
        infos: dict[str, Any] = {}
        with self._unmoved():
            for n in np.flatnonzero(mask).tolist():
                given = None if starts[n] is None else {"start": starts[n]}
                self._seen[n], info = self.lanes[n].reset(seed=seeds[n], options=given)
                infos = self._add_info(infos, info, n)
            return self._observations(), self._infos(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Imagine one control tick under `actions` `[N, A]`, or a chunk under `[N, ticks, A]` where lanes take those,
        in every lane whose episode is not over."""
        with self._unmoved():
            return self._step(actions)

    def _step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        mode, over = self.autoreset_mode, [env.over for env in self.envs]
        if mode is AutoresetMode.DISABLED and any(over):
            ended = [n for n, ended in enumerate(over) if ended]
            raise gym.error.ResetNeeded(f"the episodes of lanes {ended} are over; reset them with "
                                        "options={'reset_mask': mask} before the next step")
        going = [n for n in range(self.num_envs) if not (over[n] and mode is AutoresetMode.NEXT_STEP)]
        array = self._array(actions)
        spans = self._imagine(going, array)
        rewards, infos = np.zeros(self.num_envs), dict[str, Any]()
        terminated, truncated = np.zeros(self.num_envs, dtype=np.bool_), np.zeros(self.num_envs, dtype=np.bool_)
        for n, lane in enumerate(self.lanes):
            if n not in going:
                self._seen[n], info = lane.reset()
            else:
                with spans("lanes"):
                    self._seen[n], reward, terminated[n], truncated[n], info = lane.step(array[n])
                rewards[n] = number(reward)
                self.envs[n].over = bool(terminated[n] or truncated[n])
                if self.envs[n].over and mode is AutoresetMode.SAME_STEP:
                    infos = self._add_info(infos, {"final_obs": self._seen[n], "final_info": info}, n)
                    self._seen[n], info = lane.reset()
            infos = self._add_info(infos, info, n)
        if going:
            self.last_timing |= spans.ms()
        # Learners on tensors, as TorchRL, take single precision; Gymnasium's own reward is a double.
        given = rewards.astype(np.float32) if self.metadata["torch"] else rewards
        return self._observations(), *map(self._out, (given, terminated, truncated)), self._infos(infos)

    def _imagine(self, going: list[int], actions: np.ndarray) -> Spans:
        """Put the frames under checked actions ahead of the lanes `going`, all in one batch; the time that it took."""
        envs, spans = [self.envs[n] for n in going], Spans(self.envs[0].world.device)
        if not going:
            return spans
        lanes, imagination = [env.lane for env in envs], envs[0].imagination
        asked = envs[0].interface.to_task(actions[going])
        checked = imagination.check(asked, (len(going), *self._action_shape[:-1]))
        checked = checked.reshape(len(going), -1, checked.shape[-1])
        outer = self.lanes[0]
        together = bool(outer.get_wrapper_attr("together")) if outer.has_wrapper_attr("together") else True
        ready = imagination.estimated(imagination.expect(lanes, checked, spans, together=together), spans)
        for env, lane in zip(envs, ready, strict=True):
            env._lane = lane
        ahead = envs[0].lane.ahead
        assert ahead is not None
        self.last_timing = dict(ahead.trace.spans_ms)
        return spans

    def expect(self, actions: Any) -> None:
        """Imagine the frames of the next actions `[N, k, A]` of all lanes together; see `ImaginedEnv.expect`."""
        array, imagination = self._array(actions, axes=3), self.envs[0].imagination
        lanes = [env.lane for env in self.envs]
        checked = imagination.check(self.envs[0].interface.to_task(array), array.shape[:2])
        for env, lane in zip(self.envs, imagination.expect(lanes, checked, Spans(self.envs[0].world.device)),
                             strict=True):
            env._lane = lane

    def snapshot(self) -> list[Any]:
        """Every lane as a value; see `ImaginedEnv.snapshot` and, for lanes that are paired, `PairedTruth.snapshot`."""
        return list(self.call("snapshot"))

    def restore(self, snapshots: Sequence[Any]) -> Any:
        """Put every lane at its snapshot, be they of several lanes or one repeated; the observations there."""
        if len(snapshots) != self.num_envs:
            raise SnapshotError(f"{self.num_envs} lanes need as many snapshots, got {len(snapshots)}")
        if self.single_observation_space != self.envs[0].observation_space:
            raise SnapshotError("wrappers change what these lanes observe, and a snapshot does not hold what they know")
        for check, snapshot in zip(self._found("check_snapshot"), snapshots, strict=True):
            check(snapshot)
        pairs = zip(self._found("restore"), snapshots, strict=True)
        with self._unmoved():
            self._seen = [restore(snapshot) for restore, snapshot in pairs]
            return self._observations()

    def render(self) -> tuple[Any, ...]:
        """What every lane renders."""
        return tuple(lane.render() for lane in self.lanes)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every lane and its wrappers, so that recorders write what they have."""
        for lane in self.lanes:
            lane.close()

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """An attribute of every lane, called if it can be."""
        return tuple(value(*args, **kwargs) if callable(value) else value for value in self._found(name))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of every lane."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every lane: one value for all, or a list or tuple with one per lane."""
        each = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ConfigError(f"{self.num_envs} lanes need as many values, got {len(each)}")
        for lane, value in zip(self.lanes, each, strict=True):
            lane.set_wrapper_attr(name, value)

    def _unmoved(self) -> AbstractContextManager[None]:
        return unmoved(self, *self.lanes)

    def _found(self, name: str) -> list[Any]:
        """An attribute of every lane, not called."""
        return [lane.get_wrapper_attr(name) for lane in self.lanes]

    def _mask(self, mask: Any) -> np.ndarray:
        """Which lanes to reset: `[N]` bool."""
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise ConfigError(f"options['reset_mask'] must be a numpy array of bool, got "
                            f"{getattr(mask, 'dtype', type(mask).__name__)}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ConfigError(f"options['reset_mask'] must have shape ({self.num_envs},) and name a lane, got {mask}")
        if any(not env.begun for env, chosen in zip(self.envs, mask, strict=True) if not chosen):
            raise gym.error.ResetNeeded("lanes outside options['reset_mask'] have never been reset; reset all first")
        return mask

    def _starts(self, starts: Any) -> list[Any]:
        """The start of every lane, checked; None where the seed decides."""
        each = list(starts) if isinstance(starts, list | tuple) else [starts] * self.num_envs
        if len(each) != self.num_envs:
            raise ConfigError(f"{self.num_envs} lanes need as many starts, got {len(each)}")
        for start in each:
            if start is not None:
                self.envs[0].inputs.check_start(start)
        return each

    def _array(self, actions: Any, *, axes: int | None = None) -> np.ndarray:
        """Actions of every lane as an array with as many axes as the action space, or `axes`; no value is looked at."""
        array = actions.detach().cpu().numpy() if isinstance(actions, torch.Tensor) else np.asarray(actions)
        shape = (self.num_envs, *self._action_shape)
        fits = array.shape == shape if axes is None else array.ndim == axes and len(array) == self.num_envs
        if not fits:
            wanted = shape if axes is None else (self.num_envs, "k", shape[-1])
            raise ActionError(f"actions have shape {array.shape}; this environment takes {wanted}")
        return array

    def _observations(self) -> Any:
        """The observations of all lanes, batched."""
        single = self.single_observation_space
        empty: Any = create_empty_array(single, n=self.num_envs, fn=np.zeros)
        return self._out(concatenate(single, self._seen, empty))

    def _infos(self, infos: dict[str, Any]) -> dict[str, Any]:
        return {name: self._out(values) for name, values in infos.items()}

    def _out(self, values: Any) -> Any:
        """Values as the output wants them, at any depth."""
        if not self.metadata["torch"]:
            return values
        if isinstance(values, Mapping):
            return {name: self._out(value) for name, value in values.items()}
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biufO":
            return values
        if values.dtype != object:
            return torch.from_numpy(values)
        for place, value in np.ndenumerate(values):
            values[place] = self._out(value)
        return values
