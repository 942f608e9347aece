"""Intervals by closed forms, and what is refused."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wcsim.metrics import stats


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_bootstrap_repeats_for_a_seed_and_differs_for_another() -> None:
    values = rng(7).normal(size=30)
    first, again, other = (stats.bootstrap(values, generator=rng(seed)) for seed in (0, 0, 1))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.low < first.value < first.high
    assert first.n == 30


def test_bootstrap_of_two_values_has_known_quantiles() -> None:
    # The mean of two draws from {0, 1} is 0, 0.5, 1 with weights 1/4, 1/2, 1/4.
    wide = stats.bootstrap(np.array([0.0, 1.0]), generator=rng(), statistic=np.mean)
    narrow = stats.bootstrap(np.array([0.0, 1.0]), generator=rng(), statistic=np.mean, confidence=0.3)
    assert (wide.low, wide.value, wide.high) == (0.0, 0.5, 1.0)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_bootstrap_takes_the_percentiles_of_the_rows_that_the_generator_draws() -> None:
    values = rng(3).exponential(size=40)
    means = values[rng(5).integers(0, 40, (999, 40))].mean(axis=1)
    told = stats.bootstrap(values, generator=rng(5), statistic=np.mean, resamples=999, confidence=0.9)
    assert (told.low, told.high) == pytest.approx(np.quantile(means, [0.05, 0.95]), abs=1e-12)


def test_equal_values_have_an_interval_without_width() -> None:
    told = stats.bootstrap(np.full(5, 2.5), generator=rng())
    assert (told.low, told.value, told.high) == (2.5, 2.5, 2.5)


def test_bootstrap_in_blocks_draws_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "DRAWS_PER_BLOCK", 50)
    drawn: list[int] = []

    def mean(sample: np.ndarray, axis: int) -> np.ndarray:
        drawn.append(1 if sample.ndim == 1 else len(sample))
        return np.asarray(sample.mean(axis))

    stats.bootstrap(np.arange(20.0), generator=rng(), statistic=mean, resamples=101)
    assert sum(drawn) == 1 + 101
    assert max(drawn) == 2


def test_one_value_has_no_interval() -> None:
    interval = stats.bootstrap(np.array([3.0]), generator=rng())
    assert (interval.value, interval.n) == (3.0, 1)
    assert np.isnan([interval.low, interval.high]).all()


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0], [2.0]]])
def test_bootstrap_refuses_what_it_cannot_resample(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite values"):
        stats.bootstrap(np.array(values), generator=rng())


def test_wilson_known_value() -> None:
    interval = stats.wilson(8, 10)
    assert interval.value == 0.8
    assert (interval.low, interval.high) == pytest.approx((0.490162, 0.943318), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(trials=st.integers(1, 200), data=st.data())
def test_wilson_ends_are_the_rates_that_a_score_test_just_accepts(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    told, z = stats.wilson(successes, trials, confidence=0.9), NormalDist().inv_cdf(0.95)
    for rate in (told.low, told.high):
        assert (told.value - rate) ** 2 == pytest.approx(z * z * rate * (1 - rate) / trials, abs=1e-12)
    assert 0.0 <= told.low <= told.value <= told.high <= 1.0


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        stats.wilson(successes, trials)


def test_a_speedup_is_a_median_of_pairs() -> None:
    candidate = np.array([1.0, 10.0, 100.0])
    interval = stats.paired_speedup(np.array([2.0, 30.0, 400.0]), candidate, generator=rng())
    assert (interval.value, interval.low, interval.high, interval.n) == (3.0, 2.0, 4.0, 3)
    # Twice as fast on every pair is twice as fast for certain, however the pairs differ among themselves.
    steady = stats.paired_speedup(2 * candidate, candidate, generator=rng())
    assert (steady.low, steady.value, steady.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(("baseline", "candidate"), [([1.0, 2.0], [1.0]), ([1.0], [0.0]), ([np.inf], [1.0]), ([], [])])
def test_a_speedup_needs_positive_pairs(baseline: list[float], candidate: list[float]) -> None:
    with pytest.raises(ValueError, match="times"):
        stats.paired_speedup(np.array(baseline), np.array(candidate), generator=rng())


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        stats.wilson(1, 2, confidence=confidence)
