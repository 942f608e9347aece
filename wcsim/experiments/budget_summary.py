"""From the rows of a budget sweep to `summary.json`, a table, and the setting to take for a deadline.

Easy to get wrong: a cell that overran its own deadline may still be the right answer to a longer one, and one that
never had time to plan is not an answer at all, however well its warm start did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wcsim.errors import RunError
from wcsim.metrics.latency import describe
from wcsim.metrics.stats import bootstrap, wilson

Row = Mapping[str, Any]

COLUMNS = ("episode", "effort", "planner", "deadline_ms", "mode", "delay", "start", "seed", "steps", "world_s",
           "success", "final_progress", "max_progress", "waited", "clipped", "plans", "calls", "rounds", "latent_error")


def summarise(
    rows: Sequence[Row], config: Mapping[str, Any], latency: Mapping[str, Any], order: Sequence[str]
) -> dict[str, Any]:
    """Every number that the report shows; cells in the `order` of the sweep."""
    ordered = sorted(rows, key=lambda row: row["episode"])
    cells = [_cell([row for row in ordered if row["cell"] == cell])
             for cell in order]
    return {
        "kind": "budget",
        "episodes": config["episodes"],
        "max_steps": config["max_steps"],
        "clock": config["clock"],
        "latency": dict(latency),
        "deadline": [cell for cell in cells if cell["delay"] is None and not cell["governed"]],
        "delay": [cell for cell in cells if cell["delay"] is not None],
        "governed": [cell for cell in cells if cell["governed"]],
    }


def _cell(rows: Sequence[Row]) -> dict[str, Any]:
    """One point of the sweep."""
    first = rows[0]
    success = wilson(sum(row["success"] for row in rows), len(rows))
    names = ("effort", "planner", "deadline_ms", "mode", "delay", "governed")
    cell: dict[str, Any] = {name: first[name] for name in names}
    cell |= {"episodes": len(rows), "success_rate": success.value, "success_interval": [success.low, success.high]}
    for name in ("final_progress", "max_progress"):
        mean = bootstrap(np.array([row[name] for row in rows]), generator=np.random.default_rng(0), statistic=np.mean)
        cell |= {name: mean.value, f"{name}_interval": [mean.low, mean.high]}
    plans = [ms for row in rows for ms in row["plan_ms"]]
    errors = [row["latent_error"] for row in rows if row["latent_error"] is not None]
    return {
        **cell,
        "plan_ms": describe(plans),
        "level": float(np.mean([level for row in rows for level in row["levels"]])),
        "attainment": float(np.mean(np.array(plans) <= first["deadline_ms"])),
        # Seconds of the world per second of planning: 1 or more keeps up with it.
        "real_time_factor": 1e3 * sum(row["world_s"] for row in rows) / sum(plans) if sum(plans) else None,
        "calls_per_plan": sum(row["calls"] for row in rows) / len(plans),
        "rounds_per_plan": sum(row["rounds"] for row in rows) / len(plans),
        "waited": sum(row["waited"] for row in rows) / sum(row["steps"] for row in rows),
        "latent_error": float(np.mean(errors)) if errors else None,
    }


def recommend(summary: Mapping[str, Any], deadline_ms: float) -> dict[str, Any]:
    """The cell to take for a deadline: of those whose plans meet it at p95 and that did plan, the best.

    Raises RunError where none does, and says what the quickest took.
    """
    planned = [cell for cell in summary["deadline"] if cell["rounds_per_plan"] > 0]
    fitting = [cell for cell in planned if cell["plan_ms"]["p95"] <= deadline_ms]
    if not fitting:
        quickest = min((cell["plan_ms"]["p95"] for cell in planned), default=float("nan"))
        raise RunError(f"no setting of this sweep plans within {deadline_ms:g} ms; the quickest takes "
                       f"{quickest:.0f} ms at p95")
    # Equal progress: take the one that leaves more time; equal time: the one that kept to its own deadline.
    return max(fitting, key=lambda cell: (cell["final_progress"], -cell["plan_ms"]["p95"], cell["attainment"]))


def as_run(cell: Mapping[str, Any], config: Mapping[str, Any], deadline_ms: float) -> dict[str, Any]:
    """The configuration for `wcsim run` that plans as a cell did."""
    effort = _given(config["efforts"][cell["effort"]])
    fidelity = effort.pop("fidelity", None)
    policy = {"kind": "mpc", **_given(config["planning"]), **effort, "planner": cell["planner"],
             "deadline_ms": cell["deadline_ms"], "fidelity": None if fidelity is None else _given(fidelity),
             "objective": config["objective"]}
    return {
        "name": f"{config['name']}_{deadline_ms:g}ms", "world": config["world"], "task": config["task"],
        "episodes": config["episodes"], "first_seed": config["first_seed"], "max_steps": config["max_steps"],
        "acts_in": "truth", "deadline_ms": deadline_ms, "policy": policy,
        "device": config["device"], "threads": config["threads"],
    }


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
