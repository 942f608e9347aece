"""Error by horizon: how far imagination has drifted after h steps.

The same actions are played in the truth, in the world with the cache, and in the world without it.  One row per episode
and horizon holds every metric of every comparison, and everything below is a pure function of rows, so a resumed run
aggregates what it reads back from disk.  Easy to get wrong: a metric is None where it could not be measured (a quantity
that was not found, a latent that was not kept), so `n` may fall along a curve, as it does where episodes end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np
from torch import Tensor

from wcsim.metrics import images
from wcsim.metrics.stats import bootstrap
from wcsim.spec import StateSpec

Row = dict[str, Any]

COMPARISONS = {
    "cached_vs_truth": ("cached", "truth"),
    "uncached_vs_truth": ("uncached", "truth"),
    "cached_vs_uncached": ("cached", "uncached"),
}
"""Name to (which playing, reference)."""

FRAME_METRICS = ("psnr_db", "ssim", "latent")
"""Metrics that every task has; those of its quantities come on top (`StateSpec.metrics`)."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One playing of an episode's actions, the start frame left out.

    frames: `[T, H, W, 3]` uint8.  values: quantity name to `[T, size]`, NaN where not found.  latents: `[T, C, h, w]`,
    for the truth those of its encoded frames; None where they were not kept.
    """

    frames: np.ndarray
    values: dict[str, np.ndarray]
    latents: Tensor | None = None


def metrics_of(spec: StateSpec) -> tuple[str, ...]:
    """Names of all metrics of a task, in order."""
    return (*FRAME_METRICS, *spec.metrics)


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric against the horizon; all fields are `[H]`, float64 but for the counts.

    horizon: 1 .. H.  median, mean: over episodes.  low, high: bootstrap interval of the median.  n: episodes measured.
    NaN where n is 0, and for low and high where n is 1.
    """

    horizon: np.ndarray
    median: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def error_rows(
    spec: StateSpec, episode: int, *, truth: Trajectory, cached: Trajectory, uncached: Trajectory
) -> list[Row]:
    """One row per horizon: `{"episode", "horizon", "error": {comparison: {metric: number or None}}}`.

    Raises ValueError where the trajectories differ in length or shape.
    """
    played = {"truth": truth, "cached": cached, "uncached": uncached}
    errors = {name: _compare(spec, played[one], played[reference]) for name, (one, reference) in COMPARISONS.items()}
    return [
        {
            "episode": episode,
            "horizon": step + 1,
            "error": {
                comparison: {metric: _number(values[step]) for metric, values in by_metric.items()}
                for comparison, by_metric in errors.items()
            },
        }
        for step in range(len(truth.frames))
    ]


def _compare(spec: StateSpec, one: Trajectory, reference: Trajectory) -> dict[str, np.ndarray]:
    if any(len(value) != len(one.frames) for value in one.values.values()):
        raise ValueError(f"a trajectory needs values for each of its {len(one.frames)} frames")
    latent = np.full(len(one.frames), np.nan)
    if one.latents is not None and reference.latents is not None:
        latent = images.latent_distance(one.latents, reference.latents)
    return {
        "psnr_db": images.psnr_db(one.frames, reference.frames),
        "ssim": images.ssim(one.frames, reference.frames),
        "latent": latent,
        **spec.errors(one.values, reference.values),
    }


def _number(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def curve(
    rows: Iterable[Mapping[str, Any]], comparison: str, metric: str, *, confidence: float = 0.95, seed: int = 0
) -> Curve:
    """Aggregate one metric over episodes, per horizon up to the longest; no rows give empty arrays.

    Every horizon resamples from the same `seed`, so horizons with all episodes resample the same ones together.
    """
    columns = _columns(rows, comparison, metric)
    horizons = range(1, max(columns, default=0) + 1)
    points = [_point([value for value in columns.get(h, []) if value is not None], confidence, seed) for h in horizons]
    median, mean, low, high, n = np.array(points, dtype=np.float64).reshape(-1, 5).T
    return Curve(np.array(horizons, dtype=np.int64), median, mean, low, high, n.astype(np.int64))


def _point(values: list[float], confidence: float, seed: int) -> tuple[float, float, float, float, int]:
    if not values:
        return (np.nan, np.nan, np.nan, np.nan, 0)
    interval = bootstrap(np.array(values), generator=np.random.default_rng(seed), confidence=confidence)
    return (interval.value, float(np.mean(values)), interval.low, interval.high, interval.n)


def at_horizons(
    rows: Sequence[Mapping[str, Any]], horizons: Sequence[int] = (1, 4, 8, 16)
) -> dict[str, dict[str, dict[str, float | None]]]:
    """The `error` of `summary.json`: comparison, then horizon, then metric, to the median over episodes.

    None where no episode was measured, as beyond the longest.
    """
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    for comparison in COMPARISONS:
        result[comparison] = {str(horizon): {} for horizon in horizons}
        for metric in measured(rows):
            columns = _columns(rows, comparison, metric)
            for horizon in horizons:
                values = [value for value in columns.get(horizon, []) if value is not None]
                result[comparison][str(horizon)][metric] = float(np.median(values)) if values else None
    return result


def measured(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the metrics that rows hold, in order."""
    return next((tuple(by_metric) for row in rows for by_metric in row["error"].values()), FRAME_METRICS)


def valid_horizons(
    rows: Iterable[Mapping[str, Any]], comparison: str, *, metric: str, bound: float
) -> dict[int, int | None]:
    """Episode to its first horizon at which an error (`metric`, less is better) passes `bound`; None where none does.

    An error that could not be measured has passed: what cannot be found was not predicted.
    """
    result: dict[int, int | None] = {}
    for row in sorted(rows, key=lambda row: (row["episode"], row["horizon"])):
        value = _value(row, comparison, metric)
        passed = value is None or value > bound
        if result.setdefault(row["episode"], None) is None and passed:
            result[row["episode"]] = row["horizon"]
    return result


def median_valid_horizon(horizons: Mapping[int, int | None]) -> float | None:
    """Median of `valid_horizons`, an episode that never passes counting as beyond all; None where the median does."""
    values = [inf if horizon is None else float(horizon) for horizon in horizons.values()]
    # numpy's median would average two infinities, or one with a number, through a NaN.
    values.sort()
    middle = values[(len(values) - 1) // 2 : len(values) // 2 + 1]
    return _number(sum(middle) / len(middle)) if middle else None


def _columns(rows: Iterable[Mapping[str, Any]], comparison: str, metric: str) -> dict[int, list[float | None]]:
    columns: dict[int, list[float | None]] = {}
    for row in rows:
        columns.setdefault(row["horizon"], []).append(_value(row, comparison, metric))
    return columns


def _value(row: Mapping[str, Any], comparison: str, metric: str) -> float | None:
    if comparison not in COMPARISONS:
        raise ValueError(f"comparison '{comparison}' is unknown; known: {', '.join(COMPARISONS)}")
    known = row["error"][comparison]
    if metric not in known:
        raise ValueError(f"metric '{metric}' is unknown; known: {', '.join(known)}")
    value: float | None = known[metric]
    return value
