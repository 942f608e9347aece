"""Intervals around what was measured: scipy's, as one small dataclass, with this project's checks in front.

Random resampling takes its generator as an argument, so the same seed gives the same interval.  Easy to get wrong: the
values of a sample must be independent; steps of one episode are not, so resample episodes where there are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

DRAWS_PER_BLOCK = 2**20
"""Resampled values held in memory together."""


@dataclass(frozen=True, slots=True)
class Interval:
    """value: the estimate.  low, high: the interval around it, NaN where one value gives none.  n: sample size."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(
    values: np.ndarray,
    *,
    generator: np.random.Generator,
    statistic: Callable[..., Any] = np.median,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """`scipy.stats.bootstrap` by percentiles of `statistic(sample, axis=-1)` over finite `values` `[n]`, n >= 1.

    A single value has no spread to resample: its low and high are NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"bootstrap needs one or more finite values [n], got {_describe(values)}")
    _check_confidence(confidence)
    n = values.size
    estimate = float(statistic(values, axis=-1))
    if n == 1:
        return Interval(estimate, float("nan"), float("nan"), 1)
    made = scipy.stats.bootstrap(
        (values,), statistic, n_resamples=resamples, confidence_level=confidence, method="percentile",
        vectorized=True, batch=max(1, DRAWS_PER_BLOCK // n), rng=generator,
    ).confidence_interval
    return Interval(estimate, float(made.low), float(made.high), n)


def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """A success rate with its score interval (Wilson 1927), both within [0, 1]; ValueError for impossible counts."""
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"a success rate needs 0 <= successes <= trials and a trial, got {successes} of {trials}")
    _check_confidence(confidence)
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(successes / trials, float(interval.low), float(interval.high), trials)


def paired_speedup(
    baseline_ms: np.ndarray, candidate_ms: np.ndarray, *, generator: np.random.Generator, confidence: float = 0.95
) -> Interval:
    """Median of `baseline_ms / candidate_ms` over pairs `[n]` of the same work; above 1 the candidate is faster.

    The interval resamples pairs, so what slows both of a pair (a hard step, a busy machine) cancels.
    """
    baseline, candidate = np.asarray(baseline_ms, dtype=np.float64), np.asarray(candidate_ms, dtype=np.float64)
    if baseline.shape != candidate.shape:
        raise ValueError(f"speed-up needs paired times, got {list(baseline.shape)} and {list(candidate.shape)}")
    for name, times in (("baseline_ms", baseline), ("candidate_ms", candidate)):
        if times.ndim != 1 or times.size == 0 or not (np.isfinite(times) & (times > 0)).all():
            raise ValueError(f"{name} must be one or more finite positive times [n], got {_describe(times)}")
    return bootstrap(baseline / candidate, generator=generator, confidence=confidence)


def _describe(values: np.ndarray) -> str:
    wrong = values[~np.isfinite(values)] if values.size else values
    return f"shape {list(values.shape)}" + (f" with {wrong.flat[0]}" if wrong.size else "")


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
