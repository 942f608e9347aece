"""The compute thread: requests of all sessions in order, their steps in shared forwards.

Easy to get wrong: a lane gives the same bits alone and among others, so whom it shares a forward with may be left to
chance; but if a batch fails, each lane is tried alone, for only one of them may be at fault.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wcsim.envs.lanes import Lane, Tick
from wcsim.errors import RemoteError
from wcsim.serve.limits import Limits
from wcsim.serve.meter import Meter
from wcsim.serve.sessions import Session
from wcsim.spans import Spans

ENDING = "the server is ending"

ACTIVE_S = 0.5
"""A session that stepped this lately is waited for."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """ticks: one for each action.  queue_ms, step_ms: how long it waited, and what its forward took."""

    ticks: list[Tick]
    queue_ms: float
    step_ms: float


@dataclass(slots=True, eq=False)
class Job:
    """A step of one session, or any other work.  ahead: the session stays where it is, the ticks being announced."""

    done: asyncio.Future[Any]
    work: Callable[[], Any] | None = None
    session: Session | None = None
    actions: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    together: bool = True
    ahead: bool = False
    shown: int = 0
    asked: float = field(default_factory=time.perf_counter)
    result: Any = None
    error: Exception | None = None

    @property
    def batches_with(self) -> tuple[int, int, bool]:
        """Jobs with the same value may share a forward."""
        assert self.session is not None
        count = len(self.actions)
        return id(self.session.imagination), count, self.together or count == 1


class Batcher:
    """Runs jobs in one thread.  Used from one event loop, between `start` and `stop`."""

    def __init__(self, limits: Limits, meter: Meter) -> None:
        self._limits, self._meter = limits, meter
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wcsim-compute")
        self._lately: dict[Session, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin to take jobs."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Finish the batch under way; jobs that wait or come later are refused."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        while not self._queue.empty():
            _refuse(self._queue.get_nowait())
        await asyncio.to_thread(self._thread.shutdown)

    async def run(self, work: Callable[[], Any]) -> Any:
        """The result of work in the compute thread."""
        return await self._put(Job(asyncio.get_running_loop().create_future(), work=work))

    async def step(self, session: Session, actions: np.ndarray, *, together: bool, ahead: bool, shown: int) -> Stepped:
        """Ticks of a session under checked actions `[k, A]`."""
        done: asyncio.Future[Stepped] = asyncio.get_running_loop().create_future()
        result: Stepped = await self._put(Job(done, None, session, actions, together, ahead, shown))
        return result

    def forget(self, session: Session) -> None:
        """Do not wait for a session that has ended."""
        self._lately.pop(session, None)

    async def _put(self, job: Job) -> Any:
        if self._stopped:
            raise RemoteError(ENDING)
        self._meter.waiting += 1
        try:
            self._queue.put_nowait(job)
            return await job.done
        finally:
            self._meter.waiting -= 1

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            jobs = await self._gather()
            await asyncio.shield(loop.run_in_executor(self._thread, self._perform, jobs))
            for job in jobs:
                self._settle(job)

    def _settle(self, job: Job) -> None:
        if job.session is not None:
            self._lately[job.session] = time.monotonic()
        if job.done.done():
            return
        if job.error is not None:
            job.done.set_exception(job.error)
        else:
            job.done.set_result(job.result)

    async def _gather(self) -> list[Job]:
        """Jobs to run now: those that are here, and for a few milliseconds the steps of sessions that are active."""
        jobs = [await self._queue.get()]
        until = time.monotonic() + self._limits.wait_ms / 1e3
        while len(jobs) < self._limits.lanes:
            with suppress(asyncio.QueueEmpty):
                jobs.append(self._queue.get_nowait())
                continue
            left = until - time.monotonic()
            if left <= 0 or not self._expected(jobs):
                break
            try:
                jobs.append(await asyncio.wait_for(self._queue.get(), left))
            except TimeoutError:
                break
        return jobs

    def _expected(self, jobs: Sequence[Job]) -> bool:
        """Whether a session that is not among them stepped a moment ago."""
        here = {job.session for job in jobs}
        if here == {None}:
            return False
        since = time.monotonic() - ACTIVE_S
        return any(seen > since and session not in here for session, seen in self._lately.items())

    def _perform(self, jobs: Sequence[Job]) -> None:
        """In the compute thread: other work first, in order, then the steps, those that may be together."""
        groups: dict[tuple[int, int, bool], list[Job]] = {}
        for job in jobs:
            if job.session is None or job.session.truth is not None:
                _attempt(job, lambda job=job: self._alone(job))  # type: ignore[misc]
            else:
                session, shown = job.session, job.shown
                if _attempt(job, lambda session=session, shown=shown: session.show(shown)):  # type: ignore[misc]
                    groups.setdefault(job.batches_with, []).append(job)
        for group in groups.values():
            try:
                self._forward(group)
            except Exception:
                for job in group:
                    _attempt(job, lambda job=job: self._forward([job]))  # type: ignore[misc]

    def _alone(self, job: Job) -> None:
        began = time.perf_counter()
        if job.work is not None:
            job.result = job.work()
        elif job.session is not None:
            ticks = job.session.play_truth(job.actions)
            job.result = Stepped(ticks, 1e3 * (began - job.asked), 1e3 * (time.perf_counter() - began))

    def _forward(self, group: Sequence[Job]) -> None:
        """Step sessions of one imagination by as many actions each, in one batch; nothing changes if it fails."""
        sessions = [job.session for job in group if job.session is not None]
        began, imagination = time.perf_counter(), sessions[0].imagination
        spans = Spans(imagination.world.device)
        actions = np.stack([job.actions for job in group])
        ready = imagination.estimated(imagination.expect(
            [session.lane for session in sessions], actions, spans, together=group[0].together), spans)
        shown: list[Lane] = ready
        rows: list[list[Tick]] = []
        for number in range(actions.shape[1]):
            rows.append(imagination.step(shown, actions[:, number], spans))
            shown = [tick.lane for tick in rows[-1]]
        spans.ms()
        step_ms = 1e3 * (time.perf_counter() - began)
        for lane, (job, session) in enumerate(zip(group, sessions, strict=True)):
            ticks = [row[lane] for row in rows]
            session.lane = ready[lane] if job.ahead else ticks[-1].lane
            session.note(job.actions, ticks)
            job.result, job.error = Stepped(ticks, 1e3 * (began - job.asked), step_ms), None
            self._meter.queue_ms.append(job.result.queue_ms)
        hits = [tick.trace.hit_rate for tick in rows[-1] if tick.trace is not None]
        self._meter.forward(len(group), len(rows), step_ms, float(np.mean(hits)) if hits else 0.0)


def _refuse(job: Job) -> None:
    if not job.done.done():
        job.done.set_exception(RemoteError(ENDING))


def _attempt(job: Job, work: Callable[[], None]) -> bool:
    """Do it, or keep the error for whoever asked."""
    try:
        work()
    except Exception as error:
        job.error = error
        return False
    return True
