"""What all experiments share: play the jobs that a run still lacks, record what comes of them, then sum it up.

A job is a value with keys for the episodes that it yields, and a pure function plays it, so jobs may run anywhere and
end in any order.  Easy to get wrong: a job that a kill cut short is played again whole, so some of its episodes may be
recorded already.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.experiments.executor import Executor, Here
from wcsim.experiments.watch import Watch, failures, log_of
from wcsim.experiments.work import NOTHING, Done, Failed, Job, Needs
from wcsim.runs import files
from wcsim.runs.run import Run

Row = Mapping[str, Any]
Progress = Callable[[int, int], None]
"""Receives how many jobs are done, of how many."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One episode of a job.  key: of the episode, the same whenever and wherever it is played.  row: its row.  steps: a
    row per step.  arrays: kept as `episodes/<name>.npz`, where there are any.  files: path inside the run directory to
    content, for people alone."""

    key: str
    row: dict[str, Any]
    steps: Sequence[dict[str, Any]] = ()
    name: str = ""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def complete(
    run: Run, jobs: Mapping[Job, Sequence[str]], play: Callable[[Job], Iterable[Outcome]], *,
    summarise: Callable[[Run], dict[str, Any]], columns: Sequence[str] = (),
    counts: Callable[[Row], bool] = lambda row: True, executor: Executor | None = None,
    progress: Progress | None = None, needs: Needs = NOTHING,
) -> Run:
    """Play the jobs whose episodes `run` lacks; then write table and summary, unless nothing was left to do.

    No other process may write the run meanwhile.  RunError, once all others have ended, where jobs failed in workers;
    there is no summary then.

    jobs: with the keys of their episodes.  needs: of each.  columns: of `episodes.csv`; none writes no table.  counts:
    which rows belong into it.  The run is closed in the end, so that others may write.
    """
    with run:
        left = [job for job, keys in jobs.items() if not run.done.issuperset(keys)]
        if left:
            _play_rest(run, jobs, left, (executor or Here()).run(play, left, needs), progress)
        elif progress:
            progress(len(jobs), len(jobs))
        if left or not (run.path / "summary.json").is_file():
            if columns:
                files.replace(run.path / "episodes.csv", to_csv(filter(counts, run.episodes), columns).encode())
            run.write_summary(summarise(run))
    return run


def _play_rest(
    run: Run, jobs: Mapping[Job, Sequence[str]], left: Sequence[Job], ended: Iterator[Done[Job, Iterable[Outcome]]],
    progress: Progress | None,
) -> None:
    """Record the jobs that are left, as they end."""
    tell, watch = progress or (lambda done, total: None), Watch(run.path, len(jobs), len(jobs) - len(left))
    tell(watch.done, len(jobs))
    logs: list[Path] = []
    for done in ended:
        if isinstance(done.result, Failed):
            logs.append(log_of(run.path, jobs[done.job]))
        else:
            for outcome in done.result:
                record(run, outcome)
        watch.ended(done, jobs[done.job])
        tell(watch.done, len(jobs))
    if logs:
        raise failures(run.path, watch.failed, logs, len(jobs))


def job_key(**parts: object) -> str:
    """What an episode is, as `policy=cem,place=truth,start=12`; parts that are None are left out.

    It follows from content alone: neither the order of a configuration's keys nor other episodes change it.
    """
    texts = {name: str(value) for name, value in parts.items() if value is not None}
    return ",".join(f"{name}={json.dumps(text) if set(text) & set(',=') else text}" for name, text in texts.items())


def record(run: Run, outcome: Outcome) -> None:
    """Write an episode, its arrays first, unless it is there."""
    if outcome.key in run.done:
        return
    for name, content in outcome.files.items():
        (run.path / name).parent.mkdir(exist_ok=True)
        files.replace(run.path / name, content)
    if outcome.arrays:
        run.save_arrays(outcome.name, **outcome.arrays)
    run.record(outcome.key, outcome.steps, outcome.row)


def to_csv(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """A line per episode, in the order of their numbers."""
    text = StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["episode"]))
    return text.getvalue()
