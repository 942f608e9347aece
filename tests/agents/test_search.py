"""The shared loop, and both planners on problems whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wcsim.agents.cem import cem
from wcsim.agents.search import PlanningError, knot_noise
from wcsim.agents.shooting import shooting
from wcsim.errors import ConfigError, WcsimError
from wcsim.timing.budget import Budget

LOW, HIGH = np.array([-1.0, -2.0]), np.array([1.0, 2.0])
MEAN, STD = np.zeros((3, 2)), np.ones((3, 2))


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def quadratic(target: np.ndarray) -> Any:
    return lambda actions: ((actions - target) ** 2).sum((1, 2))


def given_settings(**changes: Any) -> dict[str, Any]:
    defaults = {
        "low": LOW, "high": HIGH, "rng": np.random.default_rng(0), "rounds": 12, "candidates": 64, "elites": 8,
        "budget": Budget(max_calls=10**6),
    }
    return defaults | changes


def test_cem_finds_the_minimum_of_a_quadratic() -> None:
    target = np.array([[0.5, -1.5], [0.2, 0.3], [-0.9, 1.0]])
    plan = cem(quadratic(target), MEAN, STD, **given_settings(rounds=20, candidates=256, elites=32))
    assert plan.actions == pytest.approx(target, abs=0.02)
    assert plan.mean == pytest.approx(target, abs=0.02)
    assert (plan.std < STD).all()
    assert (plan.rounds, plan.calls, plan.invalid, plan.exhausted) == (20, 20 * 256, 0, False)
    assert len(plan.trace) == 20
    assert min(best for best, _ in plan.trace) == plan.cost
    assert all(best <= elite for best, elite in plan.trace)


def test_a_minimum_outside_the_bounds_ends_on_them() -> None:
    plan = cem(quadratic(np.full((3, 2), 5.0)), MEAN, STD,
               **given_settings(candidates=256, elites=32))
    assert plan.actions == pytest.approx(np.broadcast_to(HIGH, (3, 2)), abs=1e-3)
    assert plan.actions.max() <= 2.0


def test_no_candidate_leaves_the_bounds_and_the_first_is_the_mean() -> None:
    seen = []

    def cost(actions: np.ndarray) -> np.ndarray:
        seen.append(actions)
        return quadratic(MEAN)(actions)

    plan = cem(cost, MEAN + 0.5, 3 * STD, **given_settings(rounds=4))
    assert all((actions >= LOW).all() and (actions <= HIGH).all() for actions in seen)
    assert (seen[0][0] == MEAN + 0.5).all()
    best = seen[-2][np.argsort(cost(seen[-2]))[:8]]
    assert (seen[3][0] == best.mean(0)).all()
    assert plan.cost_of_mean == pytest.approx(6 * 0.25)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), optimum=st.floats(-0.9, 0.9), offset=st.floats(-0.05, 0.05))
def test_a_plan_is_never_worse_than_its_warm_start(seed: int, optimum: float, offset: float) -> None:
    cost = quadratic(np.full((3, 2), optimum))
    options = given_settings(rng=np.random.default_rng(seed), rounds=2, candidates=3, elites=2)
    for planner in (cem, lambda *a, elites, **k: shooting(*a, **k)):
        plan = planner(cost, np.full((3, 2), optimum + offset), STD, **options)
        assert plan.cost <= plan.cost_of_mean
        assert plan.cost == pytest.approx(float(cost(plan.actions[None])[0]))


def test_the_incumbent_survives_worse_rounds() -> None:
    calls = []

    def cost(actions: np.ndarray) -> np.ndarray:
        calls.append(actions)
        return quadratic(MEAN)(actions) + 100.0 * (len(calls) > 1)

    plan = cem(cost, MEAN + 0.5, STD, **given_settings(rounds=3))
    assert plan.cost == quadratic(MEAN)(calls[0]).min()
    assert (plan.actions == calls[0][quadratic(MEAN)(calls[0]).argmin()]).all()


def test_a_tie_leaves_the_mean() -> None:
    plan = cem(lambda actions: np.zeros(len(actions)), MEAN + 0.25, STD, **given_settings(rounds=1))
    assert (plan.actions == MEAN + 0.25).all()


def test_a_double_integrator_reaches_its_goal() -> None:
    ticks, step = 10, 0.5

    def cost(actions: np.ndarray) -> np.ndarray:
        speed = np.cumsum(actions * step, axis=1)
        place = np.cumsum(speed * step, axis=1)
        return np.asarray(((place[:, -1] - [3.0, -2.0]) ** 2).sum(1) + (speed[:, -1] ** 2).sum(1))

    plan = cem(cost, np.zeros((ticks, 2)), np.full((ticks, 2), 0.5),
               **given_settings(rounds=30, candidates=128, elites=16, low=np.array([-1.0, -1.0]), high=np.ones(2)))
    assert plan.cost < 1e-2


def test_shooting_stays_around_its_warm_start() -> None:
    options = given_settings(rounds=3)
    del options["elites"]
    plan = shooting(quadratic(np.full((3, 2), 0.5)), MEAN, STD, **options)
    assert (plan.mean == MEAN).all()
    assert (plan.std == STD).all()
    assert plan.cost < plan.cost_of_mean
    assert plan.calls == 3 * 64


def test_equal_seeds_give_equal_plans() -> None:
    first, second = (cem(quadratic(MEAN + 0.3), MEAN, STD, **given_settings(rng=np.random.default_rng(7), knots=2))
                     for _ in range(2))
    assert first.actions.tobytes() == second.actions.tobytes()
    assert first.trace == second.trace


def timed_cost(clock: Clock, seconds: float) -> Any:
    def cost(actions: np.ndarray) -> np.ndarray:
        clock.now += seconds
        return quadratic(MEAN + 0.3)(actions)

    return cost


@pytest.mark.parametrize(("deadline_ms", "reserve_ms", "rounds"), [
    (1000.0, 0.0, 3), (900.0, 0.0, 3), (899.0, 0.0, 2), (1.0, 0.0, 1), (1000.0, 150.0, 2), (1000.0, 1001.0, 0),
])
def test_a_round_begins_only_where_the_last_one_would_fit(deadline_ms: float, reserve_ms: float, rounds: int) -> None:
    clock = Clock()
    budget = Budget(deadline_ms=deadline_ms, clock=clock)
    plan = cem(timed_cost(clock, 0.3), MEAN, STD, **given_settings(budget=budget, reserve_ms=reserve_ms))
    assert plan.rounds == rounds
    assert plan.exhausted
    assert plan.seconds == pytest.approx(0.3 * rounds)
    assert budget.calls == plan.calls == 64 * rounds


def test_a_spent_budget_returns_the_clipped_warm_start() -> None:
    clock = Clock()
    budget = Budget(deadline_ms=10.0, clock=clock)
    clock.now = 1.0
    plan = cem(timed_cost(clock, 0.3), MEAN + 5.0, STD, **given_settings(budget=budget))
    assert (plan.actions == HIGH).all()
    assert (plan.rounds, plan.calls, plan.exhausted, plan.trace) == (0, 0, True, ())
    assert plan.cost == plan.cost_of_mean == np.inf


@pytest.mark.parametrize(("max_calls", "rounds"), [(63, 0), (64, 1), (200, 3)])
def test_calls_are_not_overspent(max_calls: int, rounds: int) -> None:
    plan = cem(quadratic(MEAN), MEAN, STD, **given_settings(budget=Budget(max_calls=max_calls)))
    assert (plan.rounds, plan.exhausted) == (rounds, True)


def test_nan_costs_are_worst_and_counted() -> None:
    def cost(actions: np.ndarray) -> np.ndarray:
        right = actions[:, 0, 0] > 0
        return np.where(right, np.nan, quadratic(MEAN + 0.5)(actions))

    plan = cem(cost, MEAN, STD, **given_settings())
    assert plan.invalid > 0
    assert np.isfinite(plan.cost)
    assert plan.actions[0, 0] <= 0
    assert np.isfinite(plan.mean).all()


def test_one_finite_cost_is_enough() -> None:
    plan = cem(lambda actions: np.where(np.arange(len(actions)) == 5, -1.0, np.nan), MEAN, STD,
               **given_settings(rounds=1))
    assert plan.cost == -1.0
    assert plan.cost_of_mean == np.inf
    assert plan.invalid == 63
    assert plan.trace == ((-1.0, -1.0),)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_round_without_a_finite_cost_is_an_error(bad: float) -> None:
    with pytest.raises(PlanningError, match="all 64 candidates cost NaN or infinity"):
        cem(lambda actions: np.full(len(actions), bad), MEAN, STD, **given_settings())
    assert issubclass(PlanningError, WcsimError)


def test_a_mis_shaped_cost_is_an_error() -> None:
    with pytest.raises(PlanningError, match=r"\[64\], got \[64, 1\]"):
        cem(lambda actions: np.zeros((len(actions), 1)), MEAN, STD, **given_settings())


@pytest.mark.parametrize(("changes", "message"), [
    ({"candidates": 0}, "candidates must be 1 or more, got 0"),
    ({"elites": 0}, "elites must be 1 or more"),
    ({"elites": 65}, r"at most candidates \(64\), got 65"),
    ({"rounds": 0}, "rounds must be 1 or more"),
    ({"rounds": -3}, "got -3"),
    ({"knots": 0}, "knots must be 1 or more"),
    ({"knots": 4}, "knots must be at most the plan's 3 ticks, got 4"),
    ({"low": HIGH, "high": LOW}, "low <= high"),
    ({"low": np.zeros(3)}, r"\[A\] or \[T, A\]"),
    ({"mean": np.zeros((3, 1))}, r"got \[3, 1\], \[3, 2\]"),
    ({"mean": np.zeros(3), "std": np.ones(3)}, r"\[T, A\]"),
    ({"mean": np.zeros((0, 2)), "std": np.zeros((0, 2))}, "not empty"),
    ({"mean": np.full((3, 2), np.nan)}, "finite"),
    ({"std": -STD}, "not negative"),
])
def test_settings_that_make_no_search_are_refused_unscored(changes: dict[str, Any], message: str) -> None:
    def cost(actions: np.ndarray) -> np.ndarray:
        raise AssertionError("scored")

    options = given_settings(**changes)
    with pytest.raises(ConfigError, match=message):
        cem(cost, options.pop("mean", MEAN), options.pop("std", STD), **options)


def test_knot_noise_is_linear_between_knots_and_scaled_at_them() -> None:
    std = np.stack([np.linspace(1.0, 3.0, 9), np.full(9, 2.0)], axis=1)
    noise = knot_noise(np.random.default_rng(0), std, 20_000, knots=3)
    assert noise.shape == (20_000, 9, 2)
    assert np.diff(noise[:, :5], n=2, axis=1) == pytest.approx(0.0, abs=1e-12)
    assert np.diff(noise[:, 4:], n=2, axis=1) == pytest.approx(0.0, abs=1e-12)
    assert noise[:, [0, 4, 8]].std(0) == pytest.approx(std[[0, 4, 8]], rel=0.03)


def test_one_knot_moves_all_ticks_and_a_knot_per_tick_is_white() -> None:
    rigid = knot_noise(np.random.default_rng(0), np.ones((6, 2)), 50, knots=1)
    assert (rigid == rigid[:, :1]).all()
    white = knot_noise(np.random.default_rng(0), np.ones((6, 2)), 50, knots=6)
    assert (white == np.random.default_rng(0).standard_normal((50, 6, 2))).all()
