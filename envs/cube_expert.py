"""The arm's scripted expert: picks the cube up and puts it down at its goal, from what is estimated.

It remembers its phase and smooths what it sees, so a centimetre of noise on the cube does not spoil a grasp; it reads
neither contact nor the gripper's opening.  Lengths are cm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from wcsim.envs.cube_hand import Hand, PickAndPlace
from wcsim.errors import ConfigError
from wcsim.estimate import Episode, Estimate, Goal


class CubeTask(Protocol):
    """What the expert needs of its task: a goal of `cube` `[3]`, and an estimator."""

    @property
    def goal(self) -> Goal | None: ...

    def estimate(self, frames: np.ndarray) -> Estimate: ...


class CubeExpert:
    """Puts `cube` down at the goal of the episode, or of the task where the episode has none.

    It acts from `agent_pos` `[5]` (effector x y z, its yaw, gripper) and `environment_state` `[4]` (cube x y z, its
    yaw), and estimates the cube from `pixels` where the observation has no `environment_state`.  seen_off_cm: how far
    along y it takes the cube to be from where it is seen.  closes: False never closes the gripper.
    """

    def __init__(self, task: CubeTask, *, seen_off_cm: float = 0.0, closes: bool = True) -> None:
        self._task, self._closes = task, closes
        self._offset = np.array([0.0, seen_off_cm, 0.0])
        self.reset(Episode(0, 0))

    def reset(self, episode: Episode) -> None:
        """Forget the last episode.  ConfigError for a goal without the cube's place."""
        goal = self._task.goal if episode.goal is None else episode.goal
        if goal is None or "cube" not in goal.values:
            raise ConfigError("the expert puts a cube down at a goal of cube, and has "
                              f"{'none' if goal is None else ', '.join(goal.values)}")
        self._hand = PickAndPlace(goal.values["cube"][:2], offset=self._offset, closes=self._closes)

    def act(self, observation: Mapping[str, np.ndarray], steps_left: int | None = None) -> np.ndarray:
        """The next action `[5]` in [-1, 1]."""
        robot = np.array(observation["agent_pos"], np.float64)
        if "environment_state" in observation:
            cube = np.array(observation["environment_state"], np.float64)
        else:
            seen = self._task.estimate(observation["pixels"][None]).values
            cube = np.concatenate([seen["cube"][0], seen["cube_yaw"][0]])
        return self._hand.act(Hand(robot[:3], float(robot[3]), cube[:3], float(cube[3])))
