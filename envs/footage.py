"""Footage as a task: recorded frames and actions of a robot that has no simulator here.

Each recording is one `.npz` with `frames` `[T+1, H, W, 3]` uint8 and `actions` `[T, A]`, one action per frame after the
first.  The truth plays it back, so it is the truth only for who plays the recorded actions.  No quantity is known, and
what counts is the picture.  Easy to get wrong: an episode is as long as its recording, so `max_steps` of an experiment
must not exceed the shortest one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from wcsim.actions import check_action
from wcsim.backbones.cosmos2.releases import CONVENTIONS
from wcsim.cameras import Cameras
from wcsim.envs.base_task import BaseTask
from wcsim.envs.tasks import Look, Start, Truth
from wcsim.errors import ConfigError
from wcsim.estimate import Estimate
from wcsim.spec import StateSpec

Recording = tuple[np.ndarray, np.ndarray]
"""Frames `[T+1, H, W, 3]` and actions `[T, A]`, read-only."""


class Playback:
    """A recording as ground truth.  A snapshot is its number and the place in it."""

    def __init__(self, footage: Footage) -> None:
        self._footage, self._place = footage, (0, 0)

    def reset(self, seed: int) -> Look:
        """Go to the beginning of the recording of `seed`."""
        return self.restore((self._footage.number_of(seed), 0))

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
        frames, _ = self._footage.recording(number)
        if tick + 1 >= len(frames):
            raise ConfigError(f"recording {self._footage.paths[number].name} ends after {tick} actions; ask for fewer "
                              "max_steps")
        self._place = number, tick + 1

    def look(self) -> Look:
        """The frame at this place."""
        number, tick = self._place
        frames, _ = self._footage.recording(number)
        return Look(frames[tick].copy(), self.state, Estimate.nothing(self._footage.state, 1))

    @property
    def state(self) -> np.ndarray:
        """Which recording, and which of its frames."""
        return np.array(self._place, np.float64)

    def snapshot(self) -> tuple[int, int]:
        """This place."""
        return self._place

    def close(self) -> None:
        """Nothing is held open."""


class Footage(BaseTask):
    """The task.

    folder: of the recordings, in the order of their names; seed s starts recording s modulo their number.  convention:
    what the actions mean (`wcsim.backbones.cosmos2.releases.CONVENTIONS`).  frame_size: H, W of every frame.
    """

    name = "footage"
    description = "Imagine what a recording shows, under its actions."
    state = StateSpec(())

    def __init__(self, *, folder: str, convention: str = "bridge", frame_size: tuple[int, int] = (256, 320),
                 fps: float = 4.0, max_episode_steps: int = 300) -> None:
        if convention not in CONVENTIONS:
            raise ConfigError(f"convention {convention!r} is unknown; known: {', '.join(CONVENTIONS)}")
        self.action, self.fps, self.max_episode_steps = CONVENTIONS[convention], fps, max_episode_steps
        self.cameras = Cameras.single(frame_size[0], frame_size[1])
        self._folder = Path(folder)
        self._open: tuple[int, Recording] | None = None

    @cached_property
    def paths(self) -> list[Path]:
        """The recordings."""
        found = sorted(self._folder.glob("*.npz"))
        if not found:
            raise ConfigError(f"{self._folder} holds no recordings; it needs .npz files with `frames` and `actions`")
        return found

    def files(self) -> list[Path]:
        """The recordings."""
        return self.paths

    def number_of(self, seed: int) -> int:
        """The recording that belongs to `seed`."""
        return seed % len(self.paths)

    def recording(self, number: int) -> Recording:
        """One recording; ConfigError where its frames and actions are not what they should be."""
        if self._open is None or self._open[0] != number:
            self._open = number, self._read(self.paths[number])
        return self._open[1]

    def start(self, seed: int) -> Start:
        """The first frame of a recording, and its actions."""
        number = self.number_of(seed)
        frames, actions = self.recording(number)
        nothing = np.zeros((0, self.action.dim), np.float32)
        return Start(frames[:1].copy(), nothing, (number, 0), recorded=actions.copy())

    def make_truth(self) -> Truth:
        """A playback at the start of the first recording."""
        return Playback(self)

    def goal_frame(self) -> np.ndarray:
        """The last frame of the first recording."""
        return np.array(self.recording(0)[0][-1])

    def explore(self, rng: np.random.Generator, truth: Truth) -> Iterator[np.ndarray]:
        """The recorded actions from where the truth is."""
        del rng
        number, tick = truth.snapshot()
        yield from self.recording(number)[1][tick:]

    def _read(self, path: Path) -> Recording:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                frames, actions = arrays["frames"], arrays["actions"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BadZipFile, zlib.error) as error:
            raise ConfigError(f"{path} is no recording: {error}; it needs `frames` and `actions`") from error
        if frames.dtype != np.uint8 or frames.shape[1:] != (*self.frame_size, 3) or len(frames) != len(actions) + 1:
            raise ConfigError(f"{path.name} has frames {frames.dtype} {list(frames.shape)} and actions "
                              f"{list(actions.shape)}; needed are uint8 [T+1, {self.frame_size[0]}, "
                              f"{self.frame_size[1]}, 3] and [T, {self.action.dim}]")
        checked = check_action(self.action, actions)
        for array in (frames, checked):
            array.setflags(write=False)
        return frames, checked
