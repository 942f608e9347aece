"""Sinks: each takes the events of a rollout and makes something of them.

A new one is a class of two methods.  Easy to get wrong: lanes end at different steps, so a sink that keeps something
per episode keeps it by lane number.  Shapes: T steps, H W frame, C h w latent, A action, D denoise steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from wcsim.agents.reports import ActReport
from wcsim.envs.tasks import Start
from wcsim.errors import ActionError
from wcsim.estimate import Episode, Estimate
from wcsim.metrics.horizon import Trajectory
from wcsim.report.video import encode_mp4
from wcsim.rollout.events import EpisodeBegin, EpisodeEnd, Event, Seen, Step
from wcsim.runs import files
from wcsim.spec import StateSpec
from wcsim.types import Trace


class Sink(Protocol):
    """Listens to one rollout."""

    def on(self, event: Event) -> None:
        """Take in an event."""
        ...

    def close(self) -> None:
        """The rollout is over, or has failed."""
        ...


def listen(events: Iterable[Event], sinks: Sequence[Sink]) -> None:
    """Tell every event to every sink, in their order; all are closed, whatever happens."""
    try:
        for event in events:
            for sink in sinks:
                sink.on(event)
    finally:
        for sink in sinks:
            sink.close()


@dataclass(slots=True)
class Track:
    """What one lane showed in one place, start included; latents, traces and what a guardrail changed without it."""

    frames: list[np.ndarray] = field(default_factory=list)
    estimates: list[Estimate] = field(default_factory=list)
    scored: list[Estimate] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    spans_ms: list[dict[str, float]] = field(default_factory=list)

    def add(self, seen: Seen, row: int, *, first: bool, frames: bool) -> None:
        """One lane's part of what a place shows."""
        self.estimates.append(seen.estimate.select(row))
        self.scored.append(seen.scored.select(row))
        if frames:
            self.frames.append(seen.frames[row])
        if first:
            return
        if frames and seen.latents is not None:
            self.latents.append(seen.latents[row])
        if seen.traces:
            self.traces.append(seen.traces[row])
        if seen.changed is not None:
            self.changed.append(seen.changed[row])
        self.spans_ms.append(dict(seen.spans_ms))

    def trajectory(self) -> Trajectory:
        """For errors by horizon, the start left out."""
        after = Estimate.join(self.scored[1:])
        latents = torch.stack(self.latents) if self.latents else None
        return Trajectory(np.array(self.frames[1:]), dict(after.values), latents)


@dataclass(slots=True)
class Recorded:
    """One episode, whole.  actions, clipped, rewards, plan_ms, reports: per step.  places: by name.  ended: itself."""

    episode: Episode
    start: Start
    places: dict[str, Track]
    actions: list[np.ndarray] = field(default_factory=list)
    clipped: list[bool] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)
    reports: list[ActReport | None] = field(default_factory=list)
    ended: bool = False


def guarded(places: Mapping[str, Track]) -> dict[str, Any]:
    """What a guardrail did in an episode, for its row: frames that it saw, how many of them it changed, the share of
    their pixels; nothing where there was none."""
    changed = [share for track in places.values() for share in track.changed]
    return {"guardrail": {"frames": len(changed), "changed": sum(share > 0 for share in changed),
                          "pixels": float(np.mean(changed))}} if changed else {}


def check_clipped(episodes: Sequence[Recorded], most: float, policy: str) -> None:
    """Raise ActionError, which names the policy, where more than a share of its actions was out of bounds: it was
    perhaps trained in other units, and a run of clipped actions says nothing of it."""
    clipped = [flag for episode in episodes for flag in episode.clipped]
    if sum(clipped) > most * len(clipped):
        raise ActionError(f"policy {policy!r} asked for actions out of bounds in {sum(clipped)} of {len(clipped)} "
                          f"steps; max_clipped allows a share of {most:g}")


class Recorder:
    """Keeps every episode in memory, for rows, arrays and errors.  episodes: by lane, in order.

    frames: whether frames and latents are recorded, too.
    """

    def __init__(self, *, frames: bool = True) -> None:
        self.episodes: list[Recorded] = []
        self._frames = frames

    def on(self, event: Event) -> None:
        """See `Sink`."""
        if isinstance(event, EpisodeBegin):
            self.episodes = [Recorded(episode, start, {name: Track() for name in event.seen})
                             for episode, start in zip(event.episodes, event.starts, strict=True)]
            self._see(event.lanes, event.seen, first=True)
        elif isinstance(event, Step):
            self._see(event.lanes, event.seen, first=False)
            for row, lane in enumerate(event.lanes.tolist()):
                record = self.episodes[lane]
                record.actions.append(event.actions[row])
                record.clipped.append(bool(event.clipped[row]))
                record.rewards.append(float(event.rewards[row]))
                record.plan_ms.append(event.plan_ms)
                record.reports.append(event.reports[row])
        elif isinstance(event, EpisodeEnd):
            self.episodes[event.lane].ended = event.ended

    def close(self) -> None:
        """Nothing is open."""

    def _see(self, lanes: np.ndarray, seen: Mapping[str, Seen], *, first: bool) -> None:
        for name, what in seen.items():
            for row, lane in enumerate(lanes.tolist()):
                self.episodes[lane].places[name].add(what, row, first=first, frames=self._frames)


class VideoSink:
    """Makes one mp4 per lane when its episode ends, the places side by side in the order of the rollout.

    folder: where it is written; None keeps it in `films`, file name to content.  fps: of the task.  scale: whole number
    by which small frames are enlarged.  prefix: what files' names begin with.
    """

    def __init__(self, folder: Path | None = None, *, fps: float, scale: int = 4, prefix: str = "episode") -> None:
        self._folder, self._fps, self._scale, self._prefix = folder, fps, scale, prefix
        self._frames: dict[int, list[np.ndarray]] = {}
        self._numbers: dict[int, int] = {}
        self.films: dict[str, bytes] = {}

    def name_of(self, number: int) -> str:
        """The file of an episode."""
        return f"{self._prefix}_{number:04d}.mp4"

    def on(self, event: Event) -> None:
        """See `Sink`."""
        if isinstance(event, EpisodeBegin):
            self._frames = {lane: [] for lane in event.lanes.tolist()}
            self._numbers = dict(zip(event.lanes.tolist(), (one.number for one in event.episodes), strict=True))
        if isinstance(event, EpisodeBegin | Step):
            for row, lane in enumerate(event.lanes.tolist()):
                side = np.concatenate([seen.frames[row] for seen in event.seen.values()], axis=1)
                self._frames[lane].append(side.repeat(self._scale, 0).repeat(self._scale, 1))
        elif isinstance(event, EpisodeEnd):
            content = encode_mp4(self._frames.pop(event.lane), self._fps)
            name = self.name_of(self._numbers[event.lane])
            if self._folder is None:
                self.films[name] = content
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            files.replace(self._folder / name, content)

    def close(self) -> None:
        """An episode that did not end leaves no film."""
        self._frames = {}


class RowSink:
    """Calls `callback` with a flat row of numbers for every step of every lane, and for every episode's end.

    Made for trackers: keys are `step/...` and `episode/...`, values floats; what is unknown is left out.  `row` counts
    the rows, so it rises through a rollout, and from one to the next; `episode` is the episode's number.  A step has
    `step/number`, `step/reward`, `step/clipped`, `step/plan_ms`, and of each place `step/PLACE/progress`, its times
    and the share of blocks that the cache skipped; an end has `episode/steps`, `episode/return`, `episode/success`.
    state: of the task; with it, and with a place called `truth`, steps have the errors of the other places.
    """

    def __init__(self, callback: Callable[[dict[str, float]], object], *, state: StateSpec | None = None) -> None:
        self._callback, self._state = callback, state
        self._rows = 0
        self._numbers: dict[int, int] = {}
        self._returns: dict[int, float] = {}

    def on(self, event: Event) -> None:
        """See `Sink`."""
        if isinstance(event, EpisodeBegin):
            self._numbers = dict(zip(event.lanes.tolist(), (one.number for one in event.episodes), strict=True))
            self._returns = dict.fromkeys(self._numbers, 0.0)
        elif isinstance(event, Step):
            for row, lane in enumerate(event.lanes.tolist()):
                self._returns[lane] += float(event.rewards[row])
                self._tell(lane, {"step/number": event.step, "step/reward": event.rewards[row],
                                  "step/clipped": event.clipped[row], "step/plan_ms": event.plan_ms,
                                  **self._places(event.seen, row)})
        else:
            self._tell(event.lane, {"episode/steps": event.steps, "episode/return": self._returns[event.lane],
                                    "episode/success": event.ended})

    def close(self) -> None:
        """Nothing is held open; the tracker is the caller's."""

    def _places(self, seen: Mapping[str, Seen], row: int) -> dict[str, float]:
        """What one lane shows in every place."""
        told: dict[str, float] = {}
        for place, what in seen.items():
            told[f"step/{place}/progress"] = what.scored.progress[row]
            told |= {f"step/{place}/{span}_ms": ms for span, ms in what.spans_ms.items()}
            if what.traces:
                told[f"step/{place}/skipped"] = what.traces[row].skipped
            if self._state is not None and place != "truth" and "truth" in seen:
                errors = self._state.errors(what.scored.values, seen["truth"].scored.values)
                told |= {f"step/{place}/{metric}": error[row] for metric, error in errors.items()}
        return told

    def _tell(self, lane: int, told: Mapping[str, float]) -> None:
        known = {name: float(value) for name, value in told.items() if np.isfinite(value)}
        self._callback({"row": float(self._rows), "episode": float(self._numbers[lane]), **known})
        self._rows += 1
