"""Policies behind a server: openpi's protocol, msgpack over a websocket.

The server speaks first (its metadata); then every observation is answered by a chunk of actions, or by text, which is
an error.  Easy to get wrong: after any failure the connection is closed, for a late answer would belong to an older
observation.  Needs the extra `openpi`; both packages are imported on first use.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from inspect import signature
from ipaddress import ip_address
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

import numpy as np

from wcsim.agents.adapters import part
from wcsim.agents.policies import Observation
from wcsim.errors import ConfigError, RemoteError, WcsimError
from wcsim.messages import MAX_BYTES, Value, pack, package, unpack

DEFAULT_NAMES = {"observation/image": "pixels", "observation/state": "agent_pos"}
"""The server's name for an input to the observation's."""

MAX_TIMEOUT_S = 86_400
"""A day."""
MAX_MB = 2_048
"""What msgpack can count in one piece of bytes, and some room."""

ENVIRONMENT = "env:"
"""A key that begins so names the environment variable that holds it."""


class Connection(Protocol):
    """What is used of a websocket."""

    def send(self, message: bytes) -> None: ...

    def recv(self, timeout: float | None = None) -> str | bytes: ...

    def close(self) -> None: ...


class RemoteSource:
    """A `Source` (`wcsim.agents.adapters`) that asks the server at `address` (ws://host:port) for actions.

    names: see `DEFAULT_NAMES`; arrays are sent as they are, images uint8 `[H, W, 3]`.  prompt: sent as `prompt`;
    None: the episode's instruction.  key: an API key, or `env:NAME` for one in an environment variable.  timeout_s: to
    connect, to send, and for every answer.
    max_message_mb: most MiB of an answer.  connect: makes another connection than a websocket.
    It connects on the first call, and again after an error.
    """

    def __init__(
        self, address: str, *, names: Mapping[str, str] = DEFAULT_NAMES, prompt: str | None = None,
        key: str | None = None, timeout_s: float = 60.0, max_message_mb: float = MAX_BYTES / 2**20,
        connect: Callable[[], Connection] | None = None,
    ) -> None:
        self._host = _host(address)
        for name, value, most in (("timeout_s", timeout_s, MAX_TIMEOUT_S), ("max_message_mb", max_message_mb, MAX_MB)):
            if not 0 < value <= most:
                raise ConfigError(f"{name} must be above 0 and at most {most}, got {value}")
        self._address, self._names, self._prompt, self._key = address, names, prompt, key
        self._timeout_s, self._max_bytes = timeout_s, max(1, int(max_message_mb * 2**20))
        self._connect = connect or self._websocket
        self._connection: Connection | None = None
        self.metadata: dict[str | bytes, Value] = {}

    def __call__(self, observation: Observation) -> np.ndarray:
        """The server's `actions`, finite numbers `[A]` or `[k, A]`.

        RemoteError, which names the address, where the server cannot be reached, fails, or answers something else.
        ConfigError, before anything is sent, where the observation lacks one of `names`.
        """
        request = {name: sendable(part(observation, key)) for name, key in self._names.items()}
        prompt = observation.get("task") if self._prompt is None else self._prompt
        try:
            return self._ask(request if prompt is None else {**request, "prompt": prompt})
        except WcsimError:
            self.close()
            raise
        except Exception as error:  # OSError, EOFError, websockets' own, ValueError of a host name that is none
            self.close()
            why = _last_line(str(error) or type(error).__name__)
            raise RemoteError(f"the policy server at {self._address} does not answer: {why}") from error
        except BaseException:  # interrupted: what is still to come answers this observation, not the next
            self.close()
            raise

    def close(self) -> None:
        """Hang up, whatever state the connection is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()

    def _ask(self, request: Mapping[str, object]) -> np.ndarray:
        message = pack(request)
        if self._connection is None:
            self._connection = self._connect()
            self.metadata = self._receive(self._connection)
        self._connection.send(message)
        answer = self._receive(self._connection)
        if "actions" not in answer:
            known = sorted(_last_line(str(name)) for name in list(answer)[:10])
            self._fail(f"answered without actions: {known}")
        return self._actions(answer["actions"])

    def _receive(self, connection: Connection) -> dict[str | bytes, Value]:
        said = connection.recv(timeout=self._timeout_s)
        if isinstance(said, str):
            self._fail(f"failed: {_last_line(said)}")
        try:
            answer = unpack(said, max_bytes=self._max_bytes)
        except RemoteError as error:
            raise RemoteError(f"the policy server at {self._address} sent {error}") from error
        if not isinstance(answer, dict):
            self._fail(f"sent a {type(answer).__name__}, not a mapping")
        return answer

    def _actions(self, given: Value) -> np.ndarray:
        """Checked: a list is as good as an array."""
        if not isinstance(given, np.ndarray | list):
            self._fail(f"sent actions that are a {type(given).__name__}, not an array")
        if not _numeric(given):  # numpy would make one wide array of texts, as wide as the longest
            self._fail("sent actions that are not all numbers")
        try:
            actions = np.asarray(given)
        except (ValueError, TypeError, OverflowError) as error:  # lists of unlike lengths
            self._fail(f"sent actions that are no array: {_last_line(str(error))}")
        if actions.ndim not in (1, 2) or actions.size == 0:
            self._fail(f"sent actions of shape {list(actions.shape)}, not [A] or [k, A]")
        if not np.isfinite(actions).all():
            self._fail("sent actions with NaN or infinity")
        return actions

    def _fail(self, what: str) -> NoReturn:
        raise RemoteError(f"the policy server at {self._address} {what}")

    def _websocket(self) -> Connection:
        """A connection that only our own timeouts end: a first answer may take longer than a ping may."""
        connect = package("websockets.sync.client").connect
        # Since websockets 15: pings that close a connection whose server computes, and proxies.
        since_15: dict[str, Any] = {"ping_interval": None} | ({"proxy": None} if _loopback(self._host) else {})
        known = signature(connect).parameters
        headers = None if self._key is None else {"Authorization": f"Api-Key {_secret(self._key)}"}
        opened = connect(
            self._address, compression=None, max_size=self._max_bytes, open_timeout=self._timeout_s,
            close_timeout=min(10.0, self._timeout_s), additional_headers=headers,
            **{name: value for name, value in since_15.items() if name in known})
        # A server that reads no more must not hold `send` for ever.
        limit = struct.pack("ll", int(self._timeout_s), int(self._timeout_s % 1 * 1e6) or 1)
        opened.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        connection: Connection = ExitStack().enter_context(opened)  # wants to be entered; `close` is its way out too
        return connection


def sendable(value: Any) -> Any:
    """Text as it is, all else as an array."""
    return value if isinstance(value, str) else np.asarray(value)


def _host(address: str) -> str:
    """The host that an address names."""
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("ws", "wss") and parts.port != 0 and parts.username is None
        host = parts.hostname or ""
    except ValueError:  # a port that is none, brackets that do not close
        known, host = False, ""
    if not known or not host or not address.isprintable():
        # An address with a password in it is not repeated.
        given = "one with a user name" if "@" in address else repr(address)
        raise ConfigError(f"a policy server's address is ws://host:port or wss://host:port, got {given}")
    return host


def _loopback(host: str) -> bool:
    """Whether a host is this machine, which no proxy can reach."""
    try:
        given = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    known = getattr(given, "ipv4_mapped", None) or given
    return bool(known.is_loopback or known.is_unspecified)


def _numeric(given: Value) -> bool:
    """Whether a list, and every list in it, holds numbers and arrays of them alone."""
    if isinstance(given, list):
        return all(map(_numeric, given))
    if isinstance(given, np.ndarray | np.generic):
        return given.dtype.kind in "iuf"
    return type(given) in (int, float)


def _secret(key: str) -> str:
    """The API key, looked up where it names a variable; an error never shows it."""
    name = key.removeprefix(ENVIRONMENT)
    found = os.environ.get(name) if key.startswith(ENVIRONMENT) else key
    if found is None:
        raise ConfigError(f"a policy server's key is to be in the environment variable {name!r}, which is not set")
    if not found or not found.isascii() or not found.isprintable():
        raise ConfigError("a policy server's key must be printable ASCII, and not empty")
    return found


def _last_line(text: str) -> str:
    """What a stranger's text ends in, short and without control characters: a terminal obeys those."""
    lines = text[-2000:].strip().splitlines() or ["no reason given"]
    return "".join(sign if sign.isprintable() else "?" for sign in lines[-1][:300])
