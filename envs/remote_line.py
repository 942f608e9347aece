"""One websocket to a served world, shared by all environments of a client: requests go out numbered, answers come back.

Several requests may be under way at once, which is how lanes share a forward on the server.  Easy to get wrong: an
answer belongs to a connection.  Each one has its own `generation`, and what was asked before a break is never answered.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from threading import RLock
from typing import Any
from urllib.parse import urlsplit

from wcsim.envs.remote_messages import VERSION, raise_refusal
from wcsim.errors import ConfigError, RemoteError
from wcsim.messages import pack, package, unpack

MAX_BYTES = 256 * 2**20
"""Of an answer: a snapshot of a large world is the longest."""

TOKEN = "WCSIM_TOKEN"
"""The environment variable that holds a token where none is given."""


class ConnectionLost(RemoteError):
    """The connection broke; what was under way on it has no answer."""


class Line:
    """A connection to `address` (ws://host:port).

    token: sent as a bearer token; None: that of the environment variable `WCSIM_TOKEN`, if any.  timeout_s: to connect
    and for every answer.  generation: how many connections there have been.
    """

    def __init__(self, address: str, *, token: str | None = None, timeout_s: float = 60.0) -> None:
        self.address = check_address(address)
        self._token = os.environ.get(TOKEN) if token is None else token
        self._timeout_s = timeout_s
        self._lock = RLock()
        self._socket: Any = None
        self._answers: dict[int, Mapping[str, Any]] = {}
        self._next = 0
        self.generation = 0
        self.users = 0
        self.ended: list[int] = []
        """Sessions to close with the next request; a finalizer may add to it at any time."""
        self._ignored: set[int] = set()
        self.hello: Mapping[str, Any] = {}
        self.connect()

    def connect(self) -> None:
        """Connect unless connected.  ConnectionLost where that fails; RemoteError where the server is another one."""
        with self._lock:
            if self._socket is not None:
                return
            opened = self._open()
            try:
                hello = self._read(opened)
                self._check_hello(hello)
            except BaseException:
                with suppress(Exception):
                    opened.close()
                raise
            self._socket, self.hello, self._answers = opened, hello, {}
            self.ended, self._ignored = [], set()
            self.generation += 1

    def send(self, request: Mapping[str, Any]) -> int:
        """Send a request; its number.  ConnectionLost where there is no connection, or it breaks."""
        with self._lock:
            while self.ended:
                self._ignored.add(self._post({"op": "close", "session": self.ended.pop()}))
            return self._post(request)

    def receive(self, number: int) -> Mapping[str, Any]:
        """The result of a request; raises what the server refused it with, or ConnectionLost."""
        with self._lock:
            while number not in self._answers:
                if self._socket is None:
                    raise ConnectionLost(f"no connection to {self.address}")
                answer = self._read(self._socket)
                if int(answer["id"]) in self._ignored:
                    self._ignored.remove(int(answer["id"]))
                else:
                    self._answers[int(answer["id"])] = answer
            answer = self._answers.pop(number)
        if "error" in answer:
            raise_refusal(answer["error"])
        result: Mapping[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            opened, self._socket = self._socket, None
        if opened is not None:
            with suppress(Exception):
                opened.close()

    def _post(self, request: Mapping[str, Any]) -> int:
        message = pack({"id": self._next, **request})
        if self._socket is None:
            raise ConnectionLost(f"no connection to {self.address}")
        number, self._next = self._next, self._next + 1
        try:
            self._socket.send(message)
        except Exception as error:
            raise self._lost(error) from error
        return number

    def _open(self) -> Any:
        """A websocket that only our own timeouts end: a first step may take longer than a ping may."""
        headers = None if self._token is None else {"Authorization": f"Bearer {self._token}"}
        try:
            return package("websockets.sync.client").connect(
                f"{self.address}/session", compression=None, max_size=MAX_BYTES, open_timeout=self._timeout_s,
                close_timeout=2.0, ping_interval=None, proxy=None, additional_headers=headers).__enter__()
        except ConfigError:
            raise
        except Exception as error:
            raise ConnectionLost(f"no connection to {self.address}: {_short(error)}") from error

    def _read(self, opened: Any) -> Mapping[str, Any]:
        try:
            said = opened.recv(timeout=self._timeout_s)
        except Exception as error:
            raise self._lost(error) from error
        answer: Any = unpack(said.encode() if isinstance(said, str) else said, max_bytes=MAX_BYTES)
        if not isinstance(answer, dict):
            raise RemoteError(f"the server at {self.address} sent a {type(answer).__name__}, not a mapping")
        found: Mapping[str, Any] = answer
        return found

    def _check_hello(self, hello: Mapping[str, Any]) -> None:
        if hello.get("version") != VERSION or "world" not in hello:
            raise RemoteError(f"the server at {self.address} speaks version {hello.get('version')!r} of the schema; "
                              f"this wcsim speaks {VERSION}")
        if self.hello and self.hello["fingerprint"] != hello["fingerprint"]:
            raise RemoteError(f"the server at {self.address} now serves another world: {hello['world']!r}")

    def _lost(self, error: Exception) -> ConnectionLost:
        self.close()
        return ConnectionLost(f"the connection to {self.address} broke: {_short(error)}")


def check_address(address: str) -> str:
    """`ws://host:port` or `wss://...` without a trailing slash; ConfigError for anything else."""
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known, parts = False, urlsplit("")
    if not known or parts.username is not None or parts.query:
        given = "one with a user name or a query" if "@" in address or "?" in address else repr(address)
        raise ConfigError(f"a served world's address is ws://host:port or wss://host:port, got {given}")
    return address.rstrip("/")


def _short(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return "".join(sign if sign.isprintable() else "?" for sign in text[:300])
