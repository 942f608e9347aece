"""Does a simulator rank policies as the truth does, and does caching change that?

Scores lie in tables `[K, M]`: K policies, each from the same M starts.  Easy to get wrong: policies that share their
starts share their luck, so intervals resample starts, for all policies and both worlds at once; resampling every
policy on its own would call the same agreement less certain than it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats

from wcsim.metrics.stats import Interval

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""True and simulated scores `[..., K]` to a number `[...]`, NaN where it is not defined."""


FLAT = 1e-12
"""Scores that spread less than this are constant: means of equal scores leave rounding behind."""


def pearson(real: np.ndarray, simulated: np.ndarray) -> np.ndarray:
    """`scipy.stats.pearsonr` over the last axis, without its warnings; NaN where either side is constant."""
    x, y = np.broadcast_arrays(*_pair(real, simulated))
    varied = (np.ptp(x, axis=-1) >= FLAT) & (np.ptp(y, axis=-1) >= FLAT)
    found = np.full(varied.shape, np.nan)
    if varied.any():
        found[varied] = scipy.stats.pearsonr(x[varied], y[varied], axis=-1).statistic
    return found


def spearman(real: np.ndarray, simulated: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation over the last axis, ties sharing their mean rank; NaN where either is constant.

    `scipy.stats.spearmanr` takes no stacks, so these are scipy's ranks, correlated.
    """
    return pearson(*(scipy.stats.rankdata(scores, axis=-1) for scores in _pair(real, simulated)))


def mmrv(real: np.ndarray, simulated: np.ndarray) -> np.ndarray:
    """Mean maximum rank violation over the last axis (SIMPLER, arXiv 2405.05941): 0 is best, in the unit of a score.

    For each policy the largest true gap to one that the simulator ranks on the wrong side of it; then their mean.
    """
    real, simulated = _pair(real, simulated)
    gap, claimed = (scores[..., :, None] - scores[..., None, :] for scores in (real, simulated))
    violation = np.where((gap > 0) != (claimed > 0), np.abs(gap), 0.0)
    return np.asarray(violation.max(axis=-1).mean(axis=-1))


def kendall(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau-a of two lists of costs `[n]`: 1 the same order, -1 the reverse; NaN for fewer than 2.

    Not `scipy.stats.kendalltau`, which has tau-b and tau-c: they are NaN where all candidates of one list tie, and here
    ties must count as no agreement, so that means over plans are defined.
    """
    one, other = (np.sign(np.asarray(costs)[:, None] - np.asarray(costs)[None]) for costs in (first, second))
    return float((one * other).sum() / (len(one) * (len(one) - 1))) if len(one) > 1 else float("nan")


def top_regret(trusted: np.ndarray, true: np.ndarray) -> float:
    """What it costs to take the candidate that `trusted` `[n]` likes best, over the best by `true` `[n]`."""
    return float(true[np.argmin(trusted)] - np.min(true))


STATISTICS: dict[str, Statistic] = {"pearson": pearson, "spearman": spearman, "mmrv": mmrv}


@dataclass(frozen=True, slots=True)
class Change:
    """What a statistic is under one simulator, under another, and the second less the first, on the same starts."""

    first: Interval
    second: Interval
    change: Interval


def compare(
    statistic: Statistic, real: np.ndarray, first: np.ndarray, second: np.ndarray, *, generator: np.random.Generator,
    confidence: float = 0.95, resamples: int = 2000,
) -> Change:
    """`statistic` of mean scores, between the truth and each of two simulators; tables `[K, M]`, K >= 2, M >= 1.

    Percentile bootstrap over starts.  Resamples in which the statistic is not defined are left out; where fewer than
    half are left, or M is 1, the interval is NaN.  Raises ValueError for tables that do not match or are not finite.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in (real, first, second)]
    if tables[0].ndim != 2 or tables[0].shape[0] < 2 or len({table.shape for table in tables}) != 1:
        raise ValueError(f"tables must all be [K >= 2, M], got {[list(table.shape) for table in tables]}")
    if not all(np.isfinite(table).all() for table in tables):
        raise ValueError("tables hold a score that is not finite")
    starts = tables[0].shape[1]
    weights = np.stack([np.bincount(row, minlength=starts) for row in generator.integers(0, starts,
                                                                                         (resamples, starts))]) / starts
    drawn = [weights @ table.T for table in tables]
    real_mean, *means = (table.mean(axis=1) for table in tables)
    values = [float(statistic(real_mean, mean)) for mean in means]
    samples = [statistic(drawn[0], simulated) for simulated in drawn[1:]]
    return Change(*(
        _interval(value, sample, starts, confidence)
        for value, sample in ((values[0], samples[0]), (values[1], samples[1]),
                              (values[1] - values[0], samples[1] - samples[0]))
    ))


@dataclass(frozen=True, slots=True)
class McNemar:
    """Paired outcomes that differ.  only_first, only_second: successes of one side alone.  p: two-sided, exact."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test of paired successes `[n]` bool: is one side's success rate another's?  p is 1 for no pair
    that differs."""
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"paired outcomes must both be [n], got {list(first.shape)} and {list(second.shape)}")
    ahead, behind = int((first & ~second).sum()), int((second & ~first).sum())
    differ = ahead + behind
    return McNemar(ahead, behind, float(scipy.stats.binomtest(ahead, differ).pvalue) if differ else 1.0)


def _pair(real: np.ndarray, simulated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    real, simulated = np.asarray(real, dtype=np.float64), np.asarray(simulated, dtype=np.float64)
    if real.shape != simulated.shape or real.ndim == 0 or real.shape[-1] < 2:
        raise ValueError(f"scores must both be [..., K >= 2], got {list(real.shape)} and {list(simulated.shape)}")
    return real, simulated


def _interval(value: float, sample: np.ndarray, starts: int, confidence: float) -> Interval:
    defined = sample[np.isfinite(sample)]
    if starts < 2 or 2 * defined.size < sample.size:
        return Interval(value, float("nan"), float("nan"), starts)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high), starts)
