"""Clocks that pass when told to, and a governor on loads known in advance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from wcsim.errors import ConfigError
from wcsim.timing.clock import (
    ConstantLatency,
    DrawnLatency,
    LatencyConfig,
    MeasuredLatency,
    SimulatedClock,
    TimedCost,
    TracedLatency,
    make_clock,
    measure,
)
from wcsim.timing.governor import Governor, Pace


def test_time_passes_only_when_told_to() -> None:
    clock = SimulatedClock()
    assert clock() == 0.0
    clock.advance(250.0)
    assert clock() == 0.25
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1.0)
    assert make_clock("off")() == 0.0
    assert make_clock("wall")() > 0.0
    assert isinstance(make_clock("simulated"), SimulatedClock)


def test_latencies_by_hand() -> None:
    assert ConstantLatency(call_ms=5, frame_ms=2).ms(9, 3, 4) == 5 + 2 * 12
    trace = TracedLatency(call_ms=(1.0, 7.0))
    assert [trace.ms(call, 1, 1) for call in range(3)] == [1.0, 7.0, 1.0]
    table = MeasuredLatency(lanes=(1, 8, 16), tick_ms=(10.0, 24.0, 32.0))
    assert [table.ms(0, lanes, 2) for lanes in (1, 4, 8, 12, 16, 24)] == pytest.approx([20, 32, 48, 56, 64, 80])


def test_a_drawn_latency_is_a_function_of_its_call() -> None:
    drawn = DrawnLatency(call_ms=100.0, sigma=0.3, seed=1)
    first = [drawn.ms(call, 1, 1) for call in range(2000)]
    assert first == [drawn.ms(call, 1, 1) for call in range(2000)]
    assert np.median(first) == pytest.approx(100.0, rel=0.03)
    assert np.log(first).std() == pytest.approx(0.3, rel=0.05)


def test_measuring_with_a_known_clock() -> None:
    clock = SimulatedClock()
    table = measure(lambda lanes: clock.advance(lanes * 6.0), lanes=(1, 4), ticks=2, clock=clock)
    assert table.lanes == (1, 4)
    assert table.tick_ms == pytest.approx((3.0, 12.0))


def test_a_timed_cost_lets_its_latency_pass() -> None:
    clock = SimulatedClock()
    cost = TimedCost(lambda actions: actions.sum((1, 2)), clock, ConstantLatency(call_ms=1, frame_ms=1))
    assert cost(np.ones((4, 3, 2))).tolist() == [6.0] * 4
    assert 1e3 * clock() == pytest.approx(13.0)


@pytest.mark.parametrize("settings", [
    {"kind": "constant", "call_ms": -1}, {"kind": "trace", "call_ms": []}, {"kind": "gaussian"},
    {"kind": "measured", "lanes": [4, 1], "tick_ms": [1, 2]}, {"kind": "measured", "lanes": [1], "tick_ms": [1]},
])
def test_bad_latencies_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(LatencyConfig).validate_python(settings)


def run(governor: Governor, cost_ms: list[float], steps: int) -> list[int]:
    """Levels over steps where level i costs `cost_ms[i]`."""
    pace, levels = governor.init(), []
    for _ in range(steps):
        levels.append(pace.level)
        pace = governor.after(pace, cost_ms[pace.level])
    return levels


def test_a_governor_settles_on_the_best_level_that_meets_the_deadline() -> None:
    levels = run(Governor(4, deadline_ms=100.0), [20.0, 40.0, 80.0, 160.0], 50)
    assert levels[:2] == [3, 2]
    assert set(levels[1:]) == {2}  # 80 ms is not calm enough to climb


def test_it_climbs_when_there_is_room_and_tries_less_often_what_failed() -> None:
    pace = Governor(3, deadline_ms=100.0).init(0)
    governor = Governor(3, deadline_ms=100.0)
    assert governor.levels == 3
    misses, levels = [], []
    for step in range(200):
        levels.append(pace.level)
        ms = [10.0, 60.0, 150.0][pace.level]
        if ms > 100.0:
            misses.append(step)
        pace = governor.after(pace, ms)
    assert levels[0] == 0
    assert np.bincount(levels).argmax() == 1
    gaps = np.diff(misses)
    assert (np.diff(gaps) >= 0).all()
    assert gaps[-1] > 2 * gaps[0]
    assert len(misses) < 10


def test_the_cheapest_level_is_the_floor() -> None:
    assert run(Governor(2, deadline_ms=10.0), [50.0, 90.0], 6) == [1, 0, 0, 0, 0, 0]
    assert Governor(1, deadline_ms=10.0).after(Pace(0, calm=9), 1.0).level == 0
    with pytest.raises(ConfigError, match="a governor needs"):
        Governor(0, deadline_ms=1.0)
