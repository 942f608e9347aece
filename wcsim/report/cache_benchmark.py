"""The page of a cache benchmark: error against measured speed for every setting, and what follows from it.

Easy to get wrong: twelve policies need twelve styles.  Ours is drawn strong, the others in quiet colours with a marker
each, and names stand in the legend in the order of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from wcsim.report.cache_benchmark_text import write_text
from wcsim.report.canvas import Panel, colour, draw
from wcsim.report.conditions import labels_of
from wcsim.report.template import drawn, fill
from wcsim.runs import files

Row = Mapping[str, Any]

MARKERS = "osD^v<>Pph8X*d"
QUIET = ("truth", "uncached", "between", "plan", "encode", "embed", "probe", "estimate", "decode")


def write_cache_benchmark(summary: Mapping[str, Any], out: Path) -> Path:
    """Write `report.html` beside the summary of a benchmark, its tables as `cache_benchmark.md`, and its drawings.

    Returns the page's path.
    """
    page = out / "report.html"
    panels = {"curves": curve_panels(summary), "frontier": frontier_panels(summary),
              "ablation": ablation_panels(summary)}
    for name, some in panels.items():
        for place, panel in enumerate(some, start=1):
            files.replace(out / f"{name}-{place}.svg", panel.svg.encode())
    write_text(summary, out)
    files.replace(page, fill("cache_benchmark.html", title=f"Cache benchmark: {summary['world']}", summary=summary,
                             labels=labels_of(summary),
                             curves=drawn(panels["curves"]), joint=drawn(panels["frontier"]),
                             ablation=drawn(panels["ablation"]), speeds=speeds_of(summary)).encode())
    return page


def speeds_of(summary: Mapping[str, Any]) -> list[str]:
    """The speed-ups that the tables compare at, as text."""
    tables = [table for table in summary["matched"].values() if table]
    return [key for key in tables[0][0] if key != "policy"] if tables else []


def styles_of(rows: Sequence[Row], ours: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Policy to how its curve is drawn."""
    policies = {row["policy"] for row in rows if row["policy"] != "none"}
    names = sorted(policies, key=lambda name: (name not in ours, name))
    return {
        name: {"color": colour("cached" if name in ours else QUIET[place % len(QUIET)]), "label": name,
               "marker": MARKERS[place % len(MARKERS)], "linewidth": 2.2 if name in ours else 1.0,
               "zorder": 3 if name in ours else 2}
        for place, name in enumerate(names)
    }


def curve_panels(summary: Mapping[str, Any]) -> list[Panel]:
    """Latent error against speed-up over the uncached rollout, a panel per batch size and step count."""
    rows = [row for row in summary["curves"] if row["policy"] != "none"]
    styles = styles_of(rows, summary["ours"])
    panels = []
    for steps in dict.fromkeys(row["steps"] for row in rows):
        for batch in dict.fromkeys(row["batch"] for row in rows):
            some = [row for row in rows if (row["steps"], row["batch"]) == (steps, batch) and row["latent_error"]]
            if some:
                title = f"Distance from the uncached rollout, {steps} steps, batch {batch}"
                panels.append(_curve_panel(some, styles, f"cache-{steps}-{batch}", title))
    return panels


def ablation_panels(summary: Mapping[str, Any]) -> list[Panel]:
    """The same for WorldCache whole and without each of its parts, a panel per batch size."""
    every = [row for row in summary["ablation_rows"] if row["latent_error"]]
    styles = styles_of(every, ["whole"])
    return [_curve_panel([row for row in every if row["batch"] == batch], styles, f"ablation-{batch}",
                         f"WorldCache without each part, batch {batch}")
            for batch in dict.fromkeys(row["batch"] for row in every)]


def _curve_panel(rows: Sequence[Row], styles: Mapping[str, dict[str, Any]], name: str, title: str) -> Panel:
    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for policy, style in styles.items():
            points = sorted((row["speedup"], row["latent_error"]) for row in rows if row["policy"] == policy)
            if points:
                axes.plot(*zip(*points, strict=True), **style)
        _log_error(axes, "speed-up over the uncached loop, measured")
        figure.legend(loc="outside lower center", ncols=3, fontsize=7, columnspacing=1.0)

    return Panel(title, draw(name, f"{title}, against speed-up, per cache policy", paint, height_in=4.2))


def frontier_panels(summary: Mapping[str, Any]) -> list[Panel]:
    """Distance from the finely integrated solution against speed-up over the official setting, a panel per batch."""
    panels = []
    for batch in dict.fromkeys(row["batch"] for row in summary["frontier"]):
        rows = [row for row in summary["frontier"] if row["batch"] == batch and row["reference_error"] > 0]
        panels.append(_frontier_panel(rows, batch))
    return panels


def _frontier_panel(rows: Sequence[Row], batch: int) -> Panel:
    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, solver in enumerate(dict.fromkeys(row["solver"] for row in rows)):
            for cached in (False, True):
                some = [row for row in rows if row["solver"] == solver and (row["policy"] != "none") == cached]
                if some:
                    axes.scatter([row["speedup_official"] for row in some], [row["reference_error"] for row in some],
                                 s=16, marker=MARKERS[place], label=f"{solver}{', cached' if cached else ''}",
                                 edgecolors=colour("cached" if cached else "uncached"),
                                 facecolors=colour("cached") if cached else "none")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(LogLocator(2))
        _log_error(axes, "speed-up over the official setting, measured")
        figure.legend(loc="outside lower center", ncols=3, fontsize=7)

    title = f"Distance from the finely integrated solution, batch {batch}"
    return Panel(title, draw(f"frontier-{batch}", f"{title}, against speed-up, cached and uncached", paint,
                             height_in=3.8))


def _log_error(axes: Axes, label: str) -> None:
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.grid(axis="x", visible=True)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
