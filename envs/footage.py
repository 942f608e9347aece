"""Footage as a task: recorded frames and actions of a robot that has no simulator here.

Each recording is one `.npz` with `frames` `[T+1, H, W, 3]` uint8 and `actions` `[T, A]`, one action per frame after the
first.  The truth plays it back, so it is the truth only for who plays the recorded actions.  There is nothing to judge:
poses are unknown, and what counts is the picture.  Easy to get wrong: an episode is as long as its recording, so
`max_steps` of an experiment must not exceed the shortest one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from wcsim.actions import check_action
from wcsim.backbones.cosmos2.releases import CONVENTIONS
from wcsim.envs.judge import Judgement
from wcsim.envs.tasks import Start, Truth, action_box, observed
from wcsim.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Look:
    """One recorded frame."""

    pixels: np.ndarray
    state: np.ndarray
    judgement: Judgement


class Playback:
    """A recording as ground truth.  A snapshot is its number and the place in it."""

    def __init__(self, footage: Footage) -> None:
        self._footage, self._place = footage, (0, 0)

    def restore(self, snapshot: Any) -> Look:
        """Go to a place."""
        self._place = snapshot
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
            raise ConfigError(f"recording {self._footage.files[number].name} ends after {tick} actions; ask for fewer "
                              "max_steps")
        self._place = number, tick + 1

    def look(self) -> Look:
        """The frame at this place."""
        number, tick = self._place
        frames, _ = self._footage.recording(number)
        return Look(frames[tick], self.state, nothing_seen(1))

    @property
    def state(self) -> np.ndarray:
        """Which recording, and which of its frames."""
        return np.array(self._place, np.float64)

    def snapshot(self) -> tuple[int, int]:
        """This place."""
        return self._place

    def close(self) -> None:
        """Nothing is held open."""


class Footage:
    """The task.

    folder: of the recordings, in the order of their names; seed s starts recording s modulo their number.  convention:
    what the actions mean (`wcsim.backbones.cosmos2.releases.CONVENTIONS`).  frame_size: H, W of every frame.
    """

    name = "footage"
    description = "Imagine what a recording shows, under its actions."
    goal = (nan, nan, nan)

    def __init__(self, *, folder: str, convention: str = "bridge", frame_size: tuple[int, int] = (256, 320),
                 fps: float = 4.0, max_episode_steps: int = 300) -> None:
        if convention not in CONVENTIONS:
            raise ConfigError(f"convention {convention!r} is unknown; known: {', '.join(CONVENTIONS)}")
        self.action, self.frame_size, self.fps = CONVENTIONS[convention], (frame_size[0], frame_size[1]), fps
        self.max_episode_steps = max_episode_steps
        self._folder = Path(folder)

    @cached_property
    def files(self) -> list[Path]:
        """The recordings."""
        found = sorted(self._folder.glob("*.npz"))
        if not found:
            raise ConfigError(f"{self._folder} holds no recordings; it needs .npz files with `frames` and `actions`")
        return found

    def recording(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames and actions of one; ConfigError where they are not what they should be."""
        path = self.files[number]
        with np.load(path, allow_pickle=False) as arrays:
            frames, actions = arrays["frames"], arrays["actions"]
        if frames.dtype != np.uint8 or frames.shape[1:] != (*self.frame_size, 3) or len(frames) != len(actions) + 1:
            raise ConfigError(f"{path.name} has frames {frames.dtype} {list(frames.shape)} and actions "
                              f"{list(actions.shape)}; needed are uint8 [T+1, {self.frame_size[0]}, "
                              f"{self.frame_size[1]}, 3] and [T, {self.action.dim}]")
        return frames, check_action(self.action, actions)

    def recording_of(self, frame: np.ndarray) -> int:
        """The number of the recording that begins with `frame`; ConfigError where none does."""
        for number in range(len(self.files)):
            if np.array_equal(self.recording(number)[0][0], frame):
                return number
        raise ConfigError(f"no recording in {self._folder} begins with the frame that is shown")

    @property
    def action_space(self) -> gym.spaces.Box:
        """The convention's bounds."""
        return action_box(self.action)

    @property
    def observation_space(self) -> gym.spaces.Dict:
        """The frame; the agent's position is not known and always 0."""
        return observed(self.frame_size, reach=0.0)

    def start(self, seed: int) -> Start:
        """The first frame of a recording."""
        number = seed % len(self.files)
        frames, _ = self.recording(number)
        return Start(frames[:1], np.zeros((0, self.action.dim), np.float32), (number, 0))

    def judge(self, frames: np.ndarray) -> Judgement:
        """Nothing is known of frames `[N, H, W, 3]` but the picture."""
        return nothing_seen(len(frames))

    def reward(self, judgement: Judgement) -> np.ndarray:
        """Nothing to gain."""
        return np.zeros(len(judgement.success))

    def make_truth(self) -> Truth:
        """A playback at the start of the first recording."""
        return Playback(self)

    def goal_frame(self) -> np.ndarray:
        """The last frame of the first recording."""
        frames, _ = self.recording(0)
        last: np.ndarray = frames[-1]
        return last

    def stay(self, frame: np.ndarray) -> np.ndarray:
        """No change, and the middle of what is absolute."""
        del frame
        middle = (np.asarray(self.action.low) + np.asarray(self.action.high)) / 2
        return np.where([name in self.action.absolute for name in self.action.names], middle, 0.0)

    def explore(self, rng: np.random.Generator, truth: Truth) -> Iterator[np.ndarray]:
        """The recorded actions from where the truth is."""
        del rng
        number, tick = truth.snapshot()
        yield from self.recording(number)[1][tick:]


def nothing_seen(count: int) -> Judgement:
    """What a judge says who finds nothing in `count` frames."""
    no, zero = np.zeros(count, bool), np.zeros(count)
    return Judgement(agent=np.full((count, 2), nan), agent_found=no, block=np.full((count, 3), nan), block_found=no,
                     coverage=zero, success=no, shape_ok=no, block_fit=zero, agent_fit=zero)
