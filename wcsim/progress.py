"""Where long work says how far it is, on stderr: one moving line on a terminal, now and then a new line elsewhere.

Easy to get wrong: away from a terminal all but the first report within `EVERY_S` seconds is dropped, so
nothing that must be read may be reported here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Protocol

from rich import progress as bars
from rich.console import Console

EVERY_S = 30.0
"""Seconds between lines where there is no terminal."""


class Shown(Protocol):
    """What `progress` gives: work tells it a count, a text, both in turn, or nothing at all."""

    def count(self, done: int, total: int) -> None:
        """So many are done, of so many."""
        ...

    def say(self, text: str) -> None:
        """What goes on now."""
        ...


@contextmanager
def progress(what: str) -> Iterator[Shown]:
    """Show that `what` goes on, since when, and whatever it tells: the text, the count, and the time left by it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(what)
        return
    columns = (bars.TextColumn("{task.description}", markup=False), bars.BarColumn(),
               bars.TextColumn("{task.fields[count]}"), bars.TimeElapsedColumn(), bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=console) as shown:
        yield Bar(shown, what)


class Bar:
    """One bar of rich's, which moves to and fro until a count is given."""

    def __init__(self, shown: bars.Progress, what: str) -> None:
        self._shown, self._what = shown, what
        self._task = shown.add_task(what, total=None, count="")

    def count(self, done: int, total: int) -> None:
        """See `Shown`."""
        self._shown.update(self._task, completed=done, total=total, count=f"{done}/{total}")

    def say(self, text: str) -> None:
        """See `Shown`."""
        self._shown.update(self._task, description=f"{self._what}: {text}")


class Lines:
    """Prints reports, at most once in `EVERY_S` seconds, and the first time at once; a count comes with the
    time left, by the pace since the first one."""

    def __init__(self, what: str, clock: Callable[[], float] = monotonic) -> None:
        self._what, self._clock, self._began, self._next = what, clock, clock(), -float("inf")
        self._first: tuple[int, float] | None = None

    def count(self, done: int, total: int) -> None:
        """See `Shown`."""
        now = self._clock()
        if self._first is None:
            self._first = (done, now)
        before, began = self._first
        left = timedelta(seconds=round((total - done) * (now - began) / (done - before))) if done > before else None
        self.say(f"{done} of {total}" + (f", {left} left" if left is not None and done < total else ""))

    def say(self, text: str) -> None:
        """See `Shown`."""
        now = self._clock()
        if now >= self._next:
            self._next = now + EVERY_S
            print(f"{timedelta(seconds=round(now - self._began))} {self._what}: {text}", file=sys.stderr, flush=True)
