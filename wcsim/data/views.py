"""Recordings seen otherwise: fewer frames per second, another size, some of the cameras or episodes.

Nothing changes unless it is asked for, and `spec.notes` says what was.  Easy to get wrong: with every n-th frame, the
changes that n actions command add up, while of values to hold the last one counts.

Shapes: T actions, n frames, H W frame, A action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import cv2
import numpy as np

from wcsim.cameras import Camera, Cameras
from wcsim.data.recordings import (
    EpisodeRow,
    RecordedEpisode,
    Recordings,
    RecordingsSpec,
    Signal,
    check_camera,
    number_of,
)
from wcsim.errors import ConfigError, DataError

Fit = Literal["crop", "squash"]
"""crop: the largest middle part of the wanted proportions, then resized.  squash: resized as a whole."""

Kind = Literal["change", "absolute"]


@runtime_checkable
class MakesActions(Protocol):
    """A reader that makes actions of states, so also between ticks further apart."""

    def actions_between(self, number: int, ticks: np.ndarray) -> np.ndarray:
        """Actions `[len(ticks) - 1, A]` float32 that lead from each of these ticks to the next."""
        ...


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """What shall be otherwise; None: as recorded.

    size: H, W of every camera, with `fit` where proportions change.  fps: a whole divisor of the recorded one, with
    `actions` where the recordings do not say which actions are changes.  cameras, episodes: names, in the wanted order.
    scale: factor of all actions, or one per number.
    """

    fps: float | None = None
    size: tuple[int, int] | None = None
    fit: Fit | None = None
    actions: Kind | None = None
    cameras: tuple[str, ...] | None = None
    episodes: tuple[str, ...] | None = None
    scale: tuple[float, ...] | None = None


class View:
    """Some recordings as the options want them; they refuse what cannot be done, by name, with ConfigError."""

    def __init__(self, source: Recordings, options: ViewOptions) -> None:
        if options.fit not in (None, "crop", "squash") or options.actions not in (None, "change", "absolute"):
            raise ConfigError(f"fit is {options.fit!r} and actions {options.actions!r}; allowed: crop, squash; change, "
                              "absolute")
        self.path, self.format = source.path, source.format
        self._source, self._options = source, options
        self._every = self._divide()
        self._numbers = (list(range(len(source.episodes))) if options.episodes is None
                         else [number_of(source, name) for name in options.episodes])
        self._check_fit()
        self._check_scale()

    @property
    def left_out(self) -> Sequence[DataError]:
        """Those of the source."""
        return self._source.left_out

    @cached_property
    def spec(self) -> RecordingsSpec:
        """As the view shows it."""
        told, options = self._source.spec, self._options
        size = options.size
        cameras = tuple(camera if size is None else Camera(camera.name, *size) for camera in self._cameras())
        notes = dict(told.notes)
        if self._every > 1:
            notes["resampled"] = {"from_fps": told.rate, "every": self._every, "actions": options.actions}
        if size is not None:
            notes["resized"] = {"from": {camera.name: [camera.height, camera.width] for camera in self._cameras()},
                                "to": list(size), "fit": options.fit or "same proportions"}
        if options.scale is not None:
            notes["action_scale"] = list(options.scale)
        return replace(told, fps=None if told.fps is None else told.fps / self._every, cameras=Cameras(cameras),
                       action=scaled(told.action, options.scale), notes=notes)

    @cached_property
    def episodes(self) -> Sequence[EpisodeRow]:
        """Those that were asked for."""
        rows = [self._source.episodes[number] for number in self._numbers]
        return [replace(row, frames=(row.frames - 1) // self._every + 1) for row in rows]

    def episode(self, number: int) -> RecordedEpisode:
        """See `Recordings`."""
        episode = self._source.episode(self._numbers[number])
        ticks, actions = np.arange(0, episode.frames, self._every), episode.actions
        if self._every > 1 and isinstance(self._source, MakesActions):
            actions = self._source.actions_between(self._numbers[number], ticks)
        elif self._every > 1:
            actions = self._joined(actions, len(ticks) - 1)
        if self._options.scale is not None:
            actions = (actions * np.asarray(self._options.scale)).astype(np.float32)
        return replace(episode, actions=actions, state=None if episode.state is None else episode.state[ticks],
                       times=None if episode.times is None else episode.times[ticks])

    def frames(self, number: int, camera: str, ticks: Sequence[int]) -> np.ndarray:
        """See `Recordings`."""
        check_camera(self, camera)
        frames = self._source.frames(self._numbers[number], camera, [tick * self._every for tick in ticks])
        if self._options.size is None:
            return frames
        return np.stack([resize(frame, self._options.size, self._options.fit) for frame in frames])

    def files(self) -> list[Path]:
        """Those of the source."""
        return self._source.files()

    def _cameras(self) -> list[Camera]:
        there = {camera.name: camera for camera in self._source.spec.cameras.cameras}
        wanted = self._options.cameras if self._options.cameras is not None else tuple(there)
        for name in wanted:
            check_camera(self._source, name)
        return [there[name] for name in wanted]

    def _divide(self) -> int:
        wanted = self._options.fps
        if wanted is None:
            return 1
        rate = self._source.spec.rate
        every = round(rate / wanted) if wanted > 0 else 0
        if every < 1 or abs(rate / every - wanted) > 1e-6 * rate:
            raise DataError(f"{self.path} has {rate:g} fps, which is no whole multiple of {wanted:g}; it can become "
                            f"{', '.join(f'{rate / whole:g}' for whole in range(1, 7))}, ...", kind="fps")
        told = self._source.spec.action
        if every > 1 and not (told.absolute or self._options.actions or isinstance(self._source, MakesActions)):
            raise ConfigError(f"{self.path} does not say whether its actions are changes or values to hold; resampling "
                              "needs actions=change or actions=absolute")
        return every

    def _check_fit(self) -> None:
        size = self._options.size
        if size is None or self._options.fit is not None:
            return
        for camera in self._cameras():
            if camera.height * size[1] != camera.width * size[0]:
                raise ConfigError(f"{self.path}: camera {camera.name!r} has frames of {camera.height}x{camera.width}, "
                                  f"wanted are {size[0]}x{size[1]}; say fit=crop or fit=squash")

    def _check_scale(self) -> None:
        scale, dim = self._options.scale, self._source.spec.action.dim
        if scale is not None and (len(scale) not in (1, dim) or not all(0 < abs(one) < np.inf for one in scale)):
            raise ConfigError(f"action_scale is {list(scale)[:8]}; allowed: one number that is finite and not 0, or "
                              f"{dim}")

    def _joined(self, actions: np.ndarray, count: int) -> np.ndarray:
        groups = actions[: count * self._every].reshape(count, self._every, -1)
        names = self._source.spec.action
        held = np.array([self._options.actions == "absolute" or name in names.absolute for name in names.names])
        if self._options.actions == "change":
            held[:] = [name in names.absolute for name in names.names]
        joined: np.ndarray = np.where(held, groups[:, -1], groups.sum(1)).astype(np.float32)
        return joined


def scaled(signal: Signal, scale: tuple[float, ...] | None) -> Signal:
    """What actions are after they were multiplied by `scale`: in units that nobody says, with bounds turned too."""
    if scale is None:
        return signal
    if not signal.low:
        return replace(signal, units="")
    ends = np.sort(np.array([signal.low, signal.high]) * np.asarray(scale), axis=0)
    return replace(signal, units="", low=tuple(ends[0].tolist()), high=tuple(ends[1].tolist()))


def resize(frame: np.ndarray, size: tuple[int, int], fit: Fit | None) -> np.ndarray:
    """A frame `[H, W, 3]` at another size; with `crop`, its middle part of the wanted proportions."""
    height, width = frame.shape[:2]
    if fit == "crop":
        share = min(height / size[0], width / size[1])
        tall, wide = max(round(size[0] * share), 1), max(round(size[1] * share), 1)
        top, left = (height - tall) // 2, (width - wide) // 2
        frame = frame[top : top + tall, left : left + wide]
    smaller = size[0] < frame.shape[0] or size[1] < frame.shape[1]
    resized = cv2.resize(np.ascontiguousarray(frame), size[::-1],
                         interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)
