"""One websocket: requests are read, checked and answered until it closes, with a reason where it is the client's fault.

Easy to get wrong: whatever happens here, sessions are freed at the end and no other connection notices.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from wcsim.envs.remote_messages import refusal
from wcsim.errors import WcsimError
from wcsim.messages import pack
from wcsim.serve.access import Pace
from wcsim.serve.limits import Limits
from wcsim.serve.meter import Meter
from wcsim.serve.operations import Open, Operations
from wcsim.serve.requests import Malformed, Request, Schema

log = logging.getLogger("wcsim.serve")

POLICY, INVALID, GOING, BUSY = 1008, 1007, 1001, 1013


class Connection:
    """One accepted websocket."""

    def __init__(self, socket: WebSocket, operations: Operations, schema: Schema, limits: Limits, meter: Meter) -> None:
        self._socket, self._operations, self._schema = socket, operations, schema
        self._limits, self._meter = limits, meter
        self._mine = Open()
        self._writing = asyncio.Lock()
        self._room = asyncio.Semaphore(limits.pending)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, hello: Mapping[str, Any]) -> None:
        """Until it closes."""
        try:
            await self._send(hello)
            await self._read()
        except Malformed as error:
            self._meter.malformed += 1
            log.info("closed a connection: %s", str(error)[:200])
            await self._close(INVALID, str(error))
        except TimeoutError:
            await self._close(POLICY, "quiet or slow for too long")
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass
        finally:
            await asyncio.shield(self._end())

    async def _read(self) -> None:
        pace = Pace(self._limits.rate)
        while True:
            await self._room.acquire()
            await pace.wait()
            message = await asyncio.wait_for(self._socket.receive(), self._limits.idle_s)
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            if data is None:
                raise Malformed("requests are binary messages")
            task = asyncio.get_running_loop().create_task(self._answer(self._schema.read(data)))
            self._tasks.add(task)
            task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()
        if not task.cancelled() and task.exception() is not None:
            log.debug("an answer was not sent: %r", task.exception())

    async def _answer(self, request: Request) -> None:
        answer: dict[str, Any] = {"id": request.id}
        try:
            answer["result"] = await self._operations.answer(self._mine, request)
        except WcsimError as error:
            self._meter.refused += 1
            answer["error"] = refusal(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("%s failed", request.op)
            answer["error"] = {"kind": "RemoteError", "message": f"{request.op} failed: {type(error).__name__}"}
        await self._send(answer)

    async def _send(self, answer: Mapping[str, Any]) -> None:
        async with self._writing:
            await asyncio.wait_for(self._socket.send_bytes(pack(answer)), self._limits.send_s)

    async def _close(self, code: int, why: str) -> None:
        reason = "".join(sign if sign.isprintable() and sign.isascii() else "?" for sign in why)[:120]
        with suppress(Exception):
            await self._socket.close(code, reason)

    async def _end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._operations.end(self._mine)
