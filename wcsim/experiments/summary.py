"""From the rows of a run to `summary.json`: a pure function, so a resumed run sums up what it reads back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from wcsim.metrics.horizon import COMPARISONS, at_horizons, median_valid_horizon, valid_horizons
from wcsim.metrics.latency import LatencyLog, describe
from wcsim.metrics.stats import paired_speedup, wilson
from wcsim.runs.run import Run
from wcsim.spec import StateSpec

PLACES = ("truth", "cached", "uncached")


def summarise(run: Run, *, deadline_ms: float, fps: float) -> dict[str, Any]:
    """Every number that the report shows.  fps: control ticks per second."""
    episodes, steps = sorted(run.episodes, key=lambda row: row["episode"]), run.steps
    spec = StateSpec.from_json(run.manifest["state"])
    acted_in = episodes[0]["acted_in"]
    success = wilson(sum(row["success"][acted_in] for row in episodes), len(episodes))
    log = LatencyLog(deadline_ms=deadline_ms, fps=fps)
    for row in steps:
        log.add(row["spans_ms"], first=row["horizon"] == 1)
    # First steps carry warm-up in one world or the other, whichever went first.
    # Within a chunk nothing is left to imagine.
    timed = [row["imagine_ms"] for row in steps if row["horizon"] > 1 and all(row["imagine_ms"].values())]
    uncached_ms, cached_ms = (np.array([row[place] for row in timed]) for place in ("uncached", "cached"))
    speedup = paired_speedup(uncached_ms, cached_ms, generator=np.random.default_rng(0)) if timed else None
    return {
        "episodes": len(episodes),
        "steps": len(steps),
        "acted_in": acted_in,
        "fps": fps,
        "success_rate": success.value,
        "success_interval": [success.low, success.high],
        "success_rate_by_place": {place: _mean(row["success"][place] for row in episodes) for place in PLACES},
        "final_progress": _mean(row["final_progress"][acted_in] for row in episodes),
        "final_progress_by_place": {place: _mean(row["final_progress"][place] for row in episodes) for place in PLACES},
        "error": at_horizons(steps),
        "valid_horizon": _valid_horizons(steps, spec),
        "clipped": sum(row["clipped"] for row in episodes),
        "labels": run.manifest["labels"],
        "shape_ok": {place: _mean(row["shape_ok"][place] for row in steps) for place in PLACES},
        "speedup": speedup.value if speedup else None,
        "speedup_interval": [speedup.low, speedup.high] if speedup else None,
        "hit_rate": _mean(row["hit_rate"] for row in steps),
        "skipped": _mean(row["skipped"] for row in steps),
        **log.summary(),
        "planning": _planning(steps),
    }


def _valid_horizons(steps: Sequence[Mapping[str, Any]], spec: StateSpec) -> dict[str, float | None]:
    """Per comparison, when the first quantity of the goal is lost; empty where none can be."""
    losable = [quantity for quantity in (*spec.goal, *spec) if isfinite(quantity.lost)]
    if not losable:
        return {}
    metric, bound = losable[0].metric, losable[0].lost
    return {name: median_valid_horizon(valid_horizons(steps, name, metric=metric, bound=bound)) for name in COMPARISONS}


def _planning(steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the planner did; None where a policy acted."""
    planned = [row for row in steps if row["plan"] is not None and row["plan"]["reason"] is not None]
    if not planned:
        return None
    errors = [row["plan"]["prediction_error"] for row in steps if row["plan"]["prediction_error"] is not None]
    return {
        "plans": len(planned),
        "calls": sum(row["plan"]["calls"] for row in planned),
        "reasons": dict(Counter(row["plan"]["reason"] for row in planned)),
        "plan_ms": describe([row["spans_ms"]["plan"] for row in planned]),
        "gap": exploitation_gap(steps),
        "rank_agreement": _median(row["plan"].get("rank_agreement") for row in planned),
        "regret": _median(row["plan"].get("regret") for row in planned),
        "prediction_error": {name: _median(error[name] for error in errors)
                             for name in (errors[0] if errors else ())},
    }


def exploitation_gap(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """What the ticks of plans cost as they came, less what was promised: the median over plans, because one frame that
    the estimator cannot read costs as much as all others together.  None where no plan was given up."""
    realised = [row["plan"]["realised"] for row in steps if row["plan"] is not None and row["plan"].get("realised")]
    return _median(came - promised for promised, came in realised)


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
