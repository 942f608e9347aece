"""Where jobs run: here, in processes of this machine, or on a Ray cluster (`wcsim.experiments.cluster`).

A job is a value and its function a module's own, so that both can be sent.  Easy to get wrong: jobs end in any order,
so code that collects results must not depend on it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from threading import Thread
from typing import Any, Protocol, TypeVar

from wcsim.errors import ConfigError
from wcsim.experiments.work import NOTHING, TRIES, Done, Failed, Job, Needs, perform

Result = TypeVar("Result")


class Executor(Protocol):
    """Runs independent jobs."""

    def run(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Needs = NOTHING
    ) -> Iterator[Done[Job, Result]]:
        """Every job with what `function` made of it, once each, as they end.

        needs: of every job.  Where a job fails, workers go on with the others, and its result is `Failed`; in this
        process its error is raised at once.
        """
        ...


class Here:
    """One job after another, in this process."""

    def run(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Needs = NOTHING
    ) -> Iterator[Done[Job, Result]]:
        """In the given order."""
        for job in jobs:
            yield Done(job, function(job))


class Processes:
    """`workers` new Python processes, which end with this one however it ends; each has GPUs of its own, where jobs
    need any.

    gpus: what each has, instead of what its jobs say.
    """

    def __init__(self, workers: int, gpus: float | None = None) -> None:
        if workers < 1:
            raise ConfigError(f"workers must be 1 or more, got {workers}")
        self.workers, self.gpus = workers, gpus

    def run(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Needs = NOTHING
    ) -> Iterator[Done[Job, Result]]:
        """As they end.  A process that dies takes all of its pool along, so each job that it may have been is then
        tried alone, up to `TRIES` times in all."""
        if not jobs:
            return
        workers, left, needs = min(self.workers, len(jobs)), deque(jobs), needs.sharing(self.gpus)
        slots = gpu_slots(needs.gpus, workers, visible_gpus()) if needs.gpus else [""] * workers
        while left:
            suspects = yield from _play(function, left, slots)
            for job in suspects:
                yield from _alone(function, job, slots)


def _play(
    function: Callable[[Job], Result], left: deque[Job], slots: Sequence[str]
) -> Generator[Done[Job, Result], None, list[Job]]:
    """Take jobs from `left` until none is, or the pool breaks; returns the jobs that were running then."""
    pool, running = _pool(slots), dict[Future[Any], Job]()
    try:
        while left or running:
            while left and len(running) < len(slots):
                running[pool.submit(perform, function, left[0])] = left[0]
                left.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done = future.result()
                del running[future]
                yield done
    except BrokenProcessPool:
        return list(running.values())
    finally:
        pool.shutdown(cancel_futures=True)
    return []


def _alone(function: Callable[[Job], Result], job: Job, slots: Sequence[str]) -> Iterator[Done[Job, Result]]:
    """A job in a process of its own, again where that dies."""
    for _ in range(TRIES - 1):
        suspects = yield from _play(function, deque([job]), slots[:1])
        if not suspects:
            return
    yield Done(job, Failed(f"its process died, {TRIES} times (out of memory?)"))


def executor_of(name: str | None = None, workers: int | None = None, gpus: float | None = None) -> Executor:
    """What `--executor`, `--workers` and `--gpus` mean: processes of this machine, or `ray`, or `ray://ADDRESS`.

    workers: None is one, in this process, and on Ray as many as it has room for.  ConfigError for another name, and
    where Ray is not installed.
    """
    if name is None:
        return Here() if workers in (None, 1) else Processes(workers, gpus)
    scheme, separator, address = name.partition("://")
    if scheme != "ray" or (separator and not address):
        raise ConfigError(f"executor {name!r} is unknown; give ray, or ray://ADDRESS, or leave it out")
    from wcsim.experiments.cluster import Ray

    return Ray(address or None, workers, gpus)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def gpu_slots(gpus: float, workers: int, visible: Sequence[str]) -> list[str]:
    """Per worker the `CUDA_VISIBLE_DEVICES` that it gets.  gpus: that each needs, a share of one or a whole number.

    ConfigError where there are too few.
    """
    if gpus < 1:
        slots = list(visible) * int(1 / gpus)  # one worker on each first
    else:
        whole = int(gpus)
        slots = [",".join(visible[first : first + whole]) for first in range(0, len(visible) - whole + 1, whole)]
    if len(slots) < workers:
        raise ConfigError(f"{workers} workers of {gpus:g} GPUs each; there is room for {len(slots)} on the "
                          f"{len(visible)} of this machine: use fewer --workers, or a share, as --gpus 0.5")
    return slots[:workers]


def _pool(slots: Sequence[str]) -> ProcessPoolExecutor:
    """A pool with a process for every slot."""
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    for slot in slots:
        free.put(slot)
    return ProcessPoolExecutor(len(slots), context, _begin_worker, (free,))


def _begin_worker(free: Queue[str]) -> None:
    """Take a slot.  A killed parent tells its workers nothing; a thread in each of them waits for its end."""
    slot = free.get()
    if slot:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_end() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait_for_end, daemon=True).start()
