"""What each operation does to a session; see the table in `docs/serve.md`.

Easy to get wrong: everything that touches the world or a session's lane runs in the compute thread (`Batcher.run`), so
that requests of one session are in order and no two threads are in the world.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wcsim.envs.remote_messages import pack_tick
from wcsim.envs.snapshots import EnvSnapshot, pack_snapshots
from wcsim.errors import RemoteError
from wcsim.serve.batcher import Batcher
from wcsim.serve.film import film
from wcsim.serve.meter import Meter
from wcsim.serve.requests import Request
from wcsim.serve.sessions import Host, Session
from wcsim.serve.shelf import Shelf
from wcsim.serve.untrusted import untrusted_lane

Result = dict[str, Any]


@dataclass(slots=True)
class Open:
    """The sessions of one connection.  order: requests of one session wait for each other here.  shelf: of recordings
    that only this connection takes with it."""

    sessions: dict[int, Session] = field(default_factory=dict)
    order: dict[int, asyncio.Lock] = field(default_factory=dict)
    next: int = 0
    shelf: Shelf | None = None

    def add(self, session: Session) -> int:
        """Its number."""
        number, self.next = self.next, self.next + 1
        self.sessions[number], self.order[number] = session, asyncio.Lock()
        return number

    def get(self, number: int) -> Session:
        """The session of that number."""
        if number not in self.sessions:
            raise RemoteError(f"session {number} is not open")
        return self.sessions[number]


class Operations:
    """Answers requests."""

    def __init__(self, host: Host, batcher: Batcher, meter: Meter, shelf: Shelf | None) -> None:
        self._host, self._batcher, self._meter, self._shelf = host, batcher, meter, shelf
        self._films = asyncio.Semaphore(1)

    async def answer(self, mine: Open, request: Request) -> Result:
        """The result of a checked request; raises WcsimError where it is refused."""
        if request.op == "open":
            return await self._open(mine, request)
        if request.op == "film":
            return await self._film(mine, request)
        if request.op == "record":
            return await self._record(mine, request)
        assert request.session is not None
        mine.get(request.session)
        async with mine.order[request.session]:
            session = mine.get(request.session)
            if request.op == "close":
                return await self._close(mine, request.session)
            if request.op == "step":
                return await self._step(session, request)
            if request.op == "branch":
                return await self._branch(mine, session, request)
            result: Result = await self._batcher.run(lambda: self._other(session, request))
            return result

    async def end(self, mine: Open) -> None:
        """Free all sessions of a connection."""
        for number in list(mine.sessions):
            await self._close(mine, number)
        if mine.shelf is not None:
            mine.shelf.close()

    async def _open(self, mine: Open, request: Request) -> Result:
        self._room(mine, 1)
        given = request.fields
        truth = given.get("place", "world") == "truth"

        def make() -> Session:
            imagination = self._host.imagination(given.get("fidelity"))
            simulator = self._host.task.make_truth() if truth else None
            return Session(self._host, imagination, truth=simulator, record=given.get("record", False))

        # Counted before it is made: many may ask at once.
        self._meter.sessions += 1
        try:
            session = await self._batcher.run(make)
        except BaseException:
            self._meter.sessions -= 1
            raise
        self._meter.opened += 1
        return {"session": mine.add(session)}

    async def _step(self, session: Session, request: Request) -> Result:
        given = request.fields
        if session.truth is not None and (given.get("ahead") or request.shown):
            raise RemoteError("a session in the truth does not look ahead")
        stepped = await self._batcher.step(
            session, given["actions"], together=given.get("together", True), ahead=given.get("ahead", False),
            shown=request.shown)
        result: Result = {
            "ticks": [pack_tick(tick, show=given.get("show", True)) for tick in stepped.ticks],
            "timing": {"queue": stepped.queue_ms, "step": stepped.step_ms}}
        if given.get("snapshot"):
            result["snapshot"] = await self._batcher.run(session.keep)
        return result

    async def _branch(self, mine: Open, session: Session, request: Request) -> Result:
        count = request.fields["count"]
        self._room(mine, count)

        def make() -> list[Session]:
            session.show(request.shown)
            return [session.branch() for _ in range(count)]

        self._meter.sessions += count
        try:
            made = await self._batcher.run(make)
        except BaseException:
            self._meter.sessions -= count
            raise
        self._meter.opened += count
        return {"sessions": [mine.add(one) for one in made]}

    def _other(self, session: Session, request: Request) -> Result:
        session.show(request.shown)
        act: Callable[[Session, dict[str, Any]], Result] = {
            "reset": self._reset, "anchor": self._anchor, "snapshot": self._snapshot, "restore": self._restore,
            "look": self._look, "fidelity": self._fidelity, "act": self._act}[request.op]
        return act(session, request.fields)

    def _reset(self, session: Session, given: dict[str, Any]) -> Result:
        tick = session.reset(given["seed"], given.get("start"))
        kept = {"snapshot": session.keep()} if given.get("snapshot") else {}
        return {"tick": pack_tick(tick), **kept}

    def _anchor(self, session: Session, given: dict[str, Any]) -> Result:
        if session.truth is not None:
            raise RemoteError("a session in the truth has no other past")
        session.lane = session.imagination.anchor(session.lane, given["frames"], given["actions"])
        return {}

    def _snapshot(self, session: Session, given: dict[str, Any]) -> Result:
        if not given.get("data"):
            return {"snapshot": session.keep()}
        if session.truth is not None:
            raise RemoteError("snapshots of the truth stay on the server")
        here = EnvSnapshot(self._host.spec.name, self._host.fingerprint, session.lane, 0, False, {})
        tensors, description = pack_snapshots([here])
        return {"tensors": tensors, "description": description}

    def _restore(self, session: Session, given: dict[str, Any]) -> Result:
        if "snapshot" in given:
            session.restore(given["snapshot"])
        elif "tensors" in given and "description" in given:
            session.put(untrusted_lane(self._host, given["tensors"], given["description"]))
        else:
            raise RemoteError("restore needs snapshot, or tensors and description")
        return self._look(session, {})

    def _fidelity(self, session: Session, given: dict[str, Any]) -> Result:
        session.imagination = self._host.imagination(given["fidelity"])
        return {}

    def _act(self, session: Session, given: dict[str, Any]) -> Result:
        return {"action": session.act(given["driver"])}

    def _look(self, session: Session, given: dict[str, Any]) -> Result:
        lane = session.lane
        result: Result = {"pixels": lane.pixels, "robot": lane.robot}
        if given.get("latents"):
            result["latents"] = None if lane.latent is None else lane.latent.float().cpu().numpy()
        if given.get("state"):
            state = session.imagination.state_of(lane)
            result["state"] = {name: (value.float() if value.is_floating_point() else value).cpu().numpy()
                               for name, value in state.tensors().items()}
        return result

    async def _film(self, mine: Open, request: Request) -> Result:
        sessions = [mine.get(number) for number in request.fields["sessions"]]
        frames, actions = [list(one.reel.frames) for one in sessions], list(sessions[0].reel.actions)
        about = {"world": self._host.spec.name, "task": self._host.task.name}
        async with self._films:
            names, fps = request.fields["names"], float(self._host.task.fps)
            return dict(await asyncio.to_thread(film, names, frames, actions, fps, about))

    async def _record(self, mine: Open, request: Request) -> Result:
        given = request.fields
        film = await self._film(mine, request)
        session, task = mine.get(given["sessions"][given["names"].index(given["of"])]), self._host.task
        reel, seed = session.reel.copy(), session.episode.seed
        about = {"world": self._host.spec.name, "place": given["of"], "seed": seed}
        async with self._films:
            if self._shelf is None and mine.shelf is None:
                mine.shelf = Shelf(None)
            shelf = self._shelf or mine.shelf
            assert shelf is not None
            shelved = await asyncio.to_thread(shelf.add, given["name"], task, reel, film["mp4"], about)
        return {"episodes": shelved.episodes, "zip": shelved.zip, "mp4": film["mp4"]}

    async def _close(self, mine: Open, number: int) -> Result:
        session = mine.sessions.pop(number)
        mine.order.pop(number, None)
        self._batcher.forget(session)
        self._meter.sessions -= 1
        try:
            await self._batcher.run(session.end)
        except RemoteError:  # the server is ending, and its compute thread with it
            session.end()
        self._batcher.forget(session)
        return {}

    def _room(self, mine: Open, count: int) -> None:
        limits = self._host.limits
        if len(mine.sessions) + count > limits.sessions_each or self._meter.sessions + count > limits.sessions:
            raise RemoteError(f"no more sessions: this server has {limits.sessions}, {limits.sessions_each} for a "
                              "connection; close some")
