"""Policies behind a server: openpi's protocol, msgpack over a websocket.

The server speaks first (its metadata); then every observation is answered by a chunk of actions, or by text, which is
an error.  Easy to get wrong: arrays travel in openpi's own packing, which is not that of the package msgpack-numpy.
Needs the extra `openpi`; both packages are imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from wcsim.agents.adapters import part
from wcsim.agents.policies import Observation
from wcsim.errors import ConfigError, WcsimError

PUSHT_NAMES = {"observation/image": "pixels", "observation/state": "agent_pos"}
"""The server's name for an input to the observation's."""


class RemoteError(WcsimError):
    """A policy server said something else than actions, or nothing."""


class Connection(Protocol):
    """What is used of a websocket."""

    def send(self, message: bytes) -> None: ...

    def recv(self, timeout: float | None = None) -> str | bytes: ...

    def close(self) -> None: ...


class RemoteSource:
    """A `Source` (`wcsim.agents.adapters`) that asks the server at `address` (ws://host:port) for chunks `[k, A]`.

    names: see `PUSHT_NAMES`; arrays are sent as they are, images uint8 `[H, W, 3]`.  prompt: sent as `prompt`.  key: an
    API key.  timeout_s: to connect, and for every answer.  connect: makes another connection than a websocket.
    It connects on the first call, and again after an error.
    """

    def __init__(
        self, address: str, *, names: Mapping[str, str] = PUSHT_NAMES, prompt: str | None = None,
        key: str | None = None, timeout_s: float = 60.0, connect: Callable[[], Connection] | None = None,
    ) -> None:
        if not address.startswith(("ws://", "wss://")):
            raise ConfigError(f"a policy server's address is ws://host:port or wss://host:port, got {address!r}")
        self._address, self._names, self._prompt, self._key = address, names, prompt, key
        self._timeout_s, self._connect = timeout_s, connect or self._websocket
        self._connection: Connection | None = None
        self.metadata: dict[str, Any] = {}

    def __call__(self, observation: Observation) -> np.ndarray:
        """The server's `actions`.  RemoteError where it cannot be reached, fails, or answers something else."""
        try:
            if self._connection is None:
                self._connection = self._connect()
                self.metadata = self._receive()
            request = {name: sendable(part(observation, key)) for name, key in self._names.items()}
            prompt = {} if self._prompt is None else {"prompt": self._prompt}
            self._connection.send(pack({**request, **prompt}))
            answer = self._receive()
        except RemoteError:
            self.close()
            raise
        except _failures() as error:
            self.close()
            raise RemoteError(f"the policy server at {self._address} does not answer: {error}") from error
        if "actions" not in answer:
            raise RemoteError(f"the policy server at {self._address} answered without actions: {sorted(answer)}")
        return np.asarray(answer["actions"])

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _receive(self) -> dict[str, Any]:
        assert self._connection is not None
        said = self._connection.recv(timeout=self._timeout_s)
        if isinstance(said, str):
            raise RemoteError(f"the policy server at {self._address} failed: {said.strip().splitlines()[-1]}")
        answer: dict[str, Any] = unpack(said)
        return answer

    def _websocket(self) -> Connection:
        headers = None if self._key is None else {"Authorization": f"Api-Key {self._key}"}
        opened = _package("websockets.sync.client").connect(
            self._address, compression=None, max_size=None, additional_headers=headers, open_timeout=self._timeout_s)
        connection: Connection = ExitStack().enter_context(opened)  # wants to be entered; `close` is its way out too
        return connection


def sendable(value: Any) -> Any:
    """Text as it is, all else as an array."""
    return value if isinstance(value, str) else np.asarray(value)


def pack(message: Mapping[str, Any]) -> bytes:
    """Bytes of a message; arrays and numpy's scalars as openpi packs them."""

    def plain(value: Any) -> Any:
        if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind in "VOc":
            raise RemoteError(f"a policy server takes numbers, text and arrays of them, not {type(value).__name__}")
        told = {b"dtype": value.dtype.str}
        if isinstance(value, np.ndarray):
            return told | {b"__ndarray__": True, b"data": value.tobytes(), b"shape": value.shape}
        return told | {b"__npgeneric__": True, b"data": value.item()}

    packed: bytes = _package("msgpack").packb(message, default=plain)
    return packed


def unpack(data: bytes) -> Any:
    """The message that `pack` made, arrays read-only."""

    def rich(value: dict[Any, Any]) -> Any:
        if b"__ndarray__" in value:
            return np.ndarray(value[b"shape"], np.dtype(value[b"dtype"]), value[b"data"])
        if b"__npgeneric__" in value:
            return np.dtype(value[b"dtype"]).type(value[b"data"])
        return value

    return _package("msgpack").unpackb(data, object_hook=rich)


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"a policy server needs the extra openpi (pip install 'wcsim[openpi]'): {error}") from error


def _failures() -> tuple[type[Exception], ...]:
    """What a connection raises."""
    try:
        return OSError, EOFError, import_module("websockets.exceptions").WebSocketException
    except ImportError:
        return OSError, EOFError
