"""What a recorded session played, tick by tick.  Easy to get wrong: T actions lie between T + 1 frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from wcsim.envs.lanes import Tick


@dataclass(slots=True)
class Reel:
    """frames: T + 1 of `[H, W, 3]` uint8.  robots: T + 1 states `[R]`.  actions: T of `[A]`.  rewards: T.  success:
    T + 1, whether the task is solved in each frame."""

    frames: list[np.ndarray] = field(default_factory=list)
    robots: list[np.ndarray] = field(default_factory=list)
    success: list[bool] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    @classmethod
    def begin(cls, tick: Tick) -> Self:
        """At a start."""
        made = cls()
        made._see(tick)
        return made

    def add(self, actions: np.ndarray, ticks: Sequence[Tick]) -> None:
        """Actions `[k, A]` and what they led to."""
        for action, tick in zip(actions, ticks, strict=True):
            self.actions.append(np.array(action, np.float32))
            self.rewards.append(tick.reward)
            self._see(tick)

    def cut(self, steps: int) -> None:
        """Forget all after so many steps."""
        for kept, count in ((self.frames, steps + 1), (self.robots, steps + 1), (self.success, steps + 1),
                            (self.actions, steps), (self.rewards, steps)):
            del kept[count:]

    def copy(self) -> Reel:
        """Its own lists of the same arrays."""
        return Reel(list(self.frames), list(self.robots), list(self.success), list(self.actions), list(self.rewards))

    def _see(self, tick: Tick) -> None:
        self.frames.append(tick.lane.pixels)
        self.robots.append(tick.lane.robot)
        self.success.append(tick.success)
