"""A real server of a tiny world, in a thread of its own, and a client without manners."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from wcsim.messages import pack, unpack
from wcsim.serve.access import access_of
from wcsim.serve.app import Service, make_server
from wcsim.serve.limits import Limits
from wcsim.serve.sessions import Host

FIDELITY = {"steps": 2, "cache": "none"}


@contextmanager
def served(world: str, *, port: int = 0, token: str | None = None, task: str | None = None, task_options: Any = None,
           device: str = "cpu", recordings: Path | None = None,
           watch: Path | None = None, **limits: Any) -> Iterator[tuple[str, Service]]:
    """Its address, and the service behind it.  world: one, or several with spaces between them."""
    hosts = [Host(one, Limits(**limits), task=task, task_options=task_options, device=device) for one in world.split()]
    service = Service(hosts, access_of("127.0.0.1", token, []), recordings=recordings, watch=watch)
    server = make_server(service, host="127.0.0.1", port=port)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", service
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def settled(service: Service) -> None:
    """Wait until every session is freed."""
    until = time.monotonic() + 10
    while (service.meter.sessions or service.meter.connections) and time.monotonic() < until:
        time.sleep(0.01)
    assert (service.meter.sessions, service.meter.connections, service.meter.waiting) == (0, 0, 0)
    assert not service.batcher._lately


class Raw:
    """A client without manners."""

    def __init__(self, address: str, **settings: Any) -> None:
        self.socket = connect(f"{address}/session", **settings).__enter__()
        self.hello: Any = unpack(self.socket.recv())
        self.next = 0

    def tell(self, op: str, **fields: Any) -> Any:
        self.socket.send(pack({"id": self.next, "op": op, **fields}))
        self.next += 1
        return unpack(self.socket.recv(timeout=30))

    def opened(self, **fields: Any) -> int:
        number: int = self.tell("open", fidelity=FIDELITY, **fields)["result"]["session"]
        self.tell("reset", session=number, seed=1)
        return number

    def closed(self, message: bytes | str) -> tuple[int, str]:
        """The code and reason with which the server closes after a message."""
        self.socket.send(message)
        with pytest.raises(ConnectionClosed) as caught:
            self.socket.recv(timeout=30)
        close = caught.value.rcvd
        assert close is not None
        return close.code, close.reason
