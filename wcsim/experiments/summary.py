"""From the rows of a run to `summary.json`: a pure function, so a resumed run sums up what it reads back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wcsim.track.latency import LatencyLog, describe
from wcsim.track.ledger import COMPARISONS, at_horizons, median_valid_horizon, valid_horizons
from wcsim.track.runs import Run
from wcsim.track.stats import paired_speedup, wilson

TWINS = ("truth", "cached", "uncached")


def summarise(run: Run, *, deadline_ms: float, fps: float) -> dict[str, Any]:
    """Every number that the report shows."""
    episodes, steps = run.episodes, run.steps
    acted_in = episodes[0]["acted_in"]
    success = wilson(sum(row["success"][acted_in] for row in episodes), len(episodes))
    log = LatencyLog(deadline_ms=deadline_ms, fps=fps)
    for row in steps:
        log.add(row["spans_ms"], first=row["horizon"] == 1)
    # First steps carry warm-up in one world or the other, whichever went first.
    timed = [row["imagine_ms"] for row in steps if row["horizon"] > 1]
    uncached_ms, cached_ms = (np.array([row[twin] for row in timed]) for twin in ("uncached", "cached"))
    speedup = paired_speedup(uncached_ms, cached_ms, generator=np.random.default_rng(0)) if timed else None
    return {
        "episodes": len(episodes),
        "steps": len(steps),
        "acted_in": acted_in,
        "fps": fps,
        "success_rate": success.value,
        "success_interval": [success.low, success.high],
        "success_rate_by_twin": {twin: _mean(row["success"][twin] for row in episodes) for twin in TWINS},
        "final_coverage": _mean(row["final_coverage"][acted_in] for row in episodes),
        "final_coverage_by_twin": {twin: _mean(row["final_coverage"][twin] for row in episodes) for twin in TWINS},
        "error": at_horizons(steps),
        "valid_horizon": {name: median_valid_horizon(valid_horizons(steps, name)) for name in COMPARISONS},
        "shape_ok": {twin: _mean(row["shape_ok"][twin] for row in steps) for twin in TWINS},
        "speedup": speedup.value if speedup else None,
        "speedup_interval": [speedup.low, speedup.high] if speedup else None,
        "hit_rate": _mean(row["hit_rate"] for row in steps),
        "skipped": _mean(row["skipped"] for row in steps),
        **log.summary(),
        "planning": _planning(steps),
    }


def _planning(steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the planner did; None where a policy acted."""
    planned = [row for row in steps if row["agent"] is not None and row["agent"]["reason"] is not None]
    if not planned:
        return None
    errors = [row["agent"]["prediction_error"] for row in steps if row["agent"]["prediction_error"] is not None]
    return {
        "plans": len(planned),
        "calls": sum(row["agent"]["calls"] for row in planned),
        "reasons": dict(Counter(row["agent"]["reason"] for row in planned)),
        "plan_ms": describe([row["spans_ms"]["plan"] for row in planned]),
        "gap": exploitation_gap(steps),
        "rank_agreement": _median(row["agent"].get("rank_agreement") for row in planned),
        "regret": _median(row["agent"].get("regret") for row in planned),
        "prediction_error": {name: _median(error[name] for error in errors)
                             for name in ("latent", "agent_px", "block_px", "block_deg")},
    }


def exploitation_gap(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """What the ticks of plans cost as they came, less what was promised: the median over plans, because one frame that
    the judge cannot read costs as much as all others together.  None where no plan was given up."""
    kept = [row["agent"]["kept"] for row in steps if row["agent"] is not None and row["agent"].get("kept")]
    return _median(came - promised for promised, came in kept)


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
