"""The web application: the page, `/session`, `/health` and `/metrics`; and the server that runs it.

Easy to get wrong: access logs hold addresses, and an address may hold a token; so there are none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from wcsim.errors import ConfigError
from wcsim.serve.access import COOKIE, Access
from wcsim.serve.batcher import Batcher
from wcsim.serve.connection import BUSY, POLICY, Connection
from wcsim.serve.limits import Limits
from wcsim.serve.meter import Meter
from wcsim.serve.operations import Operations
from wcsim.serve.pages import content_policy, page_of
from wcsim.serve.requests import Schema
from wcsim.serve.sessions import Host
from wcsim.serve.shelf import Shelf
from wcsim.serve.watch import Watched

log = logging.getLogger("wcsim.serve")


class Service:
    """Everything between the worlds and the web application.  The first world is that of clients who name none.

    recordings: where to keep what people drive; None: nowhere, they may only take it with them.  watch: a folder of
    runs to show.  There may be no worlds, if there are runs.
    """

    def __init__(self, hosts: Sequence[Host], access: Access, *, limits: Limits | None = None,
                 recordings: Path | None = None, watch: Path | None = None) -> None:
        self.hosts, self.access, self.limits = {host.spec.name: host for host in hosts}, access, (
            hosts[0].limits if hosts else limits or Limits())
        if len(self.hosts) < len(hosts):
            raise ConfigError("each world is served once")
        self.meter = Meter()
        self.shelf = None if recordings is None else Shelf(recordings)
        self.pages = {name: page_of(name) for name in ("drive", "watch")}
        self.watched = None if watch is None else Watched(watch)
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
        if not self.hosts:
            return await socket.close(POLICY, "no world is served")
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
            answer: Response = RedirectResponse(request.url.path + (f"?{urlencode(query)}" if query else ""), 303)
            answer.set_cookie(COOKIE, given, httponly=True, samesite="strict", secure=request.url.scheme == "https")
            return answer
        if not self.access.knows(request.headers, request.cookies):
            return PlainTextResponse("a token is needed: open /?token=...", 403)
        if not self.hosts and request.url.path == "/":
            return RedirectResponse("/watch", 303)
        page = self.pages["watch" if request.url.path == "/watch" else "drive"]
        return Response(page, media_type="text/html", headers={
            "Content-Security-Policy": content_policy(page), "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})

    async def runs(self, request: Request) -> Response:
        """What `Watched.runs` tells."""
        if self.access.refusal(request.headers, request.cookies) is not None:
            return PlainTextResponse("refused", 403)
        assert self.watched is not None
        return JSONResponse({"runs": await asyncio.to_thread(self.watched.runs), "drives": bool(self.hosts)})

    async def video(self, request: Request) -> Response:
        """A video by the key that `runs` gave it."""
        if self.access.refusal(request.headers, request.cookies) is not None:
            return PlainTextResponse("refused", 403)
        assert self.watched is not None
        path = self.watched.video(request.path_params["key"])
        if path is None:
            return PlainTextResponse("there is no such video", 404)
        return FileResponse(path, media_type="video/mp4", headers={"X-Content-Type-Options": "nosniff"})

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
    watching = [] if service.watched is None else [
        Route("/watch", service.index), Route("/watch/runs", service.runs), Route("/watch/video/{key}", service.video)]
    return Starlette(lifespan=service.lifespan, routes=[*watching,
        Route("/", service.index), Route("/health", service.health), Route("/metrics", service.metrics),
        WebSocketRoute("/session", service.session)])


def make_server(service: Service, *, host: str, port: int) -> uvicorn.Server:
    """The server, not yet running; SIGINT and SIGTERM end it in order."""
    return uvicorn.Server(uvicorn.Config(
        make_app(service), host=host, port=port, log_level="warning", access_log=False, server_header=False,
        ws_max_size=service.limits.message_bytes, ws_per_message_deflate=False, ws_max_queue=4,
        timeout_graceful_shutdown=5))
