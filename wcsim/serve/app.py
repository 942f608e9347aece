"""The web application: the page, `/session`, `/health` and `/metrics`; and the server that runs it.

Easy to get wrong: access logs hold addresses, and an address may hold a token; so there are none.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from wcsim.errors import ConfigError
from wcsim.serve.access import COOKIE, Access
from wcsim.serve.batcher import Batcher
from wcsim.serve.connection import BUSY, POLICY, Connection
from wcsim.serve.meter import Meter
from wcsim.serve.operations import Operations
from wcsim.serve.pages import content_policy, page_of
from wcsim.serve.requests import Schema
from wcsim.serve.sessions import Host
from wcsim.serve.shelf import Shelf

log = logging.getLogger("wcsim.serve")


class Service:
    """Everything between the worlds and the web application.  The first world is that of clients who name none.

    recordings: where to keep what people drive; None: nowhere, they may only take it with them.
    """

    def __init__(self, hosts: Sequence[Host], access: Access, *, recordings: Path | None = None) -> None:
        self.hosts, self.access, self.limits = {host.spec.name: host for host in hosts}, access, hosts[0].limits
        if len(self.hosts) < len(hosts):
            raise ConfigError("each world is served once")
        self.meter = Meter()
        self.shelf = None if recordings is None else Shelf(recordings)
        self.page = page_of("drive")
        self.policy = content_policy(self.page)
        self.schemas = {name: Schema(host.task, host.limits) for name, host in self.hosts.items()}
        self.batcher: Batcher
        self.operations: dict[str, Operations]

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Run the compute thread while the application runs."""
        self.batcher = Batcher(self.limits, self.meter)
        self.operations = {name: Operations(host, self.batcher, self.meter, self.shelf)
                           for name, host in self.hosts.items()}
        self.batcher.start()
        yield
        await self.batcher.stop()

    async def session(self, socket: WebSocket) -> None:
        """`/session`."""
        why = self.access.refusal(socket.headers, socket.cookies)
        if why is not None:
            self.meter.refused += 1
            log.info("refused a connection: %s", why)
            return await socket.close(POLICY)  # before it is accepted: answered by 403
        await socket.accept()
        name = socket.query_params.get("world", next(iter(self.hosts)))
        if name not in self.hosts:
            return await socket.close(POLICY, f"the worlds served are {', '.join(self.hosts)}"[:120])
        if self.meter.connections >= self.limits.connections:
            return await socket.close(BUSY, "no more connections")
        self.meter.connections += 1
        try:
            hello = {**self.hosts[name].hello(), "worlds": list(self.hosts), "keeps": self.shelf is not None}
            await Connection(socket, self.operations[name], self.schemas[name], self.limits, self.meter).serve(hello)
        finally:
            self.meter.connections -= 1
        return None

    async def index(self, request: Request) -> Response:
        """The page.  A token in its address becomes a cookie, and leaves the address."""
        if self.access.wrong_host(request.headers) is not None:
            return PlainTextResponse("unknown host", 400)
        query = dict(request.query_params)
        given = query.pop("token", None)
        if given is not None and self.access.matches(given):
            answer: Response = RedirectResponse("/" + (f"?{urlencode(query)}" if query else ""), 303)
            answer.set_cookie(COOKIE, given, httponly=True, samesite="strict", secure=request.url.scheme == "https")
            return answer
        if not self.access.knows(request.headers, request.cookies):
            return PlainTextResponse("a token is needed: open /?token=...", 403)
        return Response(self.page, media_type="text/html", headers={
            "Content-Security-Policy": self.policy, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer"})

    async def health(self, request: Request) -> Response:
        """Whether it runs, and what."""
        return JSONResponse({"status": "ok", "worlds": list(self.hosts), "sessions": self.meter.sessions})

    async def metrics(self, request: Request) -> Response:
        """See `Meter`."""
        if self.access.refusal(request.headers, request.cookies) is not None:
            return PlainTextResponse("refused", 403)
        return PlainTextResponse(self.meter.text())


def make_app(service: Service) -> Starlette:
    """The application of a service."""
    return Starlette(lifespan=service.lifespan, routes=[
        Route("/", service.index), Route("/health", service.health), Route("/metrics", service.metrics),
        WebSocketRoute("/session", service.session)])


def make_server(service: Service, *, host: str, port: int) -> uvicorn.Server:
    """The server, not yet running; SIGINT and SIGTERM end it in order."""
    return uvicorn.Server(uvicorn.Config(
        make_app(service), host=host, port=port, log_level="warning", access_log=False, server_header=False,
        ws_max_size=service.limits.message_bytes, ws_per_message_deflate=False, ws_max_queue=4,
        timeout_graceful_shutdown=5))
