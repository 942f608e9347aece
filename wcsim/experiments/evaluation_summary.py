"""From the rows of an evaluation to `summary.json` and a table: pure functions, whatever order the rows came in.

Easy to get wrong: every interval resamples starts and not rows, since all policies and worlds share their starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wcsim.track.correlation import STATISTICS, Change, compare, mcnemar
from wcsim.track.stats import Interval, bootstrap, wilson

Row = Mapping[str, Any]

WORLDS = ("truth", "uncached", "cached")
SCORES = ("success", "final_coverage", "max_coverage", "return")
COLUMNS = ("episode", "policy", "world", "start", "seed", "steps", *SCORES, "judged_success", "judged_coverage",
           "hit_rate", "skipped")


def summarise(rows: Sequence[Row], config: Mapping[str, Any]) -> dict[str, Any]:
    """Every number that the report shows.  Only `timing` may differ between two runs of one configuration."""
    names = [policy["name"] for policy in config["policies"]]
    tables = {score: tabulate(rows, names, config["starts"], score) for score in SCORES}
    agreement = {score: agreements(table) for score, table in tables.items()}
    return {
        "kind": "evaluation",
        "starts": config["starts"],
        "max_steps": config["max_steps"],
        "score": config["score"],
        **agreement[config["score"]],
        "agreement": agreement,
        "policies": [_policy(policy, tables, k) for k, policy in enumerate(config["policies"])],
        "caching": _caching(tables),
        "judge": _judge(rows),
        "cache": {name: _mean(row[name] for row in rows if row["world"] == "cached")
                  for name in ("hit_rate", "skipped")},
        "timing": {world: _seconds(rows, world) for world in WORLDS},
    }


def tabulate(rows: Sequence[Row], names: Sequence[str], starts: int, score: str) -> dict[str, np.ndarray]:
    """World to scores `[K, M]`.  KeyError where an episode is missing."""
    found = {(row["world"], row["policy"], row["start"]): float(row[score]) for row in rows}
    return {world: np.array([[found[world, name, start] for start in range(starts)] for name in names])
            for world in WORLDS}


def agreements(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Statistic to its value in either world, their difference, and the intervals of all three."""
    return {
        name: _change(compare(statistic, *(table[world] for world in WORLDS), generator=np.random.default_rng(0)))
        for name, statistic in STATISTICS.items()
    }


def _change(told: Change) -> dict[str, Any]:
    named = {"uncached": told.first, "cached": told.second, "change": told.change}
    return {**{name: interval.value for name, interval in named.items()},
            **{f"{name}_interval": [interval.low, interval.high] for name, interval in named.items()}}


def _policy(policy: Mapping[str, Any], tables: Mapping[str, Mapping[str, np.ndarray]], k: int) -> dict[str, Any]:
    """One policy in every world, and what caching changed for it."""
    by_world = {}
    for world in WORLDS:
        success = tables["success"][world][k]
        rate = wilson(int(success.sum()), len(success))
        by_world[world] = {"success_rate": rate.value, "success_interval": [rate.low, rate.high]}
        for score in SCORES[1:]:
            told = _mean_of(tables[score][world][k])
            by_world[world] |= {score: told.value, f"{score}_interval": [told.low, told.high]}
    flips = mcnemar(tables["success"]["uncached"][k].astype(bool), tables["success"]["cached"][k].astype(bool))
    moved = _mean_of(tables["final_coverage"]["cached"][k] - tables["final_coverage"]["uncached"][k])
    return {
        "name": policy["name"], "kind": policy["kind"], **by_world,
        "caching": {"only_uncached": flips.only_first, "only_cached": flips.only_second, "mcnemar_p": flips.p,
                    "final_coverage": moved.value, "final_coverage_interval": [moved.low, moved.high]},
    }


def _caching(tables: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """What caching changed over all policies, episode by episode."""
    success = {world: table.astype(bool).ravel() for world, table in tables["success"].items()}
    flips = mcnemar(success["uncached"], success["cached"])
    change = tables["final_coverage"]["cached"] - tables["final_coverage"]["uncached"]
    error = {world: float(np.abs(tables["final_coverage"][world] - tables["final_coverage"]["truth"]).mean())
             for world in WORLDS[1:]}
    moved = _mean_of(change.mean(axis=0))
    return {
        "only_uncached": flips.only_first, "only_cached": flips.only_second, "mcnemar_p": flips.p,
        "final_coverage": moved.value, "final_coverage_interval": [moved.low, moved.high],
        "final_coverage_apart": float(np.abs(change).mean()), "final_coverage_error": error,
    }


def _judge(rows: Sequence[Row]) -> dict[str, Any]:
    """How the judge, who sees pixels, reads the truth's last frames."""
    truth = [row for row in rows if row["world"] == "truth"]
    off = np.array([row["judged_coverage"] - row["final_coverage"] for row in truth])
    return {
        "episodes": len(truth),
        "coverage_bias": float(off.mean()),
        "coverage_error": {name: float(np.percentile(np.abs(off), q)) for name, q in (("p50", 50), ("p95", 95))},
        "success_agreement": _mean(row["judged_success"] == row["success"] for row in truth),
    }


def _seconds(rows: Sequence[Row], world: str) -> dict[str, float]:
    """seconds_per_step: of an episode's share of its batch, per step of its own."""
    chosen = [row for row in rows if row["world"] == world]
    spent, steps = sum(row["seconds"] for row in chosen), sum(row["steps"] for row in chosen)
    return {"seconds": spent, "steps": steps, "seconds_per_step": spent / steps}


def _mean_of(values: np.ndarray) -> Interval:
    return bootstrap(values, generator=np.random.default_rng(0), statistic=np.mean)


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
