"""One job in a worker: what it needs, what came of it, and what it printed meanwhile.

Easy to get wrong: an error travels as text, since its class may be unknown to the process that collects, and its
traceback would hold a worker's frames.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from time import perf_counter
from typing import Generic, TypeVar

from wcsim.errors import RunError, WcsimError

Job = TypeVar("Job")
Result = TypeVar("Result")

TRIES = 3
"""How often a job is begun, where its worker dies or another place may help."""
LOG_CHARACTERS = 20_000
"""The end of what a job printed that is kept."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What every job of a run needs.  worlds: by name or folder.  cpus: as many as its threads.  gpus: a share of one,
    or a whole number.  memory: bytes of main memory."""

    worlds: tuple[str, ...] = ()
    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0


    def sharing(self, gpus: float | None) -> Needs:
        """With another share of a GPU, where jobs need any."""
        return replace(self, gpus=gpus) if gpus and self.gpus else self


NOTHING = Needs()


@dataclass(frozen=True, slots=True)
class Failed:
    """Instead of a result.  error: in one line.  trace: the traceback, where there is one.  final: whether another try
    would be the same."""

    error: str
    trace: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True)
class Done(Generic[Job, Result]):
    """A job that has ended.  where: the worker.  seconds: it took there.  log: the end of what it printed."""

    job: Job
    result: Result | Failed
    where: str = "this process"
    seconds: float = 0.0
    log: str = ""

    @property
    def value(self) -> Result:
        """The result.  RunError where the job failed."""
        if isinstance(self.result, Failed):
            raise RunError(self.result.error)
        return self.result


def perform(function: Callable[[Job], Result], job: Job) -> Done[Job, Result]:
    """Run a job in this worker; what it prints is kept, and no error leaves it."""
    printed, began = StringIO(), perf_counter()
    result: Result | Failed
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            result = function(job)
        except Exception as error:
            result = failed(error)
    return Done(job, result, place(), perf_counter() - began, printed.getvalue()[-LOG_CHARACTERS:])


def failed(error: Exception) -> Failed:
    """An error as text; wcsim's own say what is wrong with what was given, so no other place helps."""
    own = isinstance(error, WcsimError)
    text = str(error) if own else traceback.format_exception_only(error)[-1].strip()
    return Failed(text.partition("\n")[0], traceback.format_exc(), final=own)


def place() -> str:
    """This worker, as `node-3:4711`; only as far as it is known on the network, and in no manifest."""
    return f"{socket.gethostname()}:{os.getpid()}"


def tell(text: str) -> None:
    """Say something that a person should read, on stderr."""
    print(text, file=sys.stderr, flush=True)
