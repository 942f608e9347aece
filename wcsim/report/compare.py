"""One run or several: the page that belongs to a run's kind, and a page that lays runs side by side.

Easy to get wrong: runs are compared by the numbers that all of them have; what only some have is not shown as missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wcsim.errors import RunError
from wcsim.report import phrases
from wcsim.report.budget import write_budget
from wcsim.report.canvas import Panel, colour, draw, plain_numbers
from wcsim.report.conditions import conditions
from wcsim.report.evaluation import write_evaluation
from wcsim.report.goals import write_goals
from wcsim.report.page import write_report
from wcsim.report.sections import Section, Table, write_page
from wcsim.runs.run import Run
from wcsim.strict_yaml import dump_yaml

HEADLINES = {
    "closed loop": ("success_rate", "final_progress", "speedup", "hit_rate", "latency_ms.p95", "deadline_attainment"),
    "evaluation": ("pearson.uncached", "pearson.cached", "mmrv.uncached", "mmrv.cached", "cache.hit_rate"),
    "budget": (),
    "goals": (),
}
"""Kind of run to the numbers that are drawn."""


def write_page_of(path: Path) -> Path:
    """Write the page that belongs to the run at `path`; returns the page's path."""
    run = Run(path)
    kind = kind_of(run.read_summary())
    writers = {"evaluation": write_evaluation, "budget": write_budget, "goals": write_goals}
    return writers[kind](run) if kind in writers else write_report(path)


def kind_of(summary: Mapping[str, Any]) -> str:
    """What was run."""
    return str(summary.get("kind", "closed loop"))


def write_comparison(paths: Sequence[Path], out: Path) -> Path:
    """Lay runs of one kind side by side on the page `out`; returns it.  RunError for fewer than two, or two kinds."""
    if len(paths) < 2:
        raise RunError(f"a comparison needs two runs or more, got {len(paths)}")
    runs = [Run(path) for path in paths]
    summaries = [run.read_summary() for run in runs]
    kinds = {kind_of(summary) for summary in summaries}
    if len(kinds) > 1:
        raise RunError(f"runs of one kind can be compared, got {', '.join(sorted(kinds))}")
    names = _names(runs)
    numbers = [dict(leaves(summary)) for summary in summaries]
    common = [key for key in numbers[0] if all(key in one for one in numbers[1:])]
    rows = tuple((key, *(phrases.number(one[key], 4) for one in numbers)) for key in common)
    table = Table("Every number that all of them have", ("", *names), rows)
    panels = tuple(_bars(key, names, [one[key] for one in numbers]) for key in HEADLINES[next(iter(kinds))]
                   if key in common and any(one[key] is not None for one in numbers))
    changed = tuple((key, *(str(value) for value in values)) for key, values in differences(runs))
    sections = [
        Section("numbers", "What came out", panels=panels, tables=(table,)),
        Section("settings", "What was asked differently", "" if changed else "Nothing: their configurations are equal.",
                tables=(Table("Settings that differ", ("", *names), changed),) if changed else ()),
    ]
    sources = {name: dump_yaml(run.config) for name, run in zip(names, runs, strict=True)}
    lede = " ".join(f"{name}: {conditions(run)}" for name, run in zip(names, runs, strict=True))
    return write_page(out, " against ".join(names), f"{len(runs)} runs of one kind, side by side. {lede}", sections,
                      sources=sources)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, float | None]]:
    """Every number below a summary, under its path; lists of mappings go by their `name`, other lists are left out."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, Mapping) and "name" in item:
                yield from leaves({k: part for k, part in item.items() if k != "name"}, f"{key}.{item['name']}")
    elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield key, value


def differences(runs: Sequence[Run]) -> Iterator[tuple[str, list[Any]]]:
    """Settings that are not the same in all runs."""
    flat = [dict(_flat(run.config)) for run in runs]
    for key in dict.fromkeys(key for one in flat for key in one):
        values = [one.get(key, phrases.NONE) for one in flat]
        if any(value != values[0] for value in values) and key != "name":
            yield key, values


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    items: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield key, value
    else:
        for name, item in items:
            yield from _flat(item, f"{key}.{name}" if key else str(name))


def _names(runs: Sequence[Run]) -> list[str]:
    """Their own names, or their folders' where those are the same."""
    names = [str(run.config.get("name", run.path.name)) for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _bars(key: str, names: Sequence[str], values: Sequence[float | None]) -> Panel:
    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        heights = [np.nan if value is None else value for value in values]
        axes.bar(range(len(names)), heights, width=0.6, color=colour("computed"))
        axes.set_xticks(range(len(names)), [name if len(name) < 24 else f"{name[:22]}.." for name in names], fontsize=7)
        plain_numbers(axes)

    return Panel(key, draw(f"compare-{key.replace('.', '-')}", f"{key} of every run", paint, height_in=2.4))
