"""Whether a world and a task mean the same: frames, cameras, rate and actions.  Nothing is fed to a world before."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wcsim.envs.tasks import Task
from wcsim.errors import ConfigError
from wcsim.types import WorldSpec
from wcsim.world.state_model import StateModel


def check_world(task: Task, spec: WorldSpec) -> None:
    """ConfigError unless a world imagines this task's frames under this task's actions.  The world names the task, or,
    where it was trained by `module:Class`, its class."""
    names = (task.name, f"{type(task).__module__}:{type(task).__qualname__}")
    if spec.task not in names or spec.frame_size != task.frame_size:
        raise ConfigError(f"world {spec.name!r} imagines task {spec.task!r} at {list(spec.frame_size)}; asked for "
                          f"{task.name!r} at {list(task.frame_size)}")
    cameras = tuple((one.name, one.height, one.width) for one in task.cameras.cameras)
    if spec.cameras and spec.cameras != cameras:
        raise ConfigError(f"world {spec.name!r} imagines the cameras {_views(spec.cameras)}; task {task.name!r} has "
                          f"{_views(cameras)}")
    if spec.fps != task.fps:
        raise ConfigError(f"world {spec.name!r} imagines {spec.fps:g} frames a second; task {task.name!r} has "
                          f"{task.fps:g}")
    check_actions(task, spec)


def check_actions(task: Task, spec: WorldSpec) -> None:
    """ConfigError unless both have the same actions: names, units, which are values to hold, and bounds."""
    world, action, ours = f"world {spec.name!r}", spec.action, task.action
    if (action.names, action.units) != (ours.names, ours.units):
        raise ConfigError(f"{world} takes the actions {', '.join(action.names)} in {action.units!r}; task "
                          f"{task.name!r} has {', '.join(ours.names)} in {ours.units!r}")
    if set(action.absolute) != set(ours.absolute):
        raise ConfigError(f"{world} takes {_held(action.absolute)} as values to hold; task {task.name!r} "
                          f"{_held(ours.absolute)}")
    if (action.low, action.high) != (ours.low, ours.high):
        raise ConfigError(f"{world} takes actions from {list(action.low)} to {list(action.high)}; task {task.name!r} "
                          f"has {list(ours.low)} to {list(ours.high)}")


def check_reports(task: Task, world: str, model: StateModel) -> None:
    """ConfigError unless what a world's state model says of the robot has the sizes that the task gives it."""
    told = model.values(torch.zeros(1, model.memory_size))
    for quantity in task.state.robot:
        if quantity.name in told and told[quantity.name].shape[-1] != quantity.size:
            raise ConfigError(f"world {world!r} predicts {quantity.name!r} as {told[quantity.name].shape[-1]} numbers; "
                              f"task {task.name!r} has {quantity.size}")


def _views(cameras: Sequence[tuple[str, int, int]]) -> str:
    return ", ".join(f"{name} {height}x{width}" for name, height, width in cameras)


def _held(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
