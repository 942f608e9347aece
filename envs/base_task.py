"""Defaults for everything of a task that can have one, so that a task of one's own says only what it alone knows.

Easy to get wrong: `estimate` finds nothing and `estimate_state` knows no partial progress until a task says otherwise.

Shapes: N frames, H W of the mosaic of all cameras, A action.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from wcsim.cameras import Cameras
from wcsim.envs import observations
from wcsim.envs.driving import Driving, driving_of
from wcsim.envs.tasks import Start, Truth
from wcsim.errors import ConfigError
from wcsim.estimate import Estimate, Goal
from wcsim.spec import StateSpec, Values

if TYPE_CHECKING:
    from wcsim.types import ActionSpec


class BaseTask:
    """A `Task` but for what only the task can know.

    To say: `name`, `description`, `action`, `state`, `cameras`, and `make_truth` with a truth that has `reset(seed)`
    too (or `start`).  Usually also `estimate`; the goal and `within`, the tolerance by unit within which it is reached.
    """

    name: str
    description: str
    action: ActionSpec
    state: StateSpec
    cameras: Cameras
    fps: float = 10.0
    max_episode_steps: int = 300
    goal: Goal | None = None
    within: Mapping[str, float] = {}
    expert: str | None = None
    proprioception: bool = False

    @property
    def frame_size(self) -> tuple[int, int]:
        """H, W of the mosaic of all cameras."""
        return self.cameras.frame_size

    @property
    def action_space(self) -> gym.spaces.Box:
        """The bounds of the actions."""
        return observations.action_space(self.action)

    @property
    def driving(self) -> Driving:
        """How a person drives it, by its actions' specification."""
        return driving_of(self.action)

    @property
    def observation_space(self) -> gym.spaces.Dict:
        """The frames of all cameras and the robot's state."""
        return observations.observation_space(self.state, self.cameras)

    def start(self, seed: int) -> Start:
        """One frame, no actions, from the ground truth's own draw."""
        truth: Any = self.make_truth()
        try:
            pixels = truth.reset(seed).pixels
            return Start(pixels[None], np.zeros((0, self.action.dim), dtype=np.float32), truth.snapshot())
        finally:
            truth.close()

    def estimate(self, frames: np.ndarray) -> Estimate:
        """Nothing is found in frames `[N, H, W, 3]`."""
        return Estimate.nothing(self.state, len(self.check_frames(frames)))

    def estimate_state(self, values: Values) -> Estimate:
        """Success where the goal is reached within the tolerances; progress is then 1, else 0."""
        lanes = len(next(iter(values.values()))) if values else 0
        given = {name: np.asarray(value, np.float64) for name, value in values.items()}
        quantities = {**self.state.unknown(lanes), **given}
        found = {name: np.isfinite(value).all(-1) for name, value in quantities.items()}
        success = np.zeros(lanes, dtype=bool)
        if self.goal is not None and self.within:
            success = self.goal.reached(self.state, quantities, self.within)
        whole = np.all([*found.values(), np.ones(lanes, dtype=bool)], axis=0)
        return Estimate(quantities, found, success.astype(np.float64), success, whole)

    def reward(self, estimate: Estimate) -> np.ndarray:
        """The progress."""
        return np.asarray(estimate.progress)

    def make_truth(self) -> Truth:
        """There is none."""
        raise ConfigError(f"task {self.name!r} has no simulator: play it in a world, from starts of your own")

    def goal_frame(self) -> np.ndarray:
        """The goal's own frame."""
        if self.goal is None or self.goal.frame is None:
            raise ConfigError(f"task {self.name!r} has no frame of its goal")
        return self.goal.frame.copy()

    def hold_action(self, frame: np.ndarray) -> np.ndarray:
        """No change, and the middle of what is absolute."""
        del frame
        low, high = np.asarray(self.action.low), np.asarray(self.action.high)
        absolute = [name in self.action.absolute for name in self.action.names]
        action: np.ndarray = np.where(absolute, (low + high) / 2, np.clip(0.0, low, high))
        return action

    def explore(self, rng: np.random.Generator, truth: Truth) -> Iterator[np.ndarray]:
        """Random actions, each held for 1 to 8 ticks."""
        del truth
        while True:
            drawn = rng.uniform(self.action.low, self.action.high)
            for _ in range(int(rng.integers(1, 9))):
                yield drawn

    def files(self) -> list[Path]:
        """None."""
        return []

    def check_frames(self, frames: np.ndarray) -> np.ndarray:
        """The frames, contiguous, so that sums do not round by memory layout; ValueError unless they are uint8
        `[N, H, W, 3]`."""
        height, width = self.frame_size
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (height, width, 3):
            raise ValueError(f"frames are {frames.dtype} {frames.shape}; the estimator of task {self.name!r} reads "
                             f"uint8 [N, {height}, {width}, 3]")
        return np.ascontiguousarray(frames)
