"""Requests of strangers, checked whole before any session sees them.

`FIELDS` is the schema: which operation takes which fields.  Easy to get wrong: a field that nobody checks reaches the
world, so an unknown one is refused, and numbers are checked for kind, range and NaN here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wcsim.actions import check_action
from wcsim.envs.tasks import Task
from wcsim.errors import ActionError, RemoteError
from wcsim.messages import unpack
from wcsim.serve.limits import Limits

HIGHEST = 2**63 - 1


class Malformed(RemoteError):
    """A request that no honest client sends; its connection is closed with this reason."""


@dataclass(frozen=True, slots=True)
class Request:
    """id: the client's number.  session: None only for SESSIONLESS operations.  shown: announced ticks shown since the
    last request.  fields: what else the operation takes, all of it checked."""

    id: int
    op: str
    session: int | None
    shown: int
    fields: dict[str, Any]


class Schema:
    """Reads requests about one task."""

    def __init__(self, task: Task, limits: Limits) -> None:
        self._task, self._limits = task, limits

    def read(self, message: bytes) -> Request:
        """The request that a message holds; Malformed says why it holds none."""
        try:
            raw = unpack(message, max_bytes=self._limits.message_bytes)
        except RemoteError as error:
            raise Malformed(str(error)) from error
        if not isinstance(raw, dict):
            raise Malformed(f"a request is a mapping, got a {type(raw).__name__}")
        op = raw.get("op")
        if not isinstance(op, str) or op not in FIELDS:
            raise Malformed(f"op is one of {', '.join(FIELDS)}")
        unknown = set(raw) - {"id", "op", "session", "shown", *FIELDS[op]}
        if unknown:
            raise Malformed(f"{op} has no field {sorted(map(str, unknown))[0][:40]!r}")
        session = None if op in SESSIONLESS else whole(raw.get("session"), "session")
        fields = {name: self._field(op, name, raw[name]) for name in FIELDS[op] if name in raw}
        missing = REQUIRED.get(op, set()) - set(fields)
        if missing:
            raise Malformed(f"{op} needs {sorted(missing)[0]}")
        if "sessions" in fields and len(fields["names"]) != len(fields["sessions"]):
            raise Malformed(f"{op} needs a name for each session")
        if "of" in fields and fields["of"] not in fields["names"]:
            raise Malformed("record is of one of the names")
        return Request(whole(raw.get("id"), "id"), op, session,
                       whole(raw.get("shown", 0), "shown", self._limits.chunk), fields)

    def _field(self, op: str, name: str, value: Any) -> Any:
        try:
            return FIELDS[op][name](self, value)
        except ActionError as error:
            raise Malformed(str(error)) from error

    def actions(self, value: Any) -> np.ndarray:
        """`[k, A]` float32, finite and within bounds."""
        array = self._rows(value, most=self._limits.chunk, what="actions")
        if not len(array):
            raise Malformed("actions are [k, A] with k at least 1")
        return array

    def start(self, value: Any) -> dict[str, np.ndarray]:
        """`frames` `[T, H, W, 3]` and `actions` `[T-1, A]`."""
        if not isinstance(value, dict) or set(value) != {"frames", "actions"}:
            raise Malformed("a start has frames and actions")
        start = {"frames": self.frames(value["frames"]), "actions": self.past(value["actions"])}
        if len(start["actions"]) != len(start["frames"]) - 1:
            raise Malformed("a start of T frames has T - 1 actions")
        return start

    def frames(self, value: Any) -> np.ndarray:
        """`[T, H, W, 3]` uint8 of the task's size."""
        size, most = (*self._task.frame_size, 3), self._limits.start_frames
        if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 4 or (
                value.shape[1:] != size or not 1 <= len(value) <= most):
            raise Malformed(f"frames are uint8 [1 to {most}, {', '.join(map(str, size))}]")
        return value

    def past(self, value: Any) -> np.ndarray:
        """Actions between frames."""
        return self._rows(value, most=self._limits.start_frames, what="past actions")

    def sessions(self, value: Any) -> list[int]:
        """Numbers of sessions, each once."""
        if not isinstance(value, list) or not 1 <= len(value) <= self._limits.sessions_each:
            raise Malformed("sessions are a list of numbers")
        return list(dict.fromkeys(whole(number, "a session") for number in value))

    def names(self, value: Any) -> list[str]:
        """Words, each once."""
        if not isinstance(value, list) or len(set(map(str, value))) != len(value) or not all(
                isinstance(name, str) and name.isidentifier() and len(name) <= 40 for name in value):
            raise Malformed("names are words, each once")
        return value

    def count(self, value: Any) -> int:
        """How many branches."""
        return whole(value, "count", self._limits.sessions_each)

    def _rows(self, value: Any, *, most: int, what: str) -> np.ndarray:
        dim = self._task.action.dim
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or value.ndim != 2 or (
                value.shape[1] != dim or len(value) > most):
            raise Malformed(f"{what} are an array [at most {most}, {dim}]")
        return check_action(self._task.action, value)


def whole(value: Any, name: str, most: int = HIGHEST) -> int:
    """An integer from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise Malformed(f"{name} is an integer from 0 to {most}")
    return value


def flag(schema: Schema, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Malformed("a flag is true or false")
    return value


def text(schema: Schema, value: Any) -> str:
    """Text, as long as the message may be."""
    if not isinstance(value, str):
        raise Malformed("text is expected")
    return value


def raw_bytes(schema: Schema, value: Any) -> bytes:
    """Bytes."""
    if not isinstance(value, bytes):
        raise Malformed("bytes are expected")
    return value


def place(schema: Schema, value: Any) -> str:
    """Where a session plays."""
    if value not in ("world", "truth"):
        raise Malformed("place is world or truth")
    return str(value)


def settings(schema: Schema, value: Any) -> dict[str, Any]:
    """A mapping of plain values; what it may hold is checked where it is used."""
    if not isinstance(value, dict) or not all(isinstance(key, str) and plain(item) for key, item in value.items()):
        raise Malformed("fidelity is a mapping of names to numbers, text, and mappings of these")
    return value


def plain(value: Any) -> bool:
    """Whether a value is a number, text, a flag, nothing, or a mapping or list of these."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and bool(
        np.isfinite(value)))


Check = Callable[[Schema, Any], Any]
SEED: Check = lambda schema, value: whole(value, "seed")  # noqa: E731
NUMBER: Check = lambda schema, value: whole(value, "snapshot")  # noqa: E731

FIELDS: Mapping[str, Mapping[str, Check]] = {
    "open": {"fidelity": settings, "place": place, "record": flag},
    "reset": {"seed": SEED, "start": Schema.start, "snapshot": flag},
    "step": {"actions": Schema.actions, "together": flag, "ahead": flag, "show": flag, "snapshot": flag},
    "anchor": {"frames": Schema.frames, "actions": Schema.past},
    "snapshot": {"data": flag},
    "restore": {"snapshot": NUMBER, "tensors": raw_bytes, "description": text},
    "branch": {"count": Schema.count},
    "look": {"latents": flag, "state": flag},
    "fidelity": {"fidelity": settings},
    "act": {"driver": text},
    "film": {"sessions": Schema.sessions, "names": Schema.names},
    "record": {"sessions": Schema.sessions, "names": Schema.names, "of": text, "name": text},
    "close": {},
}
"""Operation to its fields, each with its check."""

REQUIRED = {"reset": {"seed"}, "step": {"actions"}, "anchor": {"frames", "actions"}, "branch": {"count"},
            "fidelity": {"fidelity"}, "act": {"driver"}, "film": {"sessions", "names"},
            "record": {"sessions", "names", "of", "name"}}
SESSIONLESS = ("open", "film", "record")
