"""Numbers and sentences as people read them.

Easy to get wrong: what was not measured is None, which is neither zero nor an error; it reads as an en dash.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, log10
from typing import Any

from wcsim.metrics.horizon import COMPARISONS
from wcsim.report.measures import Measure

NONE = "\u2013"


def number(value: float | None, decimals: int = 2) -> str:
    """Three significant digits, at most `decimals` behind the point, thousands separated."""
    if value is None:
        return NONE
    magnitude = floor(log10(abs(value))) if value else 0
    return f"{value:,.{min(max(2 - magnitude, 0), decimals)}f}"


def percent(value: float | None) -> str:
    """A share as a whole percentage; shares that are not all or nothing never read as 0% or 100%."""
    if value is None:
        return NONE
    if 0 < value < 0.005 or 0.995 <= value < 1:
        return f"{100 * value:.1f}%"
    return f"{100 * value:.0f}%"


def times(value: float | None) -> str:
    """A factor."""
    return NONE if value is None else f"{value:.2f}\u00d7"


def measured(value: float | None, unit: str) -> str:
    """A number with its unit."""
    return NONE if value is None else f"{number(value)} {unit}".rstrip()


def span_of(low: str, high: str) -> str:
    """A range of two formatted numbers; the first gives up a unit that the second repeats."""
    for unit in ("%", "\u00d7"):
        if low.endswith(unit) and high.endswith(unit):
            low = low.removesuffix(unit)
    return NONE if NONE in (low, high) else f"{low}\u2013{high}"


def plural(count: int | None, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return NONE if count is None else f"{count:,} {noun}{'' if count == 1 else 's'}"


REASONS = {"start": "at a start", "schedule": "on schedule", "error": "because a prediction had failed"}

ACTED_IN = {
    "world": ("the cached world", "the truth and the uncached world"),
    "truth": ("the simulator", "the cached and the uncached world"),
}
"""Where the policy acted to how to say it, and the other places."""

POLICIES = {"mpc": "A planner", "random": "A random policy", "recorded": "A policy that plays recorded actions"}


def what_ran(config: Mapping[str, Any], manifest: Mapping[str, Any], denoise_steps: int | None) -> str:
    """The run in plain words."""
    policy, task, fidelity = (config.get(key) or {} for key in ("policy", "task", "fidelity"))
    kind = policy.get("kind")
    actor = POLICIES.get(str(kind), f"The policy {kind}")
    where, others = ACTED_IN["truth" if config.get("acts_in") == "truth" else "world"]
    cache = fidelity.get("cache") or {}
    skips = cache.get("kind") if isinstance(cache, Mapping) else cache
    cached = "no cache" if skips == "none" else f"the cache policy {skips}"
    loop = f"{fidelity.get('steps') or denoise_steps or 'its default'} denoise steps per frame"
    return (
        f"{actor} acted in {where} on the task {task.get('name')} for {plural(config.get('episodes'), 'episode')} of "
        f"at most {plural(config.get('max_steps'), 'step')}, while {others} played the same "
        f"actions. The world {config.get('world')} took {loop} with {cached}, on {manifest.get('device')} with "
        f"{plural(manifest.get('torch_threads'), 'thread')}."
    )


def error_reading(summary: Mapping[str, Any], measure: Measure) -> str:
    """What the error curves come to, at the furthest horizon where the leading measure was taken."""
    error = summary["error"]
    horizons = [h for h, by in error["cached_vs_truth"].items() if by.get(measure.key) is not None]
    if not horizons:
        return f"The {measure.name} was not measured at any of the horizons in the table."
    at = max(horizons, key=int)
    cached, uncached, between = (measured(error[name][at][measure.key], measure.unit) for name in COMPARISONS)
    sentence = (
        f"After {plural(int(at), 'step')} the median {measure.name} against the truth is {cached} in the cached world "
        f"and {uncached} in the uncached one, and {between} between the two worlds."
        if measure.rises else
        f"After {plural(int(at), 'step')} the median {measure.name} is {cached} from the truth in the cached world and "
        f"{uncached} in the uncached one, and the two worlds are {between} apart."
    )
    return sentence + _first_loss(summary.get("valid_horizon") or {})


def _first_loss(valid: Mapping[str, float | None]) -> str:
    """When each world first lost what counts; nothing where nothing can be lost."""
    if not valid:
        return ""
    passed = [
        f"{name} at step {step:g}" if (step := valid.get(f"{name}_vs_truth")) is not None
        else f"{name} not within the run"
        for name in ("cached", "uncached")
    ]
    return f" First loss (error past its bound, or not found), median: {', '.join(passed)}."


def latency_reading(summary: Mapping[str, Any]) -> str:
    """What the steps cost."""
    latency = summary.get("latency_ms") or {}
    if latency.get("p50") is None:
        return "No steps were timed beyond the first of each episode, which carry warm-up."
    return (
        f"The median control step took {measured(latency['p50'], 'ms')}, one in twenty more than "
        f"{measured(latency['p95'], 'ms')}; {percent(summary.get('deadline_attainment'))} of steps met the deadline of "
        f"{measured(summary.get('deadline_ms'), 'ms')}. The world moved at {times(summary.get('real_time_factor'))} "
        "real time."
    )


def cache_reading(summary: Mapping[str, Any]) -> str:
    """What the cache saved."""
    sentence = (
        f"{percent(summary.get('hit_rate'))} of denoise steps skipped the deep blocks, which left out "
        f"{percent(summary.get('skipped'))} of all blocks"
    )
    if summary.get("speedup") is None:
        return f"{sentence}."
    return f"{sentence} and made imagining a frame {times(summary['speedup'])} as fast as without the cache."


def planning_reading(summary: Mapping[str, Any]) -> str:
    """How often it planned, and why."""
    planning = summary.get("planning")
    if not planning:
        return "Nothing was planned: a fixed policy acted."
    given = planning["reasons"]
    reasons = ", ".join(f"{given[reason]:,} {words}" for reason, words in REASONS.items() if given.get(reason))
    typical = (planning.get("plan_ms") or {}).get("p50")
    took = "" if typical is None else f" A plan took {measured(typical, 'ms')} (median)."
    return f"{plural(planning['plans'], 'plan')}: {reasons}; {plural(planning['calls'], 'candidate')} scored.{took}"
