"""What a served world and its clients say to each other: values to messages and back, and the schema's version.

`docs/serve.md` lists the requests.  Easy to get wrong: a tick travels whole (frame, robot, estimate, reward, trace), so
that a client makes `info` by the same code as the environment next door, and no number is rounded on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from wcsim.envs.lanes import Lane, Tick, read_only
from wcsim.envs.tasks import Start
from wcsim.errors import ActionError, ConfigError, RemoteError, SnapshotError, WcsimError
from wcsim.estimate import Estimate
from wcsim.types import Trace, WorldState

VERSION = 1
"""Of the schema; a client refuses another one."""

ERRORS: dict[str, type[WcsimError]] = {
    kind.__name__: kind for kind in (ActionError, ConfigError, SnapshotError, RemoteError)}
"""Refusals that keep their kind over the wire."""

TABLES = ("hit", "drift", "threshold", "gain", "blocks")

ELSEWHERE = WorldState(*(torch.empty(0) for _ in fields(WorldState)))
"""The state of a lane whose state is on the server."""

Message = Mapping[str, Any]


def pack_tick(tick: Tick, *, show: bool = True) -> dict[str, Any]:
    """A tick as a message.  show: with the frame."""
    told: dict[str, Any] = {"robot": tick.lane.robot, "reward": tick.reward, "estimate": pack_estimate(tick.estimate),
                            "guardrail": tick.guardrail, "changed": tick.lane.changed}
    if show:
        told["pixels"] = tick.lane.pixels
    if tick.trace is not None:
        trace = tick.trace
        told["trace"] = {**{name: getattr(trace, name) for name in TABLES}, "depth": trace.depth,
                         "by_branch": dict(trace.by_branch), "spans_ms": dict(trace.spans_ms)}
    return told


def unpack_tick(told: Message) -> Tick:
    """What `pack_tick` made, of a lane whose state is elsewhere."""
    lane = Lane(ELSEWHERE, read_only(np.array(told["pixels"])), read_only(np.array(told["robot"])),
                changed=told["changed"])
    trace = told.get("trace")
    if trace is not None:
        tables: dict[str, Any] = {name: trace[name] for name in TABLES}
        trace = Trace(**tables, depth=trace["depth"], spans_ms=trace["spans_ms"], by_branch=trace["by_branch"])
    return Tick(lane, unpack_estimate(told["estimate"]), told["reward"], trace, told["guardrail"])


def pack_estimate(estimate: Estimate) -> dict[str, Any]:
    """An estimate as a message."""
    return {field.name: getattr(estimate, field.name) for field in fields(Estimate)}


def unpack_estimate(told: Message) -> Estimate:
    """What `pack_estimate` made."""
    def own(value: Any) -> Any:
        return {name: own(part) for name, part in value.items()} if isinstance(value, dict) else np.array(value)

    return Estimate(**{field.name: own(told[field.name]) for field in fields(Estimate)})


def pack_start(start: Start) -> dict[str, Any]:
    """The part of a start that a world needs."""
    return {"frames": np.ascontiguousarray(start.frames), "actions": np.asarray(start.actions, dtype=np.float32)}


def unpack_start(told: Message) -> Start:
    """What `pack_start` made; the environment checks frames and actions."""
    return Start(told["frames"], told["actions"], truth=None)


def refusal(error: WcsimError) -> dict[str, str]:
    """An error as a message."""
    kind = next((name for name, known in ERRORS.items() if isinstance(error, known)), "RemoteError")
    return {"kind": kind, "message": str(error)}


def raise_refusal(told: Message) -> None:
    """Raise what a server refused with."""
    raise ERRORS.get(str(told.get("kind")), RemoteError)(str(told.get("message")))


def actions_of(chunk: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Checked actions as they travel, float32 `[k, A]`."""
    return np.ascontiguousarray(chunk, dtype=np.float32)
