from __future__ import annotations

import pytest

from wcsim.errors import ConfigError
from wcsim.metrics.latency import LatencyLog, describe
from wcsim.spans import Spans


def test_percentiles_and_attainment_by_hand() -> None:
    log = LatencyLog(deadline_ms=90.0, fps=10.0)
    log.add({"step": 5000.0, "plan": 4000.0})
    for step_ms in range(1, 102):
        log.add({"step": float(step_ms), "plan": step_ms / 2})
    summary = log.summary()
    assert summary["latency_ms"] == {"n": 101, "mean": 51.0, "p50": 51.0, "p95": 96.0, "p99": 100.0, "max": 101.0}
    assert summary["first_step_ms"]["n"] == 1
    assert summary["first_step_ms"]["max"] == 5000.0
    assert summary["deadline_ms"] == 90.0
    assert summary["deadline_attainment"] == pytest.approx(90 / 101)
    assert summary["real_time_factor"] == pytest.approx(100 / 51)
    assert summary["spans_ms"] == {"plan": describe([step / 2 for step in range(1, 102)])}


def test_a_step_on_the_deadline_is_in_time() -> None:
    log = LatencyLog(deadline_ms=20.0, fps=10.0)
    for step_ms in (99.0, 20.0, 20.1, 19.9, 40.0):
        log.add({"step": step_ms})
    assert log.summary()["deadline_attainment"] == 0.5
    assert log.summary()["real_time_factor"] == pytest.approx(4.0)


def test_first_steps_are_reported_apart() -> None:
    log = LatencyLog(deadline_ms=20.0, fps=10.0)
    for step_ms, first in ((50.0, False), (10.0, False), (70.0, True), (12.0, False)):
        log.add({"step": step_ms}, first=first)
    summary = log.summary()
    assert summary["latency_ms"]["max"] == 12.0
    assert summary["first_step_ms"] == describe([50.0, 70.0])


def test_a_span_that_some_steps_lack_counts_where_it_is() -> None:
    log = LatencyLog(deadline_ms=20.0, fps=10.0, step="whole")
    log.add({"whole": 1.0})
    log.add({"whole": 8.0, "plan": 6.0})
    log.add({"whole": 2.0})
    assert log.summary()["spans_ms"]["plan"] == {"n": 1, "mean": 6.0, "p50": 6.0, "p95": 6.0, "p99": 6.0, "max": 6.0}


@pytest.mark.parametrize("steps", [0, 1])
def test_no_measured_steps_give_no_numbers(steps: int) -> None:
    log = LatencyLog(deadline_ms=20.0, fps=10.0)
    for _ in range(steps):
        log.add({"step": 3.0})
    summary = log.summary()
    assert summary["latency_ms"] == {"n": 0, "mean": None, "p50": None, "p95": None, "p99": None, "max": None}
    assert summary["deadline_attainment"] is None
    assert summary["real_time_factor"] is None


def test_it_takes_what_spans_give() -> None:
    log = LatencyLog(deadline_ms=1e9, fps=10.0)
    for _ in range(3):
        spans = Spans()
        with spans("step"):
            for _ in range(2):
                with spans("deep"):
                    pass
        log.add(spans.ms())
    summary = log.summary()
    assert summary["latency_ms"]["n"] == summary["spans_ms"]["deep"]["n"] == 2
    assert summary["deadline_attainment"] == 1.0
    assert summary["spans_ms"]["deep"]["max"] <= summary["latency_ms"]["max"]


def test_a_step_without_its_enclosing_span_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'step'.*\['plan'\]"):
        LatencyLog(deadline_ms=20.0, fps=10.0).add({"plan": 1.0})


@pytest.mark.parametrize(("deadline_ms", "fps"), [(0.0, 10.0), (-1.0, 10.0), (float("nan"), 10.0), (10.0, 0.0)])
def test_deadline_and_rate_are_positive(deadline_ms: float, fps: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        LatencyLog(deadline_ms=deadline_ms, fps=fps)
