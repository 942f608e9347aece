"""What the cache benchmark says: errors at equal speed, which settings are on the frontier, and whether the claims
hold.

Easy to get wrong: a curve is only read between its own points.  A policy that was never measured as fast as 3x has no
error at 3x, however smoothly its curve would go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]
"""One contestant at one batch size, as `wcsim.experiments.bench.cache.measure` writes it."""


def error_at(rows: Sequence[Row], speed: float, error: str = "latent_error", against: str = "speedup") -> float | None:
    """Error of a curve at a speed-up: its logarithm interpolated linearly along its lower edge.

    None where the curve does not reach from below to above that speed.  A point that is slower and worse than another
    is no part of the lower edge.
    """
    points = lower_edge([(row[against], row[error]) for row in rows if row[error] is not None and row[error] > 0])
    speeds, errors = (np.array(column) for column in zip(*points, strict=True)) if points else (np.empty(0),) * 2
    if not len(speeds) or not speeds[0] <= speed <= speeds[-1]:
        return None
    return float(np.exp(np.interp(speed, speeds, np.log(errors))))


def lower_edge(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (speed, error) that no other beats in both, by rising speed; their errors rise with it."""
    edge: list[tuple[float, float]] = []
    for speed, error in sorted(points, key=lambda point: (-point[0], point[1])):
        if not edge or error < edge[-1][1]:
            edge.append((speed, error))
    return edge[::-1]


def matched(rows: Sequence[Row], speeds: Sequence[float], names: str = "policy") -> list[dict[str, Any]]:
    """Per curve (`names`) and speed-up the latent error; best first at the first speed that a curve reaches."""
    table = []
    for name in dict.fromkeys(row[names] for row in rows):
        curve = [row for row in rows if row[names] == name]
        table.append({"policy": name, **{f"{speed:g}": error_at(curve, speed) for speed in speeds}})
    return sorted(table, key=lambda row: [row[f"{s:g}"] if row[f"{s:g}"] is not None else np.inf for s in speeds])


def winners(table: Sequence[Mapping[str, Any]], speeds: Sequence[float], ours: Sequence[str]) -> dict[str, Any]:
    """Per speed-up: the policy of least error, and whether it is one of `ours`; None where no policy is as fast."""
    found: dict[str, Any] = {}
    for speed in (f"{speed:g}" for speed in speeds):
        there = [row for row in table if row[speed] is not None]
        best = min(there, key=lambda row: row[speed]) if there else None
        found[speed] = best and {"policy": best["policy"], "error": best[speed], "ours": best["policy"] in ours}
    return found


def joint(rows: Sequence[Row], speeds: Sequence[float]) -> list[dict[str, Any]]:
    """At each speed-up over the official setting: the best error with and without a cache, and the gain."""
    plain = [row for row in rows if row["policy"] == "none"]
    cached = [row for row in rows if row["policy"] != "none"]
    table = []
    for speed in speeds:
        both = [best_at(group, speed) for group in (plain, cached)]
        gain = 1.0 - both[1]["error"] / both[0]["error"] if both[0] and both[1] else None
        table.append({"speed": speed, "uncached": both[0], "cached": both[1], "gain": gain})
    return table


def best_at(rows: Sequence[Row], speed: float) -> dict[str, Any] | None:
    """The least error among the settings that are at least as fast, and the policy that has it."""
    fast = [row for row in rows if row["speedup_official"] >= speed and row.get("reference_error") is not None]
    if not fast:
        return None
    best = min(fast, key=lambda row: row["reference_error"])
    return {"error": best["reference_error"], **{key: best[key] for key in ("policy", "knob", "solver", "steps")}}


def affordable(rows: Sequence[Row], most: float) -> dict[str, Any] | None:
    """The fastest contestant that loses at most the share `most` of the official setting's accuracy in every figure."""
    compared = [(row, row["truth_loss_official"]) for row in rows if row["truth_loss_official"]]
    good = [row for row, loss in compared if all(value <= most for name, value in loss.items()
                                               if not name.endswith("_interval"))]
    return dict(max(good, key=lambda row: row["speedup_official"])) if good else None


def conclude(measured: Mapping[str, Any], speeds: Sequence[float], ours: Sequence[str]) -> dict[str, Any]:
    """The summary: curves, frontier, errors at matched speeds, ablation, and what of the claims holds."""
    rows, first_steps = measured["rows"], measured["steps"][0]
    curves = [row for row in rows if row["group"] == "curves"]
    batches = sorted({row["batch"] for row in curves})
    tables = {str(batch): matched([row for row in curves if row["batch"] == batch and row["steps"] == first_steps
                                  and row["policy"] != "none"], speeds) for batch in batches}
    framed = sorted({row["batch"] for row in rows if row["group"] == "frontier"})
    frontier = [row for row in rows if row["group"] in ("frontier", "curves") and row["batch"] in framed]
    ablation = [row for row in rows if row["group"] == "ablation"]
    return {
        **{key: value for key, value in measured.items() if key != "rows"},
        "curves": curves,
        "frontier": frontier,
        "matched": tables,
        "winners": {batch: winners(table, speeds, ours) for batch, table in tables.items()},
        "ablation": {str(batch): matched([row for row in ablation if row["batch"] == batch], speeds)
                     for batch in sorted({row["batch"] for row in ablation})},
        "ablation_rows": ablation,
        "joint": {str(batch): joint([row for row in frontier if row["batch"] == batch], (2, 3, 4, 5, 6))
                  for batch in framed},
        "affordable": {str(batch): affordable([row for row in [*curves, *frontier] if row["batch"] == batch], 0.005)
                       for batch in sorted({*batches, *framed})},
    }
