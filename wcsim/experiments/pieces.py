"""What the sharded experiments share: do the pieces of work that a run still lacks, then sum it up.

A piece is a value that says which jobs it yields, one per episode, and a pure function makes their rows, so pieces may
run anywhere and end in any order.  Easy to get wrong: a piece that a kill cut short is done again whole, so some of its
rows may be there already.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import StringIO
from typing import Any, TypeVar

from wcsim.experiments.executor import Executor, Here
from wcsim.track import files
from wcsim.track.runs import Run

Piece = TypeVar("Piece")
Row = Mapping[str, Any]
Tell = Callable[[int, int], None]
"""Told how many pieces are done, of how many."""


def finish(
    run: Run,
    pieces: Mapping[Piece, Sequence[str]],
    play: Callable[[Piece], Iterable[dict[str, Any]]],
    *,
    columns: Sequence[str],
    summarise: Callable[[Sequence[dict[str, Any]]], dict[str, Any]],
    counts: Callable[[Row], bool] = lambda row: True,
    executor: Executor | None = None,
    tell: Tell | None = None,
) -> Run:
    """Play the pieces whose jobs `run` lacks; then write summary and table, unless nothing was left to do.

    pieces: with their jobs.  play: a piece's rows, each with its `job`.  counts: which rows the table holds.
    """
    done = run.done
    left = [piece for piece, jobs in pieces.items() if not done.issuperset(jobs)]
    before = len(pieces) - len(left)
    if tell:
        tell(before, len(pieces))
    for ended, (_, rows) in enumerate((executor or Here()).run(play, left), start=1):
        for row in rows:
            if row["job"] not in done:
                run.record(row["job"], [], row)
        if tell:
            tell(before + ended, len(pieces))
    if left or not (run.path / "summary.json").is_file():
        files.replace(run.path / "episodes.csv", to_csv(filter(counts, run.episodes), columns).encode())
        run.write_summary(summarise(run.episodes))
    return run


def job_key(**parts: object) -> str:
    """What an episode is, as `arm=cem,place=truth,start=12`; parts that are None are left out.

    It follows from content alone: neither the order of a configuration's keys nor other episodes change it.
    """
    texts = {name: str(value) for name, value in parts.items() if value is not None}
    return ",".join(f"{name}={json.dumps(text) if set(text) & set(',=') else text}" for name, text in texts.items())


def to_csv(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """A line per episode, in the order of their numbers."""
    text = StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["episode"]))
    return text.getvalue()
