"""What learned policies see: where robot and scene are, as numbers near 1, by the task that they were learnt on.

Easy to get wrong: an angle is shown as cosine and sine, and one thing's place as seen from another, so that a network
need not learn to subtract.  Shapes: `...` any leading axes, R of the robot's state, S of the scene's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wcsim.errors import CheckpointError

Read = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Robot `[..., R]`, scene `[..., S]` and the actions' bounds `[A]` to features `[..., numbers]` float32."""


@dataclass(frozen=True, slots=True)
class Sight:
    """How the states of one task are read.

    read: the features; numbers: how many.  anchored: whether actions are places of the robot, so that a chunk is of
    offsets from where it is; else actions are offsets themselves.  unseen: `[S]`, where a scene that was never seen is
    taken to be.  shaken: `[R + S]`, what noise of 1 on places in training is on every number.
    """

    read: Read
    numbers: int
    robot: int
    anchored: bool
    unseen: tuple[float, ...]
    shaken: tuple[float, ...]


def pose_features(agent: np.ndarray, block: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """PushT: features `[..., 8]` of agents `[..., 2]` and block poses `[..., 3]`, lengths in halves of the range: the
    agent, the block, its heading's cosine and sine, the agent as seen from the block."""
    middle, half = (low + high) / 2, (high - low) / 2
    c, s = np.cos(block[..., 2]), np.sin(block[..., 2])
    away = (agent - block[..., :2]) / half
    seen = np.stack([c * away[..., 0] + s * away[..., 1], c * away[..., 1] - s * away[..., 0]], axis=-1)
    heading = np.stack([c, s], axis=-1)
    parts = ((agent - middle) / half, (block[..., :2] - middle) / half, heading, seen)
    return np.concatenate(parts, axis=-1).astype(np.float32)


def arm_features(robot: np.ndarray, cube: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The arm: features `[..., 17]` of effector x y z, yaw and gripper `[..., 5]` and of cubes x y z and yaw
    `[..., 4]`, lengths in 10 cm about the middle of the table: effector, its yaw's cosine and sine, gripper, cube, cube
    from the effector, the same where it is near, and cosine and sine of four times the turn between them."""
    del low, high
    middle = np.array([42.5, 0.0, 0.0])
    apart = cube[..., :3] - robot[..., :3]
    turn = 4.0 * (cube[..., 3:] - robot[..., 3:4])
    parts = ((robot[..., :3] - middle) / 10.0, np.cos(robot[..., 3:4]), np.sin(robot[..., 3:4]), robot[..., 4:],
             (cube[..., :3] - middle) / 10.0, apart / 10.0, np.tanh(apart / 1.5), np.cos(turn), np.sin(turn))
    return np.concatenate(parts, axis=-1).astype(np.float32)


SIGHTS = {
    "pusht": Sight(pose_features, 8, 2, True, (256.0, 256.0, 0.0), (1.0, 1.0, 1.0, 1.0, 1.0 / 60.0)),
    "cube": Sight(arm_features, 17, 5, False, (42.5, 0.0, 2.0, 0.0),
                  (0.3, 0.3, 0.3, 0.02, 0.03, 1.0, 1.0, 1.0, 0.1)),
}
"""By task."""


def sight_of(task: str) -> Sight:
    """CheckpointError for a task whose states are not known here."""
    if task not in SIGHTS:
        raise CheckpointError(f"the policy was learnt on task {task!r}; known: {', '.join(SIGHTS)}")
    return SIGHTS[task]
