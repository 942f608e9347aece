"""Whether a lane that came from elsewhere is one of this world: shapes, kinds and values of all that it holds.

Easy to get wrong: files and messages are whole or refused, yet what lies in them is the sender's; what does not look
exactly like a lane of this world never reaches it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wcsim.actions import check_action
from wcsim.envs.lanes import Ahead, Lane
from wcsim.envs.observations import no_robot_state
from wcsim.envs.tasks import Task
from wcsim.errors import ActionError, SnapshotError
from wcsim.types import Trace, WorldState
from wcsim.world.world import World

FARTHEST = 2**40
"""Most frames of an episode."""


def check_lane(lane: Lane, world: World, task: Task, *, most: int | None = None) -> None:
    """SnapshotError, which names the part, unless the lane is one of this task in this world.  most: frames ahead."""
    like = world.empty_state()
    check_state(lane.state, like)
    robot = no_robot_state(task.state, 1)[0]
    _array(lane.pixels, (*task.frame_size, 3), np.uint8, "pixels")
    _array(lane.robot, robot.shape, np.float32, "robot")
    if lane.latent is not None:
        _same(lane.latent, tuple(world.spec.latent_shape), None, "latent")
    if not isinstance(lane.changed, float) or not 0.0 <= lane.changed <= 1.0:
        raise SnapshotError(f"the snapshot's guardrail changed {lane.changed!r} of a frame, not a share of it")
    if lane.ahead is not None:
        _check_ahead(lane.ahead, world, task, like, most)


def check_state(state: WorldState, like: WorldState) -> None:
    """SnapshotError unless the state has the shapes and types of `like`, finite values and numbers in range."""
    for name, wanted in like.tensors().items():
        _same(getattr(state, name, None), tuple(wanted.shape), wanted.dtype, f"state.{name}")
    past = like.latents.shape[1]
    if not bool(((state.length >= 1) & (state.length <= past) & (state.frame >= 0) & (state.seed >= 0)).all()):
        raise SnapshotError("length, frame or seed of the snapshot's state is out of range")
    if bool((state.frame > FARTHEST).any()):
        raise SnapshotError("the frame number of the snapshot's state is out of range")


def _check_ahead(ahead: Ahead, world: World, task: Task, like: WorldState, most: int | None) -> None:
    """Frames ahead: as many as there are actions, and some still to be shown."""
    count = len(ahead.actions) if np.ndim(ahead.actions) else 0
    if count < 1 or (most is not None and count > most) or type(ahead.shown) is not int or not 0 <= ahead.shown < count:
        raise SnapshotError("the frames ahead of the snapshot do not fit their actions")
    _array(ahead.actions, (count, task.action.dim), np.float32, "ahead.actions")
    try:
        check_action(task.action, ahead.actions)
    except ActionError as error:
        raise SnapshotError(f"the snapshot's actions are refused: {error}") from error
    check_state(ahead.after, like)
    _array(ahead.frames, (count, *task.frame_size, 3), np.uint8, "ahead.frames")
    _array(ahead.changed, (count,), None, "ahead.changed")
    _same(ahead.latents, (count, *world.spec.latent_shape), None, "ahead.latents")
    _check_trace(ahead.trace, count)


def _check_trace(trace: Trace, count: int) -> None:
    """Tables of one lane, alike in shape, of no more passes than frames."""
    shape: tuple[int, ...] = getattr(trace.hit, "shape", ())
    if len(shape) != 3 or trace.hit.dtype != np.bool_ or shape[2] != 1 or not 1 <= shape[0] <= count:
        raise SnapshotError("the trace of the frames ahead of the snapshot is not whole")
    for table in (trace.drift, trace.threshold, trace.gain, trace.blocks, *trace.by_branch.values()):
        if getattr(table, "shape", ()) != shape:
            raise SnapshotError("the trace of the frames ahead of the snapshot is not whole")
    if type(trace.depth) is not int or trace.depth < 1:
        raise SnapshotError(f"the trace of the frames ahead of the snapshot is {trace.depth!r} blocks deep")


def _same(value: Any, shape: tuple[int, ...], dtype: torch.dtype | None, name: str) -> None:
    if not isinstance(value, Tensor):
        raise SnapshotError(f"the snapshot's {name} is {type(value).__name__}, not a tensor")
    kind = value.dtype == dtype if dtype is not None else value.is_floating_point()
    if tuple(value.shape) != shape or not kind:
        raise SnapshotError(f"the snapshot's {name} is {value.dtype} {list(value.shape)}, not of this world")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise SnapshotError(f"the snapshot's {name} is not finite")


def _array(value: Any, shape: tuple[int, ...], dtype: type | None, name: str) -> None:
    if not isinstance(value, np.ndarray):
        raise SnapshotError(f"the snapshot's {name} is {type(value).__name__}, not an array")
    kind = value.dtype == dtype if dtype is not None else value.dtype.kind == "f"
    if value.shape != shape or not kind or not bool(np.isfinite(value).all()):
        raise SnapshotError(f"the snapshot's {name} is {value.dtype} {list(value.shape)}, not of this world")
