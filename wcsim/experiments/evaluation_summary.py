"""From the rows of an evaluation to `summary.json` and a table: pure functions, whatever order the rows came in.

Easy to get wrong: every interval resamples starts and not rows, since all policies and places share their starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wcsim.metrics.correlation import STATISTICS, Change, compare, mcnemar
from wcsim.metrics.stats import Interval, bootstrap, wilson

Row = Mapping[str, Any]

PLACES = ("truth", "uncached", "cached")
SCORES = ("success", "final_progress", "max_progress", "return")
COLUMNS = ("episode", "policy", "place", "start", "seed", "steps", *SCORES, "estimated_success", "estimated_progress",
           "hit_rate", "skipped")


def summarise(rows: Sequence[Row], config: Mapping[str, Any]) -> dict[str, Any]:
    """Every number that the report shows.  Only `timing` may differ between two runs of one configuration."""
    names = [policy["name"] for policy in config["policies"]]
    places = [place for place in PLACES if place in config.get("places", PLACES)]
    tables = {score: tabulate(rows, names, config["starts"], score, places) for score in SCORES}
    agreement = {score: agreements(table) for score, table in tables.items()} if "truth" in places else None
    return {
        "kind": "evaluation",
        "starts": config["starts"],
        "max_steps": config["max_steps"],
        "score": config["score"],
        "places": places,
        **(agreement[config["score"]] if agreement else {}),
        "agreement": agreement,
        "policies": [{**_policy(policy, tables, k), "clipped": _clipped(rows, policy["name"])}
                     for k, policy in enumerate(config["policies"])],
        "caching": _caching(tables),
        "estimator": _estimator(rows) if "truth" in places else None,
        "cache": {name: _mean(row[name] for row in rows if row["place"] == "cached")
                  for name in ("hit_rate", "skipped")},
        "timing": {place: _seconds(rows, place) for place in places},
    }


def tabulate(rows: Sequence[Row], names: Sequence[str], starts: int, score: str, places: Sequence[str] = PLACES
             ) -> dict[str, np.ndarray]:
    """Place to scores `[K, M]`.  KeyError where an episode is missing."""
    found = {(row["place"], row["policy"], row["start"]): float(row[score]) for row in rows}
    return {place: np.array([[found[place, name, start] for start in range(starts)] for name in names])
            for place in places}


def agreements(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Statistic to its value in either world, their difference, and the intervals of all three."""
    return {
        name: _change(compare(statistic, *(table[place] for place in PLACES), generator=np.random.default_rng(0)))
        for name, statistic in STATISTICS.items()
    }


def _change(change: Change) -> dict[str, Any]:
    named = {"uncached": change.first, "cached": change.second, "change": change.change}
    return {**{name: interval.value for name, interval in named.items()},
            **{f"{name}_interval": [interval.low, interval.high] for name, interval in named.items()}}


def _policy(policy: Mapping[str, Any], tables: Mapping[str, Mapping[str, np.ndarray]], k: int) -> dict[str, Any]:
    """One policy in every place, and what caching changed for it."""
    by_place = {}
    for place in tables["success"]:
        success = tables["success"][place][k]
        rate = wilson(int(success.sum()), len(success))
        by_place[place] = {"success_rate": rate.value, "success_interval": [rate.low, rate.high]}
        for score in SCORES[1:]:
            mean = _mean_of(tables[score][place][k])
            by_place[place] |= {score: mean.value, f"{score}_interval": [mean.low, mean.high]}
    flips = mcnemar(tables["success"]["uncached"][k].astype(bool), tables["success"]["cached"][k].astype(bool))
    moved = _mean_of(tables["final_progress"]["cached"][k] - tables["final_progress"]["uncached"][k])
    return {
        "name": policy["name"], "kind": policy["kind"], **by_place,
        "caching": {"only_uncached": flips.only_first, "only_cached": flips.only_second, "mcnemar_p": flips.p,
                    "final_progress": moved.value, "final_progress_interval": [moved.low, moved.high]},
    }


def _clipped(rows: Sequence[Row], policy: str) -> float:
    """Share of a policy's actions that were out of bounds."""
    own = [row for row in rows if row["policy"] == policy]
    return float(sum(row["clipped"] for row in own) / sum(row["steps"] for row in own))


def _caching(tables: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """What caching changed over all policies, episode by episode."""
    success = {place: table.astype(bool).ravel() for place, table in tables["success"].items()}
    flips = mcnemar(success["uncached"], success["cached"])
    change = tables["final_progress"]["cached"] - tables["final_progress"]["uncached"]
    truth = tables["final_progress"].get("truth")
    error = None if truth is None else {
        place: float(np.abs(tables["final_progress"][place] - truth).mean()) for place in PLACES[1:]}
    moved = _mean_of(change.mean(axis=0))
    return {
        "only_uncached": flips.only_first, "only_cached": flips.only_second, "mcnemar_p": flips.p,
        "final_progress": moved.value, "final_progress_interval": [moved.low, moved.high],
        "final_progress_apart": float(np.abs(change).mean()), "final_progress_error": error,
    }


def _estimator(rows: Sequence[Row]) -> dict[str, Any]:
    """How the estimator, which sees pixels, reads the truth's last frames."""
    truth = [row for row in rows if row["place"] == "truth"]
    off = np.array([row["estimated_progress"] - row["final_progress"] for row in truth])
    return {
        "episodes": len(truth),
        "progress_bias": float(off.mean()),
        "progress_error": {name: float(np.percentile(np.abs(off), q)) for name, q in (("p50", 50), ("p95", 95))},
        "success_agreement": _mean(row["estimated_success"] == row["success"] for row in truth),
    }


def _seconds(rows: Sequence[Row], place: str) -> dict[str, float]:
    """seconds_per_step: of an episode's share of its batch, per step of its own."""
    chosen = [row for row in rows if row["place"] == place]
    spent, steps = sum(row["seconds"] for row in chosen), sum(row["steps"] for row in chosen)
    return {"seconds": spent, "steps": steps, "seconds_per_step": spent / steps}


def _mean_of(values: np.ndarray) -> Interval:
    return bootstrap(values, generator=np.random.default_rng(0), statistic=np.mean)


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
