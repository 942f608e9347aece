"""Where long work says how far it is: a bar or a line that moves on a terminal, now and then a new line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

EVERY_S = 30.0
"""Seconds between lines where there is no terminal."""


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Progress on stderr with the time left, moved by calling it with how many are done, of how many."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with saying(what) as say:
            yield _Estimate(say)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


@contextmanager
def saying(what: str) -> Iterator[Callable[[str], None]]:
    """Progress on stderr in words, by calling it with what goes on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(what)
        return
    with console.status(Text(what)) as status:  # as `Text`, for a name may hold [brackets], which would be markup
        yield lambda text: status.update(Text(f"{what}: {text}"))


class _Lines:
    """Prints what goes on, at most once in `EVERY_S` seconds, and the first time at once."""

    def __init__(self, what: str, clock: Callable[[], float] = monotonic) -> None:
        self._what, self._clock, self._began, self._next = what, clock, clock(), -float("inf")

    def __call__(self, text: str) -> None:
        now = self._clock()
        if now >= self._next:
            self._next = now + EVERY_S
            print(f"{timedelta(seconds=round(now - self._began))} {self._what}: {text}", file=sys.stderr, flush=True)


class _Estimate:
    """Words for a count, with the time left by the pace since the first one."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._say, self._clock = say, clock
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None:
            self._first = (done, now)
        before, began = self._first
        left = timedelta(seconds=round((total - done) * (now - began) / (done - before))) if done > before else None
        self._say(f"{done} of {total}" + (f", {left} left" if left is not None and done < total else ""))
