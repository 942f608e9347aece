"""Snapshots that clients send, checked against a lane of the served world.

Easy to get wrong: safetensors are whole or refused, yet shapes, kinds and values are the sender's; what does not look
exactly like a lane of this world never reaches it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wcsim.actions import check_action
from wcsim.envs.lanes import Ahead, Imagination, Lane
from wcsim.envs.observations import no_robot_state
from wcsim.envs.snapshots import unpack_snapshots
from wcsim.envs.tasks import Start
from wcsim.errors import ActionError, SnapshotError
from wcsim.serve.sessions import Host
from wcsim.types import WorldState


def untrusted_lane(host: Host, imagination: Imagination, tensors: bytes, description: str) -> Lane:
    """The lane of a snapshot from outside; SnapshotError where it is not one of this world."""
    try:
        snapshots = unpack_snapshots(tensors, description, device=str(host.world.device), where="the request")
    except (ValueError, AttributeError, RuntimeError, RecursionError) as error:
        raise SnapshotError(f"the request does not hold whole snapshots: {type(error).__name__}") from error
    if len(snapshots) != 1:
        raise SnapshotError(f"a session returns to one snapshot, got {len(snapshots)}")
    (snapshot,) = snapshots
    if snapshot.fingerprint != host.fingerprint:
        raise SnapshotError("the snapshot is of another world, or another version of it")
    like = template(host, imagination)
    _check_state(snapshot.lane.state, like.state)
    _check_lane(snapshot.lane, host)
    if snapshot.lane.ahead is not None:
        _check_ahead(snapshot.lane.ahead, host, like.state)
    return snapshot.lane


def template(host: Host, imagination: Imagination) -> Lane:
    """Any lane of the world."""
    if host.template is None:
        size, dim = host.task.frame_size, host.task.action.dim
        start = Start(np.zeros((1, *size, 3), np.uint8), np.zeros((0, dim), np.float32), None)
        host.template = imagination.begin(start, 0).lane
    return host.template


def _check_state(state: WorldState, like: WorldState) -> None:
    for name, wanted in like.tensors().items():
        _same(getattr(state, name), tuple(wanted.shape), wanted.dtype, f"state.{name}")
    past = like.latents.shape[1]
    if not bool(((state.length >= 1) & (state.length <= past) & (state.frame >= 0) & (state.seed >= 0)).all()):
        raise SnapshotError("length, frame or seed of the snapshot's state is out of range")
    if bool((state.frame > 2**40).any()):
        raise SnapshotError("the frame number of the snapshot's state is out of range")


def _check_lane(lane: Lane, host: Host) -> None:
    robot = no_robot_state(host.task.state, 1)[0]
    _array(lane.pixels, (*host.task.frame_size, 3), np.uint8, "pixels")
    _array(lane.robot, robot.shape, np.float32, "robot")
    if lane.latent is not None:
        _same(lane.latent, tuple(host.spec.latent_shape), None, "latent")


def _check_ahead(ahead: Ahead, host: Host, like: WorldState) -> None:
    """Frames ahead: as many as there are actions, and some still to be shown."""
    count = len(ahead.actions) if ahead.actions.ndim else 0
    if not 1 <= count <= host.limits.chunk or isinstance(ahead.shown, bool) or not isinstance(ahead.shown, int) or (
            not 0 <= ahead.shown < count):
        raise SnapshotError("the frames ahead of the snapshot do not fit their actions")
    try:
        _array(ahead.actions, (count, host.task.action.dim), np.float32, "ahead.actions")
        check_action(host.task.action, ahead.actions)
    except ActionError as error:
        raise SnapshotError(f"the snapshot's actions are refused: {error}") from error
    _check_state(ahead.after, like)
    _array(ahead.frames, (count, *host.task.frame_size, 3), np.uint8, "ahead.frames")
    _same(ahead.latents, (count, *host.spec.latent_shape), None, "ahead.latents")
    hit, depth = ahead.trace.hit, ahead.trace.depth
    tables = (ahead.trace.drift, ahead.trace.threshold, ahead.trace.gain, ahead.trace.blocks,
              *ahead.trace.by_branch.values())
    if hit.ndim != 3 or hit.dtype != np.bool_ or hit.shape[2] != 1 or not 1 <= len(hit) <= count or (
            any(table.shape != hit.shape for table in tables)) or not isinstance(depth, int) or depth < 1:
        raise SnapshotError("the trace of the frames ahead of the snapshot is not whole")


def _same(value: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None, name: str) -> None:
    if tuple(value.shape) != shape or (value.dtype != dtype if dtype is not None else not value.is_floating_point()):
        raise SnapshotError(f"the snapshot's {name} is {value.dtype} {list(value.shape)}, not of this world")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise SnapshotError(f"the snapshot's {name} is not finite")


def _array(value: np.ndarray, shape: tuple[int, ...], dtype: type, name: str) -> None:
    if value.shape != shape or value.dtype != dtype or not bool(np.isfinite(value).all()):
        raise SnapshotError(f"the snapshot's {name} is {value.dtype} {list(value.shape)}, not of this world")

