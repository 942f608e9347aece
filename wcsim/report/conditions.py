"""Under which conditions a run's numbers hold, said near the top of every page: what the world was trained on, and how
many actions were clipped.

Easy to get wrong: actions are counted per policy, because one policy that always asks for too much hides in a total.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wcsim.runs.run import Run

Row = Mapping[str, Any]


def conditions(run: Run) -> str:
    """Two sentences for the page of a run, and one more where a guardrail watched it."""
    return f"{labels_of(run.manifest)} {clipped_of(run.episodes, run.config)}{guarded_of(run)}"


def guarded_of(run: Run) -> str:
    """Which guardrail watched the frames of a run, and what it did; empty where there was none."""
    name, told = run.manifest.get("guardrail"), [row["guardrail"] for row in run.episodes if row.get("guardrail")]
    if name is None:
        return ""
    if not told:
        return (f" The guardrail {name} was on. No imagined frame was shown; what it did to those that a planner "
                "decoded was not counted.")
    frames, changed = (sum(row[part] for row in told) for part in ("frames", "changed"))
    share = sum(row["pixels"] * row["frames"] for row in told) / frames if frames else 0.0
    return (f" The guardrail {name} saw {frames:,} imagined frames and changed {changed:,} of them, {share:.1%} of all "
            "their pixels.")


def labels_of(source: Mapping[str, Any]) -> str:
    """What the world was trained on; source: a manifest, or a summary that says so."""
    labels = source.get("labels")
    if labels is None:
        return "Which labels the world was trained on was not recorded."
    if labels == "none":
        return "The world was trained on frames and actions alone (labels: none)."
    return f"The world was trained with labels (labels: {labels})."


def clipped_of(episodes: Iterable[Row], config: Mapping[str, Any]) -> str:
    """How many of each policy's actions were out of bounds and clipped."""
    counts: dict[str, tuple[int, int]] = {}
    for row in episodes:
        if row.get("clipped") is not None:
            clipped, steps = counts.get(policy := policy_of(row, config), (0, 0))
            counts[policy] = clipped + row["clipped"], steps + row["steps"]
    if not counts:
        return "Clipped actions were not counted."
    some = {policy: count for policy, count in counts.items() if count[0]}
    if not some:
        return f"No action was clipped to the bounds, of {sum(steps for _, steps in counts.values()):,}."
    named = ", ".join(f"{clipped:,} of {steps:,} by {policy}" for policy, (clipped, steps) in some.items())
    return f"Actions clipped to the bounds: {named}{'' if len(some) == len(counts) else ', none by the others'}."


def policy_of(row: Row, config: Mapping[str, Any]) -> str:
    """The policy that acted in an episode: the row's own policy, the planner of a sweep's cell, or the one policy of
    the run."""
    if "planner" in row:
        return f"{row['planner']} on {row['effort']}"
    policy = found if isinstance(found := config.get("policy"), Mapping) else {}
    return str(row.get("policy") or policy.get("name") or policy.get("kind") or "the policy")
