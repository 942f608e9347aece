from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wcsim.errors import ConfigError
from wcsim.timing.budget import Budget


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_deadline_runs_from_the_making_of_the_budget() -> None:
    clock = FakeClock()
    budget = Budget(deadline_ms=250, clock=clock)
    assert budget.elapsed_ms == 0.0
    clock.now += 0.125
    assert budget.elapsed_ms == 125.0
    assert not budget.exhausted
    assert not budget.would_exceed(125)
    assert budget.would_exceed(126)
    clock.now += 0.125
    assert not Budget(deadline_ms=1, clock=clock).exhausted
    assert budget.exhausted


def test_calls_run_out() -> None:
    clock = FakeClock()
    budget = Budget(max_calls=10, clock=clock)
    budget.spend(6)
    clock.now += 1e6
    assert not budget.exhausted
    assert not budget.would_exceed(expected_ms=1e9, calls=4)
    assert budget.would_exceed(calls=5)
    budget.spend(5)
    assert budget.calls == 11
    assert budget.exhausted


def test_whichever_ends_first() -> None:
    clock = FakeClock()
    by_calls, by_time = (Budget(deadline_ms=100, max_calls=2, clock=clock) for _ in range(2))
    by_calls.spend(2)
    assert by_calls.exhausted
    assert not by_time.exhausted
    clock.now += 0.1001
    assert by_time.exhausted


@pytest.mark.parametrize(
    "arguments",
    [{}, {"deadline_ms": 0}, {"deadline_ms": -5.0}, {"deadline_ms": float("nan")}, {"deadline_ms": float("inf")},
     {"max_calls": 0}, {"max_calls": -1}, {"deadline_ms": 10, "max_calls": 0}],
)
def test_a_budget_of_nothing_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"budget\."):
        Budget(**arguments)  # type: ignore[arg-type]


def test_calls_are_not_given_back() -> None:
    with pytest.raises(ValueError, match="-1"):
        Budget(max_calls=3).spend(-1)


def test_the_real_clock_goes_forward() -> None:
    budget = Budget(deadline_ms=1e9)
    assert 0.0 <= budget.elapsed_ms <= budget.elapsed_ms


@settings(max_examples=30, deadline=None)
@given(limit=st.integers(1, 50), spends=st.lists(st.integers(0, 9), max_size=12))
def test_calls_add_up_and_asking_first_never_overspends(limit: int, spends: list[int]) -> None:
    budget = Budget(max_calls=limit)
    for calls in spends:
        if not budget.would_exceed(calls=calls):
            budget.spend(calls)
    assert budget.calls <= limit
    assert budget.exhausted == (budget.calls == limit)
