"""The page of a budget sweep: which setting to take for a deadline, at a glance.

Easy to get wrong: the horizontal axis is the deadline that was set; what plans really took is in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from wcsim.report import phrases
from wcsim.report.canvas import Panel, colour, count_axis, draw, plain_numbers
from wcsim.report.conditions import conditions
from wcsim.report.evaluation import ends
from wcsim.report.measures import spec_of
from wcsim.report.sections import Section, Table, write_page
from wcsim.runs.run import Run
from wcsim.strict_yaml import dump_yaml

Row = Mapping[str, Any]

COLOURS = ("cached", "uncached", "between", "plan", "encode", "truth", "estimate", "alert")
LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))
MARKERS = "osD^"

OUTCOMES = {
    "final_progress": ("final_progress_interval", "Progress at the end"),
    "success_rate": ("success_interval", "Success rate"),
    "latent_error": (None, "Prediction error, relative"),
}
"""Outcome to its interval and its name."""


def write_budget(run: Run) -> Path:
    """Write `report.html` into the run; returns its path.  Raises RunError where the run has not ended."""
    summary, config = run.read_summary(), run.config
    lede = (
        f"A planner planned in the world {config['world']} and acted in the truth: "
        f"{phrases.plural(summary['episodes'], 'episode')} of at most {phrases.plural(summary['max_steps'], 'step')} "
        f"for every point below. Time was {'simulated' if summary['clock'] == 'simulated' else 'measured'}. "
        f"Progress is the task's {spec_of(run.manifest).progress}. {conditions(run)}"
    )
    return write_page(
        run.path / "report.html", str(config["name"]), lede,
        [_deadlines(summary), _delays(summary), _governed(summary, config)],
        sources={"Configuration": dump_yaml(config), "Manifest": dumps(run.manifest, indent=2)},
        also=", and episodes.csv every episode",
    )


def _deadlines(summary: Mapping[str, Any]) -> Section:
    cells: list[Row] = summary["deadline"]
    best: dict[float, Row] = {}
    for cell in cells:
        if cell["rounds_per_plan"] > 0 and cell["attainment"] >= 0.95:
            known = best.get(cell["deadline_ms"])
            if known is None or cell["final_progress"] > known["final_progress"]:
                best[cell["deadline_ms"]] = cell
    reading = " ".join(
        f"Within {phrases.measured(deadline, 'ms')}, {cell['planner']} on {cell['effort']} gets furthest: "
        f"{phrases.number(cell['final_progress'])}." for deadline, cell in sorted(best.items())
    ) or "No setting met its own deadline in 19 of 20 plans."
    panels = [
        panel(f"deadline-{name}", f"{title}, against the deadline per plan", cells,
              lambda row: (row["effort"], row["planner"]), "deadline_ms", name, _log_axis)
        for name, (_, title) in OUTCOMES.items() if any(cell[name] is not None for cell in cells)
    ]
    rows = tuple(
        (f"{cell['effort']}, {cell['planner']}", phrases.number(cell["deadline_ms"], 0), *_outcome(cell),
         *(phrases.number(cell["plan_ms"][key], 0) for key in ("p50", "p95", "p99", "max")),
         phrases.percent(cell["attainment"]), phrases.times(cell["real_time_factor"]),
         phrases.number(cell["calls_per_plan"], 0))
        for cell in cells
    )
    table = Table("By deadline", ("", "deadline, ms", "success", "progress", "95%", "plan p50", "p95", "p99", "max",
                                  "met", "real time", "candidates"), rows)
    return Section("deadline", "What a deadline buys", reading,
                   "Colours are efforts, lines planners; bars are 95% intervals. While it plans, the scene does not "
                   "move: what a late plan costs in a moving one is below. `wcsim budget CONFIG --recommend MS` "
                   "prints the setting to take.", tuple(panels), (table,))


def _delays(summary: Mapping[str, Any]) -> Section:
    cells: list[Row] = summary["delay"]
    if not cells:
        return Section("delay", "What a delay costs", missing="No delays were swept.")
    first = cells[0]
    panels = [
        panel(f"delay-{name}", f"{title}, against delay", cells, lambda row: (row["mode"],), "delay", name,
              lambda axes: count_axis(axes, "delay, control ticks"))
        for name, (_, title) in OUTCOMES.items() if any(cell[name] is not None for cell in cells)
    ]
    rows = tuple((f"{cell['mode']}, {phrases.plural(cell['delay'], 'tick')}", *_outcome(cell),
                  phrases.percent(cell["waited"])) for cell in cells)
    table = Table("By delay", ("", "success", "progress", "95%", "ticks held"), rows)
    return Section(
        "delay", "What a delay costs", f"{first['planner']} on {first['effort']}, plans arriving late.",
        "wait holds the robot until the plan arrives; naive goes on with the last one and then switches; ensemble "
        "averages the plans that cover a tick; freeze plans knowing what will have been done by then.",
        tuple(panels), (table,))


def _governed(summary: Mapping[str, Any], config: Mapping[str, Any]) -> Section:
    cells: list[Row] = summary["governed"]
    if not cells:
        return Section("governed", "What a governor makes of a deadline", missing="No governor was swept.")
    efforts = "; ".join(f"{level}: {name}" for level, name in enumerate(config["governed"]["efforts"]))
    rows = tuple((phrases.number(cell["deadline_ms"], 0), *_outcome(cell), phrases.number(cell["level"], 2),
                  *(phrases.number(cell["plan_ms"][key], 0) for key in ("p50", "p95", "max")),
                  phrases.percent(cell["attainment"]), phrases.times(cell["real_time_factor"])) for cell in cells)
    table = Table("By deadline", ("deadline, ms", "success", "progress", "95%", "mean level", "plan p50", "p95", "max",
                                  "met", "real time"), rows)
    return Section(
        "governed", "What a governor makes of a deadline",
        how="Plans are never cut short here; after a miss the governor asks for less, after calm for more. Levels: "
        f"{efforts}.", tables=(table,))


def _outcome(cell: Row) -> tuple[str, ...]:
    return (phrases.percent(cell["success_rate"]), phrases.number(cell["final_progress"], 3),
            ends(cell["final_progress_interval"]))


def panel(
    name: str, title: str, cells: Sequence[Row], series: Callable[[Row], tuple[str, ...]], along: str, outcome: str,
    finish: Callable[[Axes], None],
) -> Panel:
    """`outcome` along a key of the cells, a curve per series: its first part gives the colour, its second the line."""
    interval = OUTCOMES[outcome][0]
    keys = list(dict.fromkeys(map(series, cells)))
    firsts, seconds = (list(dict.fromkeys(key[place] for key in keys if len(key) > place)) for place in (0, 1))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for key in keys:
            some = [cell for cell in cells if series(cell) == key and cell[outcome] is not None]
            if not some:
                continue
            x, y = (np.array([cell[at] for cell in some], dtype=np.float64) for at in (along, outcome))
            place = seconds.index(key[1]) if len(key) > 1 else 0
            hue = colour(COLOURS[firsts.index(key[0]) % len(COLOURS)])
            bars = None
            if interval is not None:
                bars = np.nan_to_num(np.abs(np.array([cell[interval] for cell in some], dtype=np.float64).T - y))
            axes.errorbar(x, y, yerr=bars, color=hue, linestyle=LINES[place % len(LINES)], elinewidth=0.7,
                          marker=MARKERS[place % len(MARKERS)], label=", ".join(key))
        plain_numbers(axes)
        finish(axes)
        figure.legend(loc="outside lower center", ncols=3, fontsize=7)

    return Panel(title, draw(name, title, paint, height_in=3.4))


def _log_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("deadline per plan, ms")
