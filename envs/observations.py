"""What is observed, built in one place: for an environment's own lane, and batched for policies.

`pixels` are the frames of the only camera, or a mapping by camera; `agent_pos` is the whole state of the robot, which
LeRobot calls so.  Easy to get wrong: what was not found keeps its last value in `agent_pos` and is NaN in
`environment_state`; a value is clipped to the bounds of its own quantity and of nothing else.

Shapes: N lanes, H W of the mosaic, R numbers of the robot, E of the scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from wcsim.cameras import Cameras
from wcsim.estimate import Estimate
from wcsim.spec import Quantity, StateSpec, flatten

if TYPE_CHECKING:
    from wcsim.envs.tasks import Task
    from wcsim.types import ActionSpec

Observation = dict[str, Any]
"""One lane's `pixels` (uint8 `[H, W, 3]`, or those of each camera by its name) and `agent_pos` (float32 `[R]`)."""

Observations = dict[str, Any]
"""The same of N lanes, and more; see `observations`."""


def action_space(action: ActionSpec) -> gym.spaces.Box:
    """The space `[A]` float32 of a specification's bounds."""
    low, high = (np.array(bound, dtype=np.float32) for bound in (action.low, action.high))
    return gym.spaces.Box(low, high, dtype=np.float32)


def observation_space(state: StateSpec, cameras: Cameras) -> gym.spaces.Dict:
    """The space of one lane's observation."""
    views: dict[str, gym.Space[Any]] = {
        camera.name: gym.spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8) for camera in cameras.cameras}
    pixels = next(iter(views.values())) if len(views) == 1 else gym.spaces.Dict(views)
    low, high = robot_bounds(state)
    return gym.spaces.Dict({"pixels": pixels, "agent_pos": gym.spaces.Box(low, high, dtype=np.float32)})


def robot_bounds(state: StateSpec) -> tuple[np.ndarray, np.ndarray]:
    """Least and most of each number of the robot's state, float32 `[R]`."""
    low, high = (np.array([bound for quantity in state.robot for bound in [getattr(quantity, name)] * quantity.size],
                          dtype=np.float32) for name in ("low", "high"))
    return low, high


def no_robot_state(state: StateSpec, lanes: int) -> np.ndarray:
    """What stands for a robot that was never found, float32 `[N, R]`: zero, or the bound that is nearest to it."""
    low, high = robot_bounds(state)
    return np.tile(np.clip(np.zeros_like(low), low, high), (lanes, 1))


def robot_state(state: StateSpec, estimate: Estimate, last: np.ndarray) -> np.ndarray:
    """The robot's state float32 `[N, R]`: what is estimated, and `last` `[N, R]` where a quantity was not found."""
    low, high = robot_bounds(state)
    if not len(low):
        return np.array(last, dtype=np.float32)
    seen = np.clip(flatten(state.robot, estimate.values).astype(np.float32), low, high)
    return np.where(found_of(state.robot, estimate), seen, last).astype(np.float32)


def found_of(quantities: Sequence[Quantity], estimate: Estimate) -> np.ndarray:
    """Whether each number of some quantities was found, bool `[N, sum of sizes]`."""
    return np.concatenate([np.repeat(estimate.found[quantity.name][:, None], quantity.size, axis=1)
                           for quantity in quantities], axis=1)


def observation(task: Task, frame: np.ndarray, robot: np.ndarray) -> Observation:
    """One lane's observation of a mosaic `[H, W, 3]` and the robot's state `[R]`; all arrays are copies."""
    pixels = task.cameras.split(frame)
    views = {name: view.copy() for name, view in pixels.items()} if isinstance(pixels, dict) else pixels.copy()
    return {"pixels": views, "agent_pos": robot.copy()}


def observations(
    task: Task, frames: np.ndarray, robot: np.ndarray, estimate: Estimate, *,
    instructions: Sequence[str] | None = None, active: np.ndarray | None = None,
) -> Observations:
    """What policies see of N lanes: mosaics `[N, H, W, 3]`, the robot's state `[N, R]` and what is estimated.

    pixels: uint8 `[N, H, W, 3]`, or those of each camera by its name.  agent_pos: float32 `[N, R]`.
    environment_state: float64 `[N, E]`, NaN where not found.  task: the N instructions; None: the task's description.
    active: bool `[N]`, the lanes whose episodes go on; None: all.
    """
    lanes = len(frames)
    scene = flatten(task.state.scene, estimate.values) if task.state.scene else np.zeros((lanes, 0))
    return {
        "pixels": task.cameras.split(frames),
        "agent_pos": np.asarray(robot, dtype=np.float32),
        "environment_state": scene,
        "task": [task.description] * lanes if instructions is None else list(instructions),
        "active": np.ones(lanes, dtype=np.bool_) if active is None else np.asarray(active, dtype=np.bool_),
    }
