"""Listening and running.  Easy to get wrong: the port is taken before the world is loaded, so that a port in use is an
error at once and not after a minute.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import uvicorn

from wcsim.errors import ConfigError


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket; ConfigError where the address cannot be had."""
    with ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            opened = stack.enter_context(socket.socket(family, kind, protocol))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        yield opened


def run(server: uvicorn.Server, opened: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, then end in order."""
    with suppress(KeyboardInterrupt):
        asyncio.run(server.serve([opened]))
