"""Recordings as a task: recorded frames and actions of a robot that has no simulator here.

Any format of `wcsim.data`.  The truth plays a recording back, so it is the truth only for who plays the recorded
actions.  Of quantities only the robot's own state is known, where it is recorded; what counts is the picture.  Easy to
get wrong: an episode is as long as its recording, so `max_steps` of an experiment must not exceed the shortest one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wcsim.actions import check_action
from wcsim.cameras import Camera, Cameras
from wcsim.data.fed import check_scale, check_signal
from wcsim.data.recordings import RecordedEpisode, Recordings, open_recordings, read_mosaic
from wcsim.data.views import Fit, Kind, View, ViewOptions
from wcsim.envs.base_task import BaseTask
from wcsim.envs.tasks import Look, Start, Truth
from wcsim.errors import ActionError, ConfigError, DataError
from wcsim.estimate import Estimate, Goal
from wcsim.spec import Quantity, StateSpec

if TYPE_CHECKING:
    from wcsim.types import ActionSpec

AHEAD = 16
"""Frames that a playback reads together."""


class Playback:
    """A recording as ground truth.  A snapshot is its number and the place in it."""

    def __init__(self, task: RecordingsTask) -> None:
        self._task, self._place = task, (0, 0)
        self._read: tuple[int, int, np.ndarray] | None = None

    def reset(self, seed: int) -> Look:
        """Go to the beginning of the recording of `seed`."""
        return self.restore((self._task.number_of(seed), 0))

    def restore(self, snapshot: Any) -> Look:
        """Go to a place."""
        number, tick = snapshot
        self._place = int(number), int(tick)
        return self.look()

    def step(self, action: np.ndarray) -> Look:
        """The next frame, whatever the action was."""
        self.advance(action)
        return self.look()

    def advance(self, action: np.ndarray) -> None:
        """As `step`, without a look."""
        del action
        number, tick = self._place
        episode = self._task.episode(number)
        if tick + 1 >= episode.frames:
            raise ConfigError(f"recording {episode.name} ends after {tick} actions; ask for fewer max_steps")
        self._place = number, tick + 1

    def look(self) -> Look:
        """The frame at this place."""
        return Look(self._frame(), self.state, self._estimate())

    def _estimate(self) -> Estimate:
        """The recorded state of the robot, where there is one."""
        number, tick = self._place
        recorded, nothing = self._task.episode(number).state, Estimate.nothing(self._task.state, 1)
        if recorded is None or not len(self._task.state):
            return nothing
        return nothing.told({"state": recorded[tick, None].astype(np.float64)})

    @property
    def state(self) -> np.ndarray:
        """Which recording, and which of its frames."""
        return np.array(self._place, np.float64)

    def snapshot(self) -> tuple[int, int]:
        """This place."""
        return self._place

    def close(self) -> None:
        """Forget what was read ahead."""
        self._read = None

    def _frame(self) -> np.ndarray:
        number, tick = self._place
        block = tick // AHEAD
        if self._read is None or self._read[:2] != (number, block):
            last = self._task.episode(number).frames
            ticks = range(block * AHEAD, min((block + 1) * AHEAD, last))
            self._read = number, block, self._task.frames(number, ticks)
        return np.array(self._read[2][tick - block * AHEAD])


class RecordingsTask(BaseTask):
    """The task.  Seed s starts episode s modulo their number.

    path: of the recordings, or `repo_id@revision`.  convention: what the actions mean, by its name in CONVENTIONS of
    `wcsim.backbones.cosmos2.releases`, or those of a world, by its folder or reference; None: what the recordings say,
    bounded by what they hold.  episodes, cameras: names; None: all.  frame_size: H, W of every camera, fps: frames per
    second, both as the world needs them; None: as recorded.

    What disagrees is refused by name, but for what these ask for.  resample: every n-th frame, with actions `change` or
    `absolute` where the recordings do not say which they are.  fit: `crop` or `squash` to the frame size.  assume_fps:
    instead of what the recordings say.  action_scale: factor, one or one per number, that turns their actions into the
    units of the convention; 1 where actions that look too small are right.
    """

    name = "recordings"
    description = "Imagine what a recording shows, under its actions."
    proprioception = True

    def __init__(self, *, path: str, convention: str | None = None, episodes: Sequence[str | int] | None = None,
                 cameras: Sequence[str] | None = None, frame_size: tuple[int, int] | None = None,
                 fps: float | None = None, resample: bool = False, actions: Kind | None = None, fit: Fit | None = None,
                 assume_fps: float | None = None, action_scale: float | Sequence[float] | None = None,
                 max_episode_steps: int = 300) -> None:
        self._convention = None if convention is None else _convention(convention)
        self.max_episode_steps, self._path, self._assumed = max_episode_steps, path, assume_fps
        self._names = None if cameras is None else tuple(cameras)
        self._size = None if frame_size is None else (int(frame_size[0]), int(frame_size[1]))
        self._wanted_fps, self._resample, self._kind, self._fit = fps, resample, actions, fit
        self._scale = None if action_scale is None else tuple(np.ravel(action_scale).astype(float).tolist())
        self._episodes = None if episodes is None else tuple(str(name) for name in episodes)

    @cached_property
    def cameras(self) -> Cameras:  # type: ignore[override]  # read when first needed
        """Those that were asked for, at the frame size."""
        if self._size is None:
            return self.recordings.spec.cameras
        return Cameras(tuple(Camera(name, *self._size) for name in self._names or ("pixels",)))

    @cached_property
    def fps(self) -> float:  # type: ignore[override]  # read when first needed
        """Frames per second."""
        return self._wanted_fps if self._wanted_fps is not None else self.recordings.spec.rate

    @cached_property
    def action(self) -> ActionSpec:  # type: ignore[override]  # read when first needed
        """The convention's, or what the recordings say."""
        return self._convention if self._convention is not None else action_spec(self.recordings)

    @cached_property
    def state(self) -> StateSpec:  # type: ignore[override]  # read when first needed
        """The robot's state as one quantity, `state`, where every episode has it; nothing of the scene."""
        told = self.recordings.spec.state
        if told is None:
            return StateSpec(())
        return StateSpec((Quantity("state", told.dim, told.units or "as recorded", "scalar", role="robot"),))

    @cached_property
    def source(self) -> Recordings:
        """The recordings as they are."""
        return open_recordings(self._path, fps=self._assumed)

    @cached_property
    def recordings(self) -> Recordings:
        """The recordings as the task shows them.  ConfigError or DataError where they are not what was asked for."""
        told, fps = self.source.spec, None
        if self._names is None and self._size is not None and len(told.cameras.cameras) > 1:
            raise ConfigError(f"{self._path} has the cameras {', '.join(one.name for one in told.cameras.cameras)}; "
                              "choose with the option cameras")
        if told.fps is None and self._wanted_fps is None:
            raise ConfigError(f"{self._path} does not say its fps; give the option fps")
        if told.fps is not None and self._wanted_fps is not None and told.fps != self._wanted_fps:
            if not self._resample:
                raise ConfigError(f"{self._path} has {told.fps:g} fps, asked for are {self._wanted_fps:g}; say "
                                  "resample: true, or assume_fps where the recordings are wrong")
            fps = self._wanted_fps
        self._check_size(told.cameras)
        if self._convention is not None:
            check_signal(self._path, told.action, self._convention, converted=self._scale is not None)
        size = self._size if self._fit is not None else None
        found = View(self.source, ViewOptions(fps, size, self._fit, self._kind, self._names, self._episodes,
                                              self._scale))
        if self._convention is not None and self._scale is None:
            check_scale(found, self._convention)
        return found

    def files(self) -> list[Path]:
        """The recordings: single files, or the folder of those that have one."""
        return self.source.files() if self.source.format == "npz" else [self.source.path]

    def number_of(self, seed: int) -> int:
        """The episode that belongs to `seed`."""
        return seed % len(self.recordings.episodes)

    def episode(self, number: int) -> RecordedEpisode:
        """The numbers of one episode, its actions checked."""
        episode = self.recordings.episode(number)
        try:
            check_action(self.action, episode.actions)
        except ActionError as error:
            raise DataError(f"{self._path} episode {episode.name}: {error}", kind="action_scale", episode=episode.name
                            ) from error
        return episode

    def frames(self, number: int, ticks: Sequence[int]) -> np.ndarray:
        """Mosaics `[n, H, W, 3]` of all cameras at some ticks of an episode."""
        return read_mosaic(self.recordings, number, ticks)

    def start(self, seed: int) -> Start:
        """The first frame of an episode, its actions, and its last frame as the goal."""
        number = self.number_of(seed)
        episode = self.episode(number)
        shown = self.frames(number, [0, episode.frames - 1])
        nothing = np.zeros((0, self.action.dim), np.float32)
        return Start(shown[:1].copy(), nothing, (number, 0), episode.instruction, Goal({}, shown[1].copy()),
                     recorded=episode.actions.copy())

    def make_truth(self) -> Truth:
        """A playback at the start of the first episode."""
        return Playback(self)

    def goal_frame(self) -> np.ndarray:
        """The last frame of the first episode."""
        return np.array(self.frames(0, [self.episode(0).frames - 1])[0])

    def explore(self, rng: np.random.Generator, truth: Truth) -> Iterator[np.ndarray]:
        """The recorded actions from where the truth is."""
        del rng
        number, tick = truth.snapshot()
        yield from self.episode(number).actions[tick:]

    def _check_size(self, cameras: Cameras) -> None:
        for camera in cameras.cameras:
            wanted = self._names is None or camera.name in self._names
            same = self._size is None or self._size == (camera.height, camera.width)
            if wanted and not same and self._size is not None and self._fit is None:
                raise ConfigError(f"{self._path}: camera {camera.name!r} has frames of {camera.height}x{camera.width}, "
                                  f"asked for are {self._size[0]}x{self._size[1]}; say fit: crop or fit: squash")


def action_spec(recordings: Recordings) -> ActionSpec:
    """What recordings say of their actions, bounded by what they say or else by what they hold."""
    from wcsim.types import ActionSpec

    told = recordings.spec.action
    low, high = told.low, told.high
    if not low:
        parts = [recordings.episode(number).actions for number in range(len(recordings.episodes))]
        least, most = (np.array([getattr(part, name)(0) for part in parts]) for name in ("min", "max"))
        low, high = tuple(least.min(0).tolist()), tuple(most.max(0).tolist())
        high = tuple(top if top > bottom else bottom + 1.0 for bottom, top in zip(low, high, strict=True))
    return ActionSpec(low, high, told.names, told.units or "as recorded", absolute=told.absolute)


def _convention(name: str) -> ActionSpec:
    """An action convention by name, or that of a world."""
    from wcsim.backbones.cosmos2.releases import CONVENTIONS
    from wcsim.world.checkpoints import find_world, read_description

    if name in CONVENTIONS:
        return CONVENTIONS[name]
    if os.path.basename(name) == name:
        raise ConfigError(f"convention {name!r} is unknown; known: {', '.join(CONVENTIONS)}, and worlds by folder or "
                          "reference")
    return read_description(find_world(name))[0].action
