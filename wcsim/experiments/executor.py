"""Where jobs run: here, or in processes of this machine; a distributed engine is another class with the same method.

A job is a value and its function a module's own, so that both can be sent.  Easy to get wrong: jobs end in any order,
so code that collects results must not depend on it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from threading import Thread
from typing import Protocol, TypeVar

from wcsim.errors import ConfigError

Job = TypeVar("Job")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs independent jobs.  An error in a job ends the whole: it is raised, and jobs not yet begun are dropped."""

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """Every job with what `function` made of it, as they end."""
        ...


class Here:
    """One job after another, in this process."""

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """In the given order."""
        for job in jobs:
            yield job, function(job)


class Processes:
    """`workers` new Python processes, which end with this one however it ends."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ConfigError(f"workers must be 1 or more, got {workers}")
        self.workers = workers

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """As they end."""
        if not jobs:
            return
        pool = ProcessPoolExecutor(min(self.workers, len(jobs)), multiprocessing.get_context("spawn"), _end_with_parent)
        try:
            waiting = {pool.submit(function, job): job for job in jobs}
            for future in as_completed(waiting):
                yield waiting.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def local(workers: int) -> Executor:
    """The executor for so many workers on this machine; one needs no new process."""
    return Here() if workers == 1 else Processes(workers)


def _end_with_parent() -> None:
    """A killed parent tells its workers nothing; a thread in each of them waits for its end."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
