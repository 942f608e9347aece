"""A real server of a tiny world, in a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from wcsim.serve.access import access_of
from wcsim.serve.app import Service, make_server
from wcsim.serve.limits import Limits
from wcsim.serve.sessions import Host


@contextmanager
def served(world: str, *, port: int = 0, token: str | None = None, task: str | None = None, task_options: Any = None,
           **limits: Any) -> Iterator[tuple[str, Service]]:
    """Its address, and the service behind it."""
    service = Service(Host(world, Limits(**limits), task=task, task_options=task_options),
                      access_of("127.0.0.1", token, []))
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
