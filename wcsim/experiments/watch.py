"""What others may see of a run while it goes on: `progress.json`, and `logs/` with what its jobs printed.

Neither belongs to the run's results.  Easy to get wrong: several jobs run at once, so the time left is by the pace at
which jobs end, not by what one takes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any

from wcsim.errors import RunError
from wcsim.experiments.work import Done, Failed
from wcsim.runs import files
from wcsim.runs.lock import holder
from wcsim.runs.run import Run

PROGRESS = "progress.json"
SHOWN = 3
"""Failed jobs that a message names."""


class Watch:
    """Writes both for one run.  total: jobs in all.  before: those that were done when it began."""

    def __init__(self, folder: Path, total: int, before: int) -> None:
        self._folder, self._total, self._before, self.done, self._began = folder, total, before, before, time()
        self._places: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.failed: dict[str, str] = {}
        self._write()

    def ended(self, done: Done[Any, Any], keys: Sequence[str]) -> None:
        """A job has ended, well or not."""
        self._places[done.where] += 1
        self._seconds[done.where] += done.seconds
        text = done.log
        if isinstance(done.result, Failed):
            self.failed[name_of(keys)] = done.result.error
            text += done.result.trace or done.result.error
        else:
            self.done += 1
        if text:
            path = log_of(self._folder, keys)
            path.parent.mkdir(exist_ok=True)
            files.replace(path, f"{name_of(keys)}\non {done.where}, {done.seconds:.1f} s\n\n{text}".encode())
        self._write()

    def _write(self) -> None:
        workers = {where: {"jobs": count, "seconds": self._seconds[where]} for where, count in self._places.items()}
        told = {"total": self._total, "before": self._before, "done": self.done, "began": self._began, "now": time(),
                "workers": workers, "failed": self.failed}
        files.replace(self._folder / PROGRESS, files.encode(told, indent=2).encode())


def name_of(keys: Sequence[str]) -> str:
    """A job by its first episode, and how many more it has."""
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"


def log_of(folder: Path, keys: Sequence[str]) -> Path:
    """Where what a job printed is kept."""
    readable = re.sub(r"[^A-Za-z0-9=.-]+", "_", keys[0])[:80]
    return folder / "logs" / f"{readable}-{sha256(keys[0].encode()).hexdigest()[:8]}.txt"


def failures(folder: Path, failed: dict[str, str], logs: Iterable[Path], total: int) -> RunError:
    """One line for all that failed."""
    named = [f"{name}: {error}" for name, error in list(failed.items())[:SHOWN]]
    more = [f"and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
    return RunError(f"{len(failed)} of {total} jobs failed, the others are recorded in {folder}, and the same command "
                    f"tries these again: {'; '.join(named + more)} (traceback in {next(iter(logs))})")


@dataclass(frozen=True, slots=True)
class Status:
    """How far a run is.  told: `progress.json`.  episodes: recorded.  writer: who writes it now, or None.  ended:
    whether it has a summary."""

    told: dict[str, Any]
    episodes: int
    writer: str | None
    ended: bool

    @property
    def line(self) -> str:
        """In one line."""
        counts = f"{self.told['done']} of {self.told['total']} jobs, {self.episodes} episodes"
        state = f"written by {self.writer}" if self.writer else "ended" if self.ended else "stopped"
        left = self.left_s if self.writer else None
        failed = [f"{len(self.told['failed'])} failed"] if self.told["failed"] else []
        time_left = [f"{timedelta(seconds=round(left))} left"] if left is not None else []
        return ", ".join([counts, *failed, *time_left, state])

    @property
    def left_s(self) -> float | None:
        """Seconds left, by the pace since it was begun or taken up; None where no job has ended since."""
        told = self.told
        ended = told["done"] - told["before"]
        return (told["total"] - told["done"]) * (told["now"] - told["began"]) / ended if ended else None

    @property
    def workers(self) -> list[tuple[str, int, float]]:
        """Of each worker that a job has ended on: its name, jobs, mean seconds per job."""
        rows = self.told["workers"].items()
        return [(where, row["jobs"], row["seconds"] / row["jobs"]) for where, row in sorted(rows)]


def status_of(path: Path) -> Status:
    """How far the run at `path` is; changes nothing.  RunError where there is none."""
    run = Run(path)
    if not (path / PROGRESS).is_file():
        raise RunError(f"{path} has no {PROGRESS}; it was not begun by a command that tells of its progress")
    told = files.read_object(path / PROGRESS)
    return Status(told, len(run.episodes), holder(path), (path / "summary.json").is_file())
