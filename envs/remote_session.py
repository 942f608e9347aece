"""One session of a served world, as its client sees it: it survives a broken connection.

Worlds are deterministic, so a session is where it began (a start or a snapshot) and what was asked since.  After a
break it is opened again there and asked the same.  Easy to get wrong: frames that came ahead of time are shown here,
without a request; the server is told how many with the next one (`shown`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wcsim.envs.lanes import Tick
from wcsim.envs.remote_line import ConnectionLost, Line
from wcsim.envs.remote_messages import actions_of, unpack_tick
from wcsim.errors import RemoteError

Request = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is under way.  number: on the connection of this generation; None: it was lost at once."""

    request: Request
    number: int | None
    generation: int
    began: float


class RemoteSession:
    """A lane of a served world.

    settings: what `open` is told.  snapshot_every: requests after which a snapshot is fetched, from which to go on
    after a break.  retry_s: how long to try to connect again.
    """

    def __init__(self, line: Line, settings: Request, *, snapshot_every: int, retry_s: float) -> None:
        self.line, self.settings = line, settings
        self._every, self._retry_s = snapshot_every, retry_s
        self._id: int | None = None
        self._generation = -1
        self._anchor: Request | None = None
        self._since: list[Request] = []
        self._announced: list[tuple[np.ndarray, Tick]] = []
        self._shown = 0
        self.reconnects = 0
        self.timing: dict[str, float] = {}
        self._closed = False
        line.users += 1

    def begin(self, op: str, **fields: Any) -> Mapping[str, Any]:
        """Ask for a `reset` or a `restore`, from which all goes on."""
        before = self._anchor, self._since, self._announced, self._shown
        self._anchor, self._since, self._announced, self._shown = None, [], [], 0
        try:
            result = self.finish(self.start(op, **fields))
        except BaseException:
            self._anchor, self._since, self._announced, self._shown = before
            raise
        self._anchor, self._since = {"op": op, **fields}, []
        return result

    def step(self, action: np.ndarray) -> Tick:
        """The tick under a checked action `[A]`, announced or asked for."""
        if not self._leads_to(action[None]):
            self.announced(self.announce(action[None], together=True))
        _, tick = self._announced.pop(0)
        self._shown += 1
        return tick

    def announce(self, actions: np.ndarray, *, together: bool) -> Asked | None:
        """Ask for the ticks under checked actions `[k, A]`; None where they are here already."""
        if self._leads_to(actions):
            return None
        return self.start("step", actions=actions_of(actions), together=together, ahead=True)

    def announced(self, asked: Asked | None) -> None:
        """Take in what `announce` asked for."""
        if asked is None:
            return
        result = self.finish(asked)
        ticks = [unpack_tick(told) for told in result["ticks"]]
        self._announced = list(zip(asked.request["actions"], ticks, strict=True))
        self._time(asked, result["timing"])
        if len(self._since) >= self._every:
            self.snapshot()

    def snapshot(self) -> Mapping[str, Any]:
        """The session as a message, from which it goes on after a break."""
        result = self.ask("snapshot", data=True)
        data = {"tensors": result["tensors"], "description": result["description"]}
        self._anchor, self._since = {"op": "restore", **data}, []
        return data

    def ask(self, op: str, **fields: Any) -> Mapping[str, Any]:
        """One request and its result."""
        return self.finish(self.start(op, **fields))

    def start(self, op: str, **fields: Any) -> Asked:
        """Send a request, with how many announced ticks were shown since the last one."""
        request = {"op": op, **fields}
        if self._shown:
            request["shown"] = self._shown
        began = time.perf_counter()
        try:
            self._ensure()
            return Asked(request, self._send(request), self._generation, began)
        except ConnectionLost:
            return Asked(request, None, -1, began)

    def finish(self, asked: Asked) -> Mapping[str, Any]:
        """The result of a request, asked again where the connection broke."""
        try:
            if asked.number is None or asked.generation != self.line.generation:
                raise ConnectionLost("lost")
            result = self.line.receive(asked.number)
        except ConnectionLost:
            result = self._again(asked.request)
        self._shown = 0
        if asked.request["op"] in ("step", "anchor"):
            self._since.append(asked.request)
        elif "shown" in asked.request:
            self._since.append({"op": "look", "shown": asked.request["shown"]})
        return result

    def adopt(self, number: int, origin: RemoteSession) -> None:
        """Be the session that the server branched off another one."""
        self._id, self._generation = number, origin._generation
        self._anchor, self._since = origin._anchor, list(origin._since)
        self._announced, self._shown = list(origin._announced), origin._shown

    def anchor(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Take real frames for the past; what was announced is given up."""
        self.ask("anchor", frames=frames, actions=actions)
        self._announced = []

    def close(self) -> None:
        """Close the session, and the connection with its last one."""
        if self._closed:
            return
        self._closed = True
        self.line.users -= 1
        if self.line.users <= 0:
            self.line.close()
        elif self._id is not None and self._generation == self.line.generation:
            self.line.ended.append(self._id)

    def _leads_to(self, actions: np.ndarray) -> bool:
        ready = self._announced[: len(actions)]
        return len(ready) == len(actions) and all(
            np.array_equal(one, other) for (one, _), other in zip(ready, actions, strict=True))

    def _send(self, request: Request) -> int:
        return self.line.send({**request, "session": self._id})

    def _ensure(self) -> None:
        """Have a session on the connection that there is."""
        if self._closed:
            raise RemoteError("the environment is closed")
        self.line.connect()
        if self._id is None or self._generation != self.line.generation:
            self._establish()

    def _establish(self) -> None:
        """Open the session where it began, and ask all that was asked since."""
        self.reconnects += self._generation >= 0
        self._id = int(self.line.receive(self.line.send({"op": "open", **self.settings}))["session"])
        for request in ([self._anchor] if self._anchor else []) + self._since:
            self.line.receive(self._send(request))
        self._generation = self.line.generation

    def _again(self, request: Request) -> Mapping[str, Any]:
        """Ask on a new connection; RemoteError when none can be had for `retry_s`."""
        until, pause = time.monotonic() + self._retry_s, 0.05
        while True:
            try:
                self._ensure()
                return self.line.receive(self._send(request))
            except ConnectionLost:
                if time.monotonic() + pause > until:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    def _time(self, asked: Asked, told: Mapping[str, Any]) -> None:
        """network, queue and step, in milliseconds."""
        whole = 1e3 * (time.perf_counter() - asked.began)
        served = {name: float(told[name]) for name in ("queue", "step")}
        self.timing = {"network": max(0.0, whole - sum(served.values())), **served}
