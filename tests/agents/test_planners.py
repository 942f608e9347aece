"""iCEM, MPPI, proposals and halving on problems whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from wcsim.agents.cem import cem
from wcsim.agents.halving import RungReport, successive_halving
from wcsim.agents.icem import coloured, icem
from wcsim.agents.mppi import mppi, weights_of
from wcsim.agents.search import Plan
from wcsim.agents.shooting import shooting
from wcsim.errors import ConfigError
from wcsim.timing.budget import Budget
from wcsim.types import CostFn

LOW, HIGH = np.array([-1.0, -2.0]), np.array([1.0, 2.0])
MEAN, STD = np.zeros((4, 2)), np.ones((4, 2))
TARGET = np.array([[0.5, -1.5], [0.2, 0.3], [-0.9, 1.0], [0.0, 0.4]])

PLANNERS: dict[str, Callable[..., Plan]] = {
    "cem": lambda *args, **kw: cem(*args, elites=8, **kw), "icem": lambda *args, **kw: icem(*args, elites=8, **kw),
    "mppi": mppi, "shooting": shooting,
}


def given(**changes: Any) -> dict[str, Any]:
    return {"low": LOW, "high": HIGH, "rng": np.random.default_rng(0), "rounds": 12, "candidates": 64,
            "budget": Budget(max_calls=10**6)} | changes


def quadratic(actions: np.ndarray) -> np.ndarray:
    return np.asarray(((actions - TARGET) ** 2).sum((1, 2)))


@pytest.mark.parametrize(("name", "cost"), [("cem", 0.05), ("icem", 0.05), ("mppi", 0.4), ("shooting", 4.0)])
def test_a_quadratic_is_solved_as_well_as_a_planner_can(name: str, cost: float) -> None:
    plan = PLANNERS[name](quadratic, MEAN, STD, **given())
    assert plan.cost < cost
    assert plan.cost == quadratic(plan.actions[None])[0]


@pytest.mark.parametrize("name", PLANNERS)
def test_the_contract_holds_for_every_planner(name: str) -> None:
    shown: list[np.ndarray] = []

    def watched(actions: np.ndarray) -> np.ndarray:
        shown.append(actions)
        return quadratic(actions)

    plan = PLANNERS[name](watched, MEAN + 0.3, STD, **given(rounds=4))
    assert (shown[0][0] == MEAN + 0.3).all()  # the previous mean is a candidate
    assert all((actions >= LOW).all() and (actions <= HIGH).all() for actions in shown)
    assert plan.calls == sum(map(len, shown))
    assert plan.cost <= plan.cost_of_mean == quadratic(MEAN[None] + 0.3)[0]
    again = PLANNERS[name](quadratic, MEAN + 0.3, STD, **given(rounds=4))
    assert (again.actions == plan.actions).all()


@pytest.mark.parametrize("name", PLANNERS)
def test_a_planner_overruns_a_fake_clock_by_one_call_at_most(name: str) -> None:
    now, call_s = [0.0], 0.040

    def slow(actions: np.ndarray) -> np.ndarray:
        now[0] += call_s
        return quadratic(actions)

    for deadline_ms in (10.0, 100.0, 130.0, 400.0):
        now[0] = 0.0
        plan = PLANNERS[name](slow, MEAN, STD, **given(rounds=50, budget=Budget(deadline_ms=deadline_ms,
                                                                                clock=lambda: now[0])))
        assert 1e3 * now[0] <= deadline_ms + 1e3 * call_s + 1e-6
        assert plan.exhausted
        assert plan.rounds >= 1


@pytest.mark.parametrize("name", PLANNERS)
def test_a_good_proposal_is_found_at_once(name: str) -> None:
    proposals = np.stack([TARGET + 3.0, TARGET])  # the first is clipped
    plan = PLANNERS[name](quadratic, MEAN, 0.01 * STD, **given(rounds=1, proposals=proposals))
    assert plan.cost == 0.0
    assert (plan.actions == TARGET).all()
    few = PLANNERS[name](quadratic, MEAN, STD, **given(rounds=1, candidates=8, proposals=np.stack([TARGET] * 20)))
    assert few.cost == 0.0
    assert few.cost_of_mean == quadratic(MEAN[None])[0]
    with pytest.raises(ConfigError, match="proposals must be finite"):
        PLANNERS[name](quadratic, MEAN, STD, **given(proposals=np.zeros((2, 3, 2))))


def test_icem_shrinks_its_rounds_and_keeps_its_elites() -> None:
    shown: list[np.ndarray] = []

    def watched(actions: np.ndarray) -> np.ndarray:
        shown.append(actions)
        return quadratic(actions)

    icem(watched, MEAN, STD, **given(rounds=5, candidates=40), elites=8, decay=2.0, keep=0.5)
    assert [len(actions) for actions in shown] == [40, 20, 16, 16, 16]
    best = shown[0][np.argsort(quadratic(shown[0]), kind="stable")[:4]]
    assert (shown[1][1:5] == best).all()


def test_coloured_noise_has_unit_variance_and_grows_smoother() -> None:
    roughness = []
    for beta in (0.0, 1.0, 3.0):
        for ticks in (1, 2, 7, 8):
            noise = coloured(np.random.default_rng(0), 4000, ticks, 2, beta=beta)
            assert noise.shape == (4000, ticks, 2)
            assert noise.std(axis=(0, 2)) == pytest.approx(1.0, abs=0.04)
        roughness.append(float((np.diff(noise, axis=1) ** 2).mean()))
    assert roughness[0] == pytest.approx(2.0, rel=0.05)  # white
    assert roughness[0] > roughness[1] > roughness[2]


def test_mppi_weights_by_hand() -> None:
    costs = np.array([1.0, 2.0, 3.0])
    scale = 0.5 * costs.std()
    expected = np.exp(-(costs - 1.0) / scale)
    assert weights_of(costs, 0.5) == pytest.approx(expected / expected.sum())
    assert weights_of(np.array([4.0, 4.0]), 0.1) == pytest.approx([0.5, 0.5])


def test_mppi_answers_with_its_mean_where_that_is_best() -> None:
    plan = mppi(quadratic, MEAN, STD, **given(rounds=1, candidates=512), temperature=0.3)
    assert plan.calls == 513
    assert (plan.actions == np.clip(plan.mean, LOW, HIGH)).all() or plan.cost < quadratic(plan.mean[None])[0]


@pytest.mark.parametrize(("planner", "options", "message"), [
    (mppi, {"temperature": 0.0}, "temperature must be above 0"), (icem, {"elites": 8, "knots": 2}, "has no knots"),
    (icem, {"elites": 8, "momentum": 1.0}, "icem needs"), (icem, {"elites": 8, "decay": 0.5}, "icem needs"),
])
def test_bad_settings_are_refused(planner: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planner(quadratic, MEAN, STD, **given(**options))


def test_halving_asks_the_dear_cost_about_survivors_alone() -> None:
    asked: list[int] = []
    seen: list[RungReport] = []

    def dear(actions: np.ndarray) -> np.ndarray:
        asked.append(len(actions))
        return quadratic(actions)

    cost = successive_halving(lambda actions: quadratic(actions) + 0.1, dear, survivors=5, watch=seen.append)
    actions = np.random.default_rng(1).normal(size=(30, 4, 2))
    costs, true = cost(actions), quadratic(actions)
    best = np.argsort(true)[:4]
    assert asked == [5]
    assert set(seen[0].survivors) == {*best, 0} | set(np.argsort(true)[:5] if 0 in best else [])
    assert costs[seen[0].survivors] == pytest.approx(true[seen[0].survivors])
    out = np.setdiff1d(np.arange(30), seen[0].survivors)
    assert costs[out].min() >= costs[seen[0].survivors].max()
    assert (np.argsort(costs[out]) == np.argsort(true[out])).all()
    assert (seen[0].rank_agreement, seen[0].regret) == (1.0, 0.0)


def test_halving_finds_what_the_dear_cost_alone_finds_at_a_fraction_of_its_calls() -> None:
    calls = [0]

    def dear(actions: np.ndarray) -> np.ndarray:
        calls[0] += len(actions)
        return quadratic(actions)

    rough = successive_halving(lambda actions: np.round(quadratic(actions)), dear, survivors=12)
    plan = cem(rough, MEAN, STD, **given(rounds=15), elites=8)
    assert plan.cost < 0.05
    assert calls[0] == 15 * 12


def test_a_rung_measures_how_far_the_cheap_cost_misleads() -> None:
    told = RungReport(np.array([1.0, 2.0, 3.0]), np.array([5.0, 4.0, 7.0]), np.array([0, 1, 2]))
    assert told.rank_agreement == pytest.approx(1 / 3)
    assert told.regret == 1.0
    assert np.isnan(RungReport(np.array([1.0]), np.array([1.0]), np.array([0])).rank_agreement)


def test_halving_within_halving_keeps_the_warm_start_to_the_end() -> None:
    first, second, last = (np.array(costs, float) for costs in ([9, 1, 2, 3, 4], [9, 8, 7, 6, 5], [1, 2, 3, 4, 5]))

    def told(costs: np.ndarray) -> CostFn:
        return lambda actions: costs[actions[:, 0, 0].astype(int)]

    cost = successive_halving(told(first), successive_halving(told(second), told(last), survivors=2), survivors=4)
    costs = cost(np.arange(5.0)[:, None, None])
    # 0, 1, 2, 3 pass the first, of them 0 and 3 the second.
    assert costs[[0, 3]].tolist() == [1.0, 4.0]
    assert costs[[0, 3]].max() <= costs[2] <= costs[1] <= costs[4]


def test_halving_survives_broken_costs_and_shows_the_cheap_one_less() -> None:
    lengths: list[int] = []

    def cheap(actions: np.ndarray) -> np.ndarray:
        lengths.append(actions.shape[1])
        costs = np.arange(float(len(actions)))
        costs[1] = np.nan
        return costs

    costs = successive_halving(
        cheap, lambda actions: np.full(len(actions), 3.0), survivors=2, ticks=2)(np.zeros((5, 4, 2)))
    assert lengths == [2]
    assert costs.tolist() == [3.0, np.inf, 3.0, 6.0, 7.0]
    with pytest.raises(ConfigError, match="survivors must be 1 or more"):
        successive_halving(cheap, cheap, survivors=0)
