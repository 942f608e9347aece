"""What each step cost, against a deadline.

Spans nest, so they do not add up to a step: one of them encloses the others, and only it is compared with the deadline.
Easy to get wrong: first steps (of the log, and where the caller says so) carry warm-up; they are reported apart and
enter no other number.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

from wcsim.errors import ConfigError


class LatencyLog:
    """Milliseconds per span and step.

    deadline_ms: what a step may take.  fps: world frames per second, one frame a step.  step: the span that encloses a
    whole step.  Raises ConfigError where deadline or rate is not positive.
    """

    def __init__(self, *, deadline_ms: float, fps: float, step: str = "step") -> None:
        for name, value in (("deadline_ms", deadline_ms), ("fps", fps)):
            if not (isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number, got {value}")
        self.deadline_ms = deadline_ms
        self.fps = fps
        self._step = step
        self._first: list[float] = []
        self._spans: dict[str, list[float]] = {step: []}

    def add(self, spans_ms: Mapping[str, float], *, first: bool = False) -> None:
        """Record one step, as `wcsim.spans.Spans.ms` gives it; `first` marks one that carries warm-up."""
        if self._step not in spans_ms:
            raise ValueError(f"a step needs the span '{self._step}', got {sorted(spans_ms)}")
        if first or not self._first:
            self._first.append(spans_ms[self._step])
            return
        for name, value in spans_ms.items():
            self._spans.setdefault(name, []).append(value)

    def summary(self) -> dict[str, Any]:
        """The keys that `summary.json` holds; None where there were no steps to measure.

        latency_ms: `describe` of whole steps.  first_step_ms: `describe` of the steps kept apart.  spans_ms: `describe`
        per inner span, over the steps that have it.  deadline_attainment: share of steps within the deadline.
        real_time_factor: world seconds per wall second, 1 or more keeps up.
        """
        steps = np.array(self._spans[self._step])
        some = steps.size > 0
        return {
            "latency_ms": describe(self._spans[self._step]),
            "first_step_ms": describe(self._first),
            "spans_ms": {name: describe(values) for name, values in self._spans.items() if name != self._step},
            "deadline_ms": self.deadline_ms,
            "deadline_attainment": float((steps <= self.deadline_ms).mean()) if some else None,
            "real_time_factor": float(1e3 / self.fps / steps.mean()) if some else None,
        }


def describe(values_ms: list[float]) -> dict[str, float | int | None]:
    """n, mean, p50, p95, p99 and max; percentiles interpolate linearly, and all but n are None for no values."""
    if not values_ms:
        return {"n": 0, **dict.fromkeys(("mean", "p50", "p95", "p99", "max"))}
    p50, p95, p99 = (float(value) for value in np.percentile(values_ms, [50, 95, 99]))
    mean = float(np.mean(values_ms))
    return {"n": len(values_ms), "mean": mean, "p50": p50, "p95": p95, "p99": p99, "max": max(values_ms)}
