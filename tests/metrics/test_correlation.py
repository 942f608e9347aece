"""Agreement of rankings: SIMPLER's published tables, closed forms, and cases done by hand."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wcsim.metrics.correlation import compare, kendall, mcnemar, mmrv, pearson, spearman, top_regret

# SIMPLER (arXiv 2405.05941), success rates of the same policies on robots and in simulation, with what they publish.
SIMPLER = {
    "pick coke can": ((0.907, 0.853, 0.920, 0.760, 0.133, 0.293), (0.787, 0.857, 0.710, 0.567, 0.027, 0.170),
                      0.975, 0.031),
    "move near": ((0.733, 0.633, 0.583, 0.450, 0.017, 0.350), (0.779, 0.442, 0.354, 0.317, 0.050, 0.042), 0.856, 0.111),
    "open drawer": ((0.333, 0.815, 0.704, 0.519, 0.000, 0.148), (0.157, 0.601, 0.463, 0.296, 0.000, 0.009),
                    0.983, 0.000),
    "close drawer": ((0.630, 0.926, 0.889, 0.741, 0.000, 0.519), (0.343, 0.861, 0.667, 0.891, 0.278, 0.444),
                     0.771, 0.123),
    "apple in drawer": ((0.074, 0.185, 0.185, 0.407, 0.000, 0.000), (0.037, 0.065, 0.130, 0.213, 0.000, 0.000),
                        0.969, 0.000),
    "spoon on towel": ((0.000, 0.333, 0.417), (0.000, 0.125, 0.472), 0.827, 0.000),
    "carrot on plate": ((0.000, 0.250, 0.083), (0.042, 0.083, 0.097), 0.571, 0.111),
    "stack cube": ((0.000, 0.000, 0.125), (0.000, 0.000, 0.042), 1.000, 0.000),
    "eggplant in basket": ((0.000, 0.250, 0.400), (0.000, 0.431, 0.569), 0.989, 0.000),
}

scores = st.lists(st.integers(0, 10), min_size=3, max_size=8)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", SIMPLER)
def test_the_published_tables_give_the_published_numbers(name: str) -> None:
    real, simulated, r, violation = SIMPLER[name]
    assert round(float(pearson(np.array(real), np.array(simulated))), 3) == pytest.approx(r)
    assert round(float(mmrv(np.array(real), np.array(simulated))), 3) == pytest.approx(violation)


@settings(max_examples=40)
@given(data=st.data(), real=scores)
def test_correlations_are_their_closed_forms(data: st.DataObject, real: list[int]) -> None:
    simulated = data.draw(st.lists(st.integers(0, 10), min_size=len(real), max_size=len(real)))
    if len(set(real)) == 1 or len(set(simulated)) == 1:
        assert np.isnan(pearson(np.array(real), np.array(simulated)))
        return
    assert pearson(np.array(real), np.array(simulated)) == pytest.approx(np.corrcoef(real, simulated)[0, 1], abs=1e-12)
    ranks = [[sum(b < a for b in row) + sum(b == a for b in row) / 2 for a in row] for row in (real, simulated)]
    assert spearman(np.array(real), np.array(simulated)) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


def test_rounding_is_no_spread_and_one_constant_row_leaves_the_others_alone() -> None:
    real, third = np.array([1.0, 2.0, 3.0]), 0.1 + 0.2
    rows = np.array([[0.3, third, 0.3], [2.0, 4.0, 6.0], [5.0, 5.0, 5.0]])
    assert np.isnan(pearson(np.stack([real] * 3), rows)).tolist() == [True, False, True]
    assert pearson(np.stack([real] * 3), rows)[1] == pytest.approx(1.0)


def test_a_violation_is_the_largest_true_gap_ranked_wrongly() -> None:
    real = np.array([0.0, 0.2, 0.9])
    assert mmrv(real, real) == 0.0
    # 0 and 0.2 change places: each is 0.2 wrong, the best is right.
    assert mmrv(real, np.array([0.3, 0.1, 0.9])) == pytest.approx(0.4 / 3)
    assert mmrv(real, -real) == pytest.approx((0.9 + 0.7 + 0.9) / 3)


def test_statistics_work_on_stacks() -> None:
    real, simulated = rng().random((2, 4, 5, 6))
    for statistic in (pearson, spearman, mmrv):
        together = statistic(real, simulated)
        assert together.shape == (4, 5)
        assert together[1, 2] == pytest.approx(float(statistic(real[1, 2], simulated[1, 2])))


def test_a_perfect_simulator_agrees_for_certain_and_equal_policies_do_not_differ() -> None:
    real = rng().random((6, 20)) + np.arange(6)[:, None]
    told = compare(pearson, real, real, real, generator=rng())
    assert (told.first.low, told.first.value, told.first.high) == pytest.approx((1.0, 1.0, 1.0))
    assert (told.change.low, told.change.value, told.change.high) == (0.0, 0.0, 0.0)
    assert told.first.n == 20


def test_pairing_by_start_leaves_luck_out() -> None:
    """Starts differ a lot and policies little: what is common to a start must not widen the interval."""
    luck, skill = 10.0 * rng().normal(size=(1, 30)), np.linspace(0.0, 1.0, 6)[:, None]
    noise = np.random.default_rng(1).normal(0, 0.05, (3, 6, 30))
    told = compare(pearson, *(skill + luck + part for part in noise), generator=rng())
    assert told.first.low > 0.95


def test_more_starts_narrow_the_interval() -> None:
    def width(starts: int) -> float:
        noise = np.random.default_rng(2).normal(0, 1.0, (3, 6, starts))
        told = compare(pearson, *(np.linspace(0.0, 1.0, 6)[:, None] + part for part in noise), generator=rng())
        assert told.first.low <= told.first.value <= told.first.high
        return told.first.high - told.first.low

    assert width(400) < width(25)


def test_what_is_not_defined_has_no_interval() -> None:
    real, flat = rng().random((3, 8)), np.zeros((3, 8))
    told = compare(pearson, real, flat, real, generator=rng())
    assert np.isnan([told.first.value, told.first.low, told.first.high, told.change.value]).all()
    assert told.second.value == pytest.approx(1.0)
    single = compare(pearson, real[:, :1], real[:, :1], real[:, :1], generator=rng())
    assert np.isnan([single.first.low, single.first.high]).all()


@pytest.mark.parametrize("tables", [
    (np.zeros((1, 3)),) * 3, (np.zeros(3),) * 3, (np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((3, 3))),
    (np.full((2, 3), np.nan),) * 3,
])
def test_tables_must_match_and_be_finite(tables: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(ValueError, match="tables"):
        compare(mmrv, *tables, generator=rng())


@settings(max_examples=40)
@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_mcnemar_is_a_binomial_test_of_the_pairs_that_differ(pairs: list[tuple[bool, bool]]) -> None:
    first, second = np.array(pairs).T
    told = mcnemar(first, second)
    differ = told.only_first + told.only_second
    tail = sum(comb(differ, count) for count in range(min(told.only_first, told.only_second) + 1)) / 2**differ
    expected = min(1.0, 2 * tail)
    assert told.p == pytest.approx(expected)
    assert told.only_first - told.only_second == first.sum() - second.sum()


def test_kendall_and_regret_by_hand() -> None:
    costs = np.array([1.0, 2.0, 3.0, 4.0])
    assert kendall(costs, costs) == 1.0
    assert kendall(costs, -costs) == -1.0
    assert kendall(costs, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(4 / 6)
    assert kendall(costs, np.zeros(4)) == 0.0  # tau-a: who ties agrees with nobody
    assert np.isnan(kendall(costs[:1], costs[:1]))
    assert top_regret(np.array([2.0, 1.0, 3.0]), np.array([5.0, 7.0, 6.0])) == 2.0
    assert top_regret(costs, costs) == 0.0


def test_mcnemar_by_hand() -> None:
    told = mcnemar(np.array([True] * 6 + [False] * 4), np.zeros(10, dtype=bool))
    assert (told.only_first, told.only_second, told.p) == (6, 0, 2 / 64)
    with pytest.raises(ValueError, match="paired"):
        mcnemar(np.zeros(2), np.zeros(3))
