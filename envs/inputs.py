"""What environments are given: actions, starts and pasts, checked and copied.

Easy to get wrong: an array of the caller may be flipped, read-only or changed later, so what is kept is a copy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from wcsim.actions import check_action
from wcsim.envs.tasks import Start, Task
from wcsim.errors import ActionError, ConfigError


class Inputs:
    """What a task's lanes are given, checked."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def check(self, actions: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Actions `[*shape, A]` as float32; ActionError says what is wrong with them."""
        array = np.asarray(actions)
        wanted = (*shape, self.task.action.dim)
        if array.shape != wanted:
            raise ActionError(f"actions have shape {array.shape}; this environment takes {wanted}")
        return check_action(self.task.action, array)

    def check_start(self, start: Start) -> Start:
        """The start with arrays of its own; ConfigError where this task's frames and actions look otherwise."""
        if not isinstance(start, Start):
            raise ConfigError(f"options['start'] must be a wcsim.envs.tasks.Start, got {type(start).__name__}")
        frames, actions = self.check_past(start.frames, start.actions, what="start frames")
        return replace(start, frames=frames, actions=actions)

    def check_past(
        self, frames: np.ndarray, actions: np.ndarray, *, what: str = "frames"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Copies of real frames `[T, H, W, 3]` uint8 and of the actions `[T-1, A]` between them, once checked."""
        size = self.task.frame_size
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or not len(frames) or (
                frames.shape[1:] != (*size, 3)):
            given = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
            raise ConfigError(f"{what} are {given}; task {self.task.name!r} begins with uint8 "
                              f"(T >= 1, {size[0]}, {size[1]}, 3)")
        # A new array in any case: views may be flipped or read-only, and may change behind our back.
        return np.array(frames, order="C"), np.array(self.check(actions, (len(frames) - 1,)))
