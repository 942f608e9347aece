"""From the rows of a goal run to `summary.json` and a table: pure functions, whatever order the rows came in.

Easy to get wrong: policies share their starts, so differences and ratios are of pairs; `timing` alone holds what a
clock said and may differ between two runs of one configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wcsim.metrics.correlation import mcnemar
from wcsim.metrics.latency import describe
from wcsim.metrics.stats import bootstrap, paired_speedup, wilson

Row = Mapping[str, Any]

COLUMNS = ("episode", "place", "policy", "start", "seed", "steps", "reached", "scene_reached", "plans", "calls",
           "clipped")
RANKS = ("tau", "regret", "true_tau", "true_regret")


def summarise(rows: Sequence[Row], config: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """Every number that the report shows.  metrics: names of the errors of the task's quantities."""
    played = [row for row in sorted(rows, key=lambda row: row["start"]) if row["policy"] is not None]
    audits = [row for row in sorted(rows, key=lambda row: row["start"]) if row["policy"] is None]
    policies = {policy["name"]: policy["kind"] for policy in config["policies"]}
    by = {(place, policy): [row for row in played if (row["place"], row["policy"]) == (place, policy)]
          for place in config["places"] for policy in policies}
    reference = config["reference"]
    return {
        "kind": "goals",
        "episodes": config["episodes"],
        "goal_ticks": config["goal_ticks"],
        "max_steps": config["max_steps"],
        "metrics": list(metrics),
        "reference": reference,
        "places": [{"name": place, "policies": [
            {"name": policy, "kind": kind, **_policy(by[place, policy], metrics),
             "against": None if policy == reference else _against(by[place, reference], by[place, policy])}
            for policy, kind in policies.items()]} for place in config["places"]],
        "audit": _audit(audits),
        "timing": {
            "places": [{"name": place, "policies": [{"name": policy, **_timing(by[place, reference], by[place, policy])}
                                                for policy, kind in policies.items()]} for place in config["places"]],
            "candidate_ms": {name: float(np.median([row["ms"][name] for row in audits])) for name in _scorings(audits)},
        },
    }


def _policy(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, Any]:
    """One policy in one place."""
    summary: dict[str, Any] = {}
    for name, key in (("success", "reached"), ("scene_success", "scene_reached")):
        rate = wilson(sum(row[key] for row in rows), len(rows))
        summary |= {f"{name}_rate": rate.value, f"{name}_interval": [rate.low, rate.high]}
    for name in (*metrics, "steps", "clipped"):
        summary |= _mean(name, [row[name] for row in rows if row.get(name) is not None])
    steps, plans = sum(row["steps"] for row in rows), sum(row["plans"] for row in rows)
    summary |= {"plans": plans, "calls_per_action": sum(row["calls"] for row in rows) / steps}
    gaps = [float(np.mean(np.subtract(row["came"], row["promised"]))) for row in rows if row["promised"]]
    summary |= _mean("promised", [float(np.mean(row["promised"])) for row in rows if row["promised"]])
    summary |= _mean("came", [float(np.mean(row["came"])) for row in rows if row["came"]])
    summary |= _mean("gap", gaps)
    for name in ("rank_agreement", "regret", "prediction"):
        summary |= _mean(name, [float(np.mean(row[name])) for row in rows if row[name]])
    return summary


def _mean(name: str, values: Sequence[float]) -> dict[str, Any]:
    """A mean over episodes and its interval; None for none."""
    if not values:
        return {name: None, f"{name}_interval": [None, None]}
    interval = bootstrap(np.asarray(values), generator=np.random.default_rng(0), statistic=np.mean)
    return {name: interval.value, f"{name}_interval": [interval.low, interval.high]}


def _against(reference: Sequence[Row], rows: Sequence[Row]) -> dict[str, Any]:
    """Paired with the reference policy: which reached what the other did not."""
    flips = mcnemar(*(np.array([row["reached"] for row in some]) for some in (reference, rows)))
    return {"only_reference": flips.only_first, "only_this": flips.only_second, "mcnemar_p": flips.p}


def _audit(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Every scoring over all audited starts."""
    if not rows:
        return None
    scorings = [{"name": name, **{key: part for measure in RANKS for key, part in _mean(
        measure, [row["scorings"][name][measure] for row in rows]).items()}} for name in _scorings(rows)]
    return {"starts": len(rows), "spread": float(np.mean([row["spread"] for row in rows])), "scorings": scorings}


def _scorings(rows: Sequence[Row]) -> list[str]:
    return list(rows[0]["scorings"]) if rows else []


def _timing(reference: Sequence[Row], rows: Sequence[Row]) -> dict[str, Any]:
    """Seconds per action, with a new plan or without, and, of planners, how many times fewer than the reference's,
    start by start."""
    spent = [ms for row in rows for ms in row["act_ms"]]
    cost = {"seconds_per_action": sum(spent) / len(spent) / 1e3, "act_ms": describe(spent)}
    if not any(row["plans"] for row in rows):
        return cost | {"faster": None, "faster_interval": [None, None]}
    means, those = (np.array([np.mean(row["act_ms"]) for row in some]) for some in (rows, reference))
    faster = paired_speedup(those, means, generator=np.random.default_rng(0))
    return cost | {"faster": faster.value, "faster_interval": [faster.low, faster.high]}
