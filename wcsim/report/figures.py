"""The figures of a run, each a list of panels; a panel without numbers to show is left out.

Pure functions of the run's rows and arrays.  Easy to get wrong: spans nest, so a stack needs what each span took
beyond the spans inside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wcsim.metrics.horizon import COMPARISONS, curve
from wcsim.report.canvas import Panel, colour, count_axis, draw, label_ends, last_finite, plain_numbers
from wcsim.report.measures import Measure, measures
from wcsim.spec import StateSpec

Row = Mapping[str, Any]

COMPARISON_LOOKS = {
    "cached_vs_truth": ("cached", "cached vs truth", "-"),
    "uncached_vs_truth": ("uncached", "uncached vs truth", "-"),
    "cached_vs_uncached": ("between", "cached vs uncached", (0, (4, 1.5))),
}
"""Comparison to colour, label and line."""

PLACES = ("truth", "cached", "uncached")


def error_panels(steps: Sequence[Row], spec: StateSpec) -> list[Panel]:
    """Error against horizon, a panel per metric: medians over episodes with their bootstrap intervals."""
    return [panel for measure in measures(spec) for panel in _error_panel(steps, measure)]


def _error_panel(steps: Sequence[Row], measure: Measure) -> list[Panel]:
    curves = {comparison: curve(steps, comparison, measure.key) for comparison in COMPARISONS}
    curves = {comparison: points for comparison, points in curves.items() if points.n.any()}
    if not curves:
        return []

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        ends = []
        for comparison, points in curves.items():
            name, label, line = COMPARISON_LOOKS[comparison]
            axes.fill_between(points.horizon, points.low, points.high, color=colour(name), alpha=0.16, linewidth=0)
            axes.plot(points.horizon, points.median, color=colour(name), linestyle=line, marker="o")
            ends.append((last_finite(points.median) or 0.0, label, name))
        if not measure.rises:
            axes.set_ylim(bottom=0)
        count_axis(axes, "rollout steps imagined")
        label_ends(axes, ends)

    title = measure.title
    return [Panel(title, draw(f"error-{measure.key}", f"{title}, against rollout steps, for three comparisons", paint))]


def latency_panels(steps: Sequence[Row], deadline_ms: float | None) -> list[Panel]:
    """What every step of the run cost: the whole control step against the deadline, then the world's share by span."""
    if not steps:
        return []
    return [*_control_panel(steps, deadline_ms), *_world_panel(steps)]


def _span(steps: Sequence[Row], name: str) -> np.ndarray:
    return np.array([(row["spans_ms"] or {}).get(name) or 0.0 for row in steps])


def _control_panel(steps: Sequence[Row], deadline_ms: float | None) -> list[Panel]:
    step, plan = _span(steps, "step"), _span(steps, "plan")
    if not step.any():
        return []

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        layers = {"the world's step": ("step", np.maximum(step - plan, 0.0)), "planning": ("plan", plan)}
        _stack(axes, {label: layer for label, layer in layers.items() if layer[1].any()})
        if deadline_ms is not None:
            axes.axhline(deadline_ms, color=colour("alert"), linewidth=1.3, linestyle=(0, (5, 2)))
            axes.set_ylim(top=max(axes.get_ylim()[1], 1.15 * deadline_ms))
            label_ends(axes, [(deadline_ms, "deadline", "alert")])
        _run_axis(axes, steps)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2)

    description = "Milliseconds per control step, split into planning and the world's step, with the deadline"
    return [Panel("Control step, ms", draw("latency-control", description, paint))]


def world_layers(steps: Sequence[Row]) -> dict[str, tuple[str, np.ndarray]]:
    """Label to colour and milliseconds `[n]`, bottom first: what each span took beyond the spans inside it."""
    probe, deep = _span(steps, "probe"), _span(steps, "deep")
    encode, policy = _span(steps, "encode"), _span(steps, "policy")
    edges = sum((_span(steps, name) for name in ("embed", "head", "solver", "state_model")), np.zeros(len(steps)))
    known = probe + deep + encode + edges + policy
    layers = {
        "deep blocks": ("deep", deep),
        "probe": ("probe", probe),
        "around the blocks": ("embed", edges),
        "policy": ("policy", policy),
        "encode": ("encode", encode),
        "other": ("other", np.maximum(_span(steps, "imagine") - known, 0.0)),
        "decode": ("decode", _span(steps, "decode")),
        "estimate": ("estimate", _span(steps, "estimate")),
    }
    return {label: layer for label, layer in layers.items() if layer[1].any()}


def _world_panel(steps: Sequence[Row]) -> list[Panel]:
    paired = [row["imagine_ms"] or {} for row in steps]
    layers = world_layers(steps)
    if not layers:  # the policy acted in the truth, so only the imagining itself was timed
        cached = np.array([row.get("cached") or 0.0 for row in paired])
        layers = {"imagining": ("deep", cached)} if cached.any() else {}
    if not layers:
        return []
    uncached = np.array([row.get("uncached") or np.nan for row in paired])
    uncached = uncached + _span(steps, "decode") + _span(steps, "estimate")

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        _stack(axes, layers)
        edges = np.arange(len(steps) + 1)
        axes.step(edges, _extend(uncached), where="post", color=colour("uncached"), linewidth=1.1, label="uncached")
        _run_axis(axes, steps)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)

    description = "Milliseconds of the world's share of each step by span, with the uncached step as a line"
    return [Panel("The world's step, ms", draw("latency-world", description, paint))]


def _stack(axes: Axes, layers: Mapping[str, tuple[str, np.ndarray]]) -> None:
    tops = np.cumsum([values for _, values in layers.values()], axis=0)
    for (label, (name, values)), top in zip(layers.items(), tops, strict=True):
        axes.fill_between(
            np.arange(len(values) + 1), _extend(top - values), _extend(top), step="post", color=colour(name),
            linewidth=0, label=label,
        )


def _extend(values: np.ndarray) -> np.ndarray:
    return np.append(values, values[-1])


def _run_axis(axes: Axes, steps: Sequence[Row]) -> None:
    """Steps in the order they ran, with a tick where each episode begins."""
    starts = [i for i, row in enumerate(steps) if i == 0 or row["episode"] != steps[i - 1]["episode"]]
    every = -(-len(starts) // 10)
    axes.set_xticks(starts[::every], [str(steps[i]["episode"]) for i in starts[::every]])
    for start in starts[1:]:
        axes.axvline(start, color=colour("grid"), linewidth=0.8)
    axes.set_xlabel("steps in order, numbered by episode")
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    plain_numbers(axes)


def task_panels(steps: Sequence[Row], progress: str, error_bound: float | None) -> list[Panel]:
    """How the task went and how the planner fared: progress in each place, and what was predicted against what came."""
    return [*_progress_panel(steps, progress), *_prediction_panel(steps, error_bound)]


def _progress_panel(steps: Sequence[Row], progress: str) -> list[Panel]:
    grids = {place: _grid(steps, [row["progress"][place] for row in steps]) for place in PLACES}
    grids = {place: grid for place, grid in grids.items() if np.isfinite(grid).any()}
    if not grids:
        return []

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        ends = []
        for place, grid in grids.items():
            horizon = np.arange(1, grid.shape[1] + 1)
            median = _median(grid)
            axes.plot(horizon, 100.0 * grid.T, color=colour(place), linewidth=0.8, alpha=0.25)
            axes.plot(horizon, 100.0 * median, color=colour(place), linestyle="--" if place == "truth" else "-")
            ends.append((100.0 * (last_finite(median) or 0.0), place, place))
        axes.set_ylim(0, 100)
        count_axis(axes, "rollout step")
        label_ends(axes, ends)

    title = f"{progress.capitalize()}, %"
    description = f"{title} against rollout step, in the truth, the cached and the uncached world"
    return [Panel(title, draw("task-progress", description, paint))]


def _grid(steps: Sequence[Row], values: Sequence[float | None]) -> np.ndarray:
    """`[episodes, horizons]` float64 of one value per step, NaN where there is none."""
    episodes = list(dict.fromkeys(row["episode"] for row in steps))
    grid = np.full((len(episodes), max((row["horizon"] for row in steps), default=0)), np.nan)
    for row, value in zip(steps, values, strict=True):
        if value is not None:
            grid[episodes.index(row["episode"]), row["horizon"] - 1] = value
    return grid


def _median(grid: np.ndarray) -> np.ndarray:
    """Median `[H]` of the known values of each column; NaN where there are none."""
    known = [column[np.isfinite(column)] for column in grid.T]
    return np.array([np.median(values) if values.size else np.nan for values in known])


def _prediction_error(row: Row) -> float | None:
    error = (row["plan"] or {}).get("prediction_error") or {}
    value: float | None = error.get("latent")
    return value


def _prediction_panel(steps: Sequence[Row], error_bound: float | None) -> list[Panel]:
    grid = _grid(steps, [_prediction_error(row) for row in steps])
    if not np.isfinite(grid).any():
        return []
    first = steps[0]["episode"]
    reasons = {row["horizon"]: row["plan"].get("reason") for row in steps if row["episode"] == first and row["plan"]}

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        horizon = np.arange(1, grid.shape[1] + 1)
        axes.plot(horizon, grid[1:].T, color=colour("muted"), linewidth=0.8, alpha=0.35)
        axes.plot(horizon, grid[0], color=colour("cached"), marker="o")
        top = max(np.nanmax(grid), error_bound or 0.0)
        axes.set_ylim(-0.16 * top, 1.08 * top)
        if error_bound is not None:
            axes.axhline(error_bound, color=colour("alert"), linewidth=1.1, linestyle=(0, (5, 2)))
            label_ends(axes, [(error_bound, "bound", "alert")])
        for reason, (marker, name) in REASON_LOOKS.items():
            at = [h for h, given in reasons.items() if given == reason]
            axes.plot(at, [-0.085 * top] * len(at), linestyle="none", marker=marker, markersize=5.5, color=colour(name),
                      label=f"new plan: {reason}")
        axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 1.08 * top])
        count_axis(axes, "rollout step")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, borderaxespad=0.2, columnspacing=1.0)

    description = f"Relative latent error of one-step predictions in episode {first}, with the steps that replanned"
    return [Panel(f"Prediction error, relative, episode {first}", draw("task-prediction", description, paint))]


REASON_LOOKS = {"start": ("s", "truth"), "schedule": ("|", "truth"), "error": ("^", "alert")}
"""Why it planned to marker and colour."""
