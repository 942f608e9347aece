"""The tables of a cache benchmark as Markdown, ready to be pasted beside the equations that they are about.

Easy to get wrong: a dash is a speed that a curve never reached, between its own points; it is no error of zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wcsim.report.phrases import NONE, number, percent, times
from wcsim.runs import files

Row = Mapping[str, Any]


def write_text(summary: Mapping[str, Any], out: Path) -> Path:
    """Write `cache_benchmark.md` beside its summary; returns its path."""
    path = out / "cache_benchmark.md"
    files.replace(path, text_of(summary).encode())
    return path


def text_of(summary: Mapping[str, Any]) -> str:
    """All tables, with what was run above them."""
    floor = summary["floor"]
    head = (
        f"World `{summary['world']}`, {summary['episodes']} held-out episodes from seed {summary['first_seed']}, "
        f"rollouts of {summary['horizon']} steps. Official setting: {summary['steps'][0]} steps of "
        f"{summary['solver']}, no cache. Speed-ups are medians of interleaved, paired wall-clock times. Errors are "
        f"relative distances of latents after the first chunk; shifting the context by {floor['shift']} moves the "
        f"uncached rollout by {number(floor['latent_error'], 5)}."
    )
    parts = [head, *(f"Not measured: {name} ({why})." for name, why in summary["absent"].items())]
    for batch, table in summary["matched"].items():
        parts += [f"### Error at equal speed, {_lanes(batch)}", _at_speeds(table, summary["ours"])]
    for batch, table in summary["ablation"].items():
        parts += [f"### WorldCache without each part, at equal speed, {_lanes(batch)}", _at_speeds(table, ["whole"])]
    for batch, rows in summary["joint"].items():
        parts += [f"### The best of solver, steps and cache, {_lanes(batch)}", _joint(rows)]
    for batch, row in summary["affordable"].items():
        parts.append(f"Fastest within half a percent of the official accuracy in every figure, {_lanes(batch)}: "
                     f"{_affordable(row)}")
    for batch, phases in summary["phases"].items():
        parts += [f"### Where the time goes, {_lanes(batch)}", _phases(phases, summary["curves"])]
    return "\n\n".join(parts) + "\n"


def _lanes(batch: str) -> str:
    return "one lane" if batch == "1" else f"{batch} lanes"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _at_speeds(table: Sequence[Row], ours: Sequence[str]) -> str:
    """A row per policy; the least error of a column in bold, names of ours too."""
    speeds = [key for key in table[0] if key != "policy"] if table else []
    least = {speed: min((row[speed] for row in table if row[speed] is not None), default=None) for speed in speeds}
    rows = []
    for row in table:
        cells = [number(row[speed], 5) for speed in speeds]
        cells = [f"**{cell}**" if row[speed] is not None and row[speed] == least[speed] else cell
                 for cell, speed in zip(cells, speeds, strict=True)]
        rows.append([f"**{row['policy']}**" if row["policy"] in ours else row["policy"], *cells])
    return _table(["", *(f"{speed}x" for speed in speeds)], rows)


def _joint(rows: Sequence[Row]) -> str:
    def text(best: Row | None) -> str:
        if best is None:
            return NONE
        cache = "" if best["policy"] == "none" else f", {best['policy']} {best['knob']}"
        return f"{best['solver']} {best['steps']}{cache}"

    return _table(
        ["at least", "uncached", "error", "cached", "error", "gain"],
        ([f"{row['speed']}x", text(row["uncached"]), _error(row["uncached"]), text(row["cached"]),
          _error(row["cached"]), percent(row["gain"])] for row in rows),
    )


def _error(best: Row | None) -> str:
    return number(best["error"] if best else None, 5)


def _affordable(row: Row | None) -> str:
    if row is None:
        return "none of those that were measured."
    cache = "no cache" if row["policy"] == "none" else f"{row['policy']} {row['knob']}"
    low, high = row["speedup_official_interval"]
    return (f"{row['solver']} {row['steps']}, {cache}: {times(row['speedup_official'])} (95% interval {times(low)} to "
            f"{times(high)}).")


def _phases(phases: Mapping[str, Mapping[str, float]], curves: Sequence[Row]) -> str:
    """Shares of a step per span, and the most memory that any knob of the policy took."""
    spans = ("probe", "deep", "policy", "embed", "head", "solver", "state_model", "outside_blocks")
    grids = {name: max(row["memory_grids"] for row in curves if row["policy"] == name) for name in phases}
    return _table(
        ["", *(span.replace("_", " ") for span in spans), "token grids per lane"],
        ([name, *(percent(shares.get(span, 0.0)) for span in spans), number(grids[name], 1)]
         for name, shares in phases.items()),
    )
