"""Paired rollouts: the imagined environment beside its truth, in lock-step under the same actions.

The agent sees the imagined frames; `info` says how far they are from the true ones, and the rollout can be set upon
true frames again (a refresh) every so often or when a guard fires.  Easy to get wrong: a refresh changes what the world
remembers, not what it has shown, so it is felt from the next step on.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from wcsim.envs.lanes import read_only
from wcsim.envs.observations import Observation
from wcsim.envs.snapshots import EnvSnapshot
from wcsim.envs.tasks import Start, TruthFrame
from wcsim.envs.unmoved import unmoved
from wcsim.envs.wrappers import base_of
from wcsim.errors import ConfigError, SnapshotError, WcsimError
from wcsim.metrics.images import psnr_db

OnAlarm = Literal["warn", "truncate", "refresh"]


@dataclass(frozen=True, slots=True)
class Guard:
    """When not to trust the imagination any more; None: never for this reason.

    latent_drift: most relative change of the latents' root mean square since the last true frame.  cache_drift: most
    drift at which a policy may skip blocks.  estimate_error: by metric (as `cube_cm`), most error of what is estimated
    in the imagined frame; infinite where it is not found.
    """

    latent_drift: float | None = None
    cache_drift: float | None = None
    estimate_error: Mapping[str, float] = field(default_factory=dict)

    @property
    def bounds(self) -> dict[str, float]:
        """Name of a measure to its bound, of all that have one."""
        drifts = {"latent_drift": self.latent_drift, "cache_drift": self.cache_drift}
        return {**{name: bound for name, bound in drifts.items() if bound is not None}, **self.estimate_error}

    def alarms(self, measured: Mapping[str, float]) -> list[str]:
        """Which bounds are passed by measures of these names; one that is not a number passes."""
        return [f"{name} {measured[name]:.3g} is over {bound:g}" for name, bound in self.bounds.items()
                if not measured[name] <= bound]


@dataclass(frozen=True, slots=True)
class PairedSnapshot:
    """Both sides of a paired rollout.

    imagined: the environment's.  truth: the simulator's.  frames `[T, H, W, 3]` and actions: the latest true ones, for
    a refresh.  since: steps since the last one.  scale: root mean square of the latents then.
    """

    imagined: EnvSnapshot
    truth: Any
    frames: tuple[np.ndarray, ...]
    actions: tuple[np.ndarray, ...]
    since: int
    scale: float


class PairedTruth(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An imagined environment with its truth at its side.

    refresh_every: put the rollout upon true frames every so many steps.  latent_drift, cache_drift, estimate_error:
    bounds of the `Guard`.  on_alarm: what a passed bound does: `warn`, `truncate` the episode, or `refresh`.
    """

    def __init__(
        self, env: gym.Env[Any, Any], *, refresh_every: int | None = None, latent_drift: float | None = None,
        cache_drift: float | None = None, estimate_error: Mapping[str, float] | None = None,
        on_alarm: OnAlarm = "warn",
    ) -> None:
        if on_alarm not in get_args(OnAlarm):
            raise ConfigError(f"on_alarm {on_alarm!r} is unknown; known: {', '.join(get_args(OnAlarm))}")
        if refresh_every is not None and refresh_every < 1:
            raise ConfigError(f"refresh_every is {refresh_every}; it must be at least 1, or None")
        RecordConstructorArgs.__init__(self, refresh_every=refresh_every, latent_drift=latent_drift,
                                       cache_drift=cache_drift, estimate_error=estimate_error, on_alarm=on_alarm)
        gym.Wrapper.__init__(self, env)
        self._base = base_of(env)
        self._state = self._base.played.state
        unknown = set(estimate_error or {}) - set(self._state.metrics)
        if unknown:
            raise ConfigError(f"estimate_error of {', '.join(sorted(unknown))} is unknown; known: "
                              f"{', '.join(self._state.metrics) or 'none'}")
        self.guard = Guard(latent_drift, cache_drift, dict(estimate_error or {}))
        self.refresh_every, self.on_alarm = refresh_every, on_alarm
        leading = [*self._state.goal, *self._state][:1]
        self.strip_metric = leading[0].metric if leading else None
        self.truth = self._base.played.make_truth()
        self.true_frame: TruthFrame
        past = self._base.world.spec.max_context
        self._frames: deque[np.ndarray] = deque(maxlen=past)
        self._actions: deque[np.ndarray] = deque(maxlen=past)
        self._shown: tuple[list[np.ndarray], list[float]] = ([], [])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin both at the same start; ConfigError for a start of one's own without the truth's snapshot."""
        given = (options or {}).get("start")
        if isinstance(given, Start) and given.truth is None:
            raise ConfigError("options['start'] has no truth; a paired rollout begins where its truth can begin too")
        with unmoved(self):
            observation, info = self.env.reset(seed=seed, options=options)
            start = self._base.start
            assert start is not None
            self.true_frame = self.truth.restore(start.truth)
            self._frames.clear()
            self._frames.extend(read_only(frame.copy()) for frame in start.frames)
            self._actions.clear()
            self._actions.extend(read_only(action.copy()) for action in start.actions)
            self._since, self._scale = 0, self._rms(start.frames[-1])
            self._shown = ([self.true_frame.pixels.copy()], [])
            return observation, {**info, **self._compare(), "alarm": False, "refreshed": False, "since_refresh": 0}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play `action` in both; what is returned is the imagined side's."""
        with unmoved(self):
            return self._step(action)

    def _step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        action = np.asarray(self._base.interface.to_task(action))
        self.true_frame = self.truth.step(action)
        self._frames.append(read_only(self.true_frame.pixels.copy()))
        self._actions.append(read_only(np.array(action, dtype=np.float32)))
        self._since += 1
        measured = self._compare()
        alarms = self.guard.alarms(measured)
        since, refreshed = self._since, self._since == self.refresh_every
        if alarms and self.on_alarm == "warn":
            warnings.warn(f"the imagination is off: {'; '.join(alarms)}", stacklevel=2)
        truncated = truncated or bool(alarms and self.on_alarm == "truncate")
        refreshed = refreshed or bool(alarms and self.on_alarm == "refresh")
        if refreshed:
            self.refresh()
        self._shown[0].append(self.true_frame.pixels.copy())
        if self.strip_metric is not None:
            self._shown[1].append(measured[self.strip_metric])
        status = {"alarm": bool(alarms), "refreshed": refreshed, "since_refresh": since}
        return observation, reward, terminated, truncated, {**info, **measured, **status}

    def refresh(self) -> None:
        """Put the rollout upon the latest true frames, from the next step on."""
        frames = np.array(self._frames)
        actions = np.array(self._actions, dtype=np.float32).reshape(-1, self._base.world.spec.action.dim)
        self._base.anchor(frames, actions[len(actions) - len(frames) + 1 :])
        self._since, self._scale = 0, self._rms(frames[-1])

    def snapshot(self) -> PairedSnapshot:
        """The present of both sides as a value."""
        return PairedSnapshot(self._base.snapshot(), self.truth.snapshot(), tuple(self._frames), tuple(self._actions),
                            self._since, self._scale)

    def restore(self, snapshot: PairedSnapshot) -> Observation:
        """Return both sides to a snapshot of this world; the observation at that point."""
        self.check_snapshot(snapshot)
        with unmoved(self):
            observation: Observation = self._base.restore(snapshot.imagined)
            self.true_frame = self._restored(snapshot.truth)
            for mine, kept in ((self._frames, snapshot.frames), (self._actions, snapshot.actions)):
                mine.clear()
                mine.extend(kept)
            self._since, self._scale = snapshot.since, snapshot.scale
            self._shown = ([self.true_frame.pixels.copy()], [])
        return observation

    def check_snapshot(self, snapshot: PairedSnapshot) -> None:
        """Raise SnapshotError unless the snapshot is of a paired rollout in this very world."""
        if not isinstance(snapshot, PairedSnapshot):
            raise SnapshotError(f"a paired rollout returns to a PairedSnapshot, which has a truth; got "
                                f"{type(snapshot).__name__}")
        self._base.check_snapshot(snapshot.imagined)
        try:
            self._base.inputs.check_past(np.array(snapshot.frames), np.array(snapshot.actions).reshape(
                -1, self._base.world.spec.action.dim)[-len(snapshot.frames) + 1 :][: len(snapshot.frames) - 1])
        except (WcsimError, TypeError, ValueError) as error:
            raise SnapshotError(f"the snapshot's true frames and actions are damaged: {error}") from error
        if not isinstance(snapshot.since, int) or snapshot.since < 0 or not np.isfinite(snapshot.scale):
            raise SnapshotError(f"the snapshot is {snapshot.since!r} steps after a true frame of {snapshot.scale!r}")

    def _restored(self, truth: Any) -> TruthFrame:
        """The truth at its part of a snapshot; SnapshotError where it is none of this truth."""
        try:
            return self.truth.restore(truth)
        except (WcsimError, AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise SnapshotError(f"the snapshot's truth is damaged: {error!r}") from error

    def panels(self) -> tuple[dict[str, list[np.ndarray]], list[float]]:
        """True and imagined frames since the last call, and the errors `strip_metric`, which are those of the first
        quantity of the goal (or of all); see `ImaginedEnv.panels`."""
        imagined, _ = self.env.get_wrapper_attr("panels")()
        (frames, errors), self._shown = self._shown, ([], [])
        return {"truth": frames, **imagined}, errors

    def close(self) -> None:
        """Release both."""
        self.truth.close()
        self.env.close()

    def _rms(self, frame: np.ndarray) -> float:
        return float(self._base.world.encode(np.array(frame[None], order="C")).square().mean().sqrt())

    def _compare(self) -> dict[str, Any]:
        """What the guard and `info` know of this tick; a quantity that is not found is infinitely far off."""
        base, true = self._base, self.true_frame.estimate
        trace, latent = base.last_trace, base.lane.latent
        errors = self._state.errors(base.last_estimate.values, true.values)
        rms = self._scale if latent is None else float(latent.square().mean().sqrt())
        skipped = np.empty(0) if trace is None else trace.drift[trace.hit]
        return {
            "truth_success": bool(true.success[0]),
            "truth_progress": float(true.progress[0]),
            "psnr_db": float(psnr_db(base.lane.pixels[None], self.true_frame.pixels[None])[0]),
            **{metric: float(np.nan_to_num(error, nan=np.inf)[0]) for metric, error in errors.items()},
            "latent_drift": abs(rms / self._scale - 1.0),
            "cache_drift": float(skipped.max()) if skipped.size else 0.0,
        }
