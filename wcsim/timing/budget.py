"""What a planner may spend on one decision: time, calls, or both.

The clock starts when the budget is made.  Easy to get wrong: on CUDA, launched work has not been done yet; read a
result on the host before asking how much time is left.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from time import perf_counter

from wcsim.errors import ConfigError


class Budget:
    """A deadline, a number of calls, or both: whichever ends first.

    deadline_ms: milliseconds from now.  max_calls: most calls, in whatever unit the planner spends.  clock: seconds,
    never going backwards.  Raises ConfigError where neither is given or one is not positive.
    """

    def __init__(
        self,
        *,
        deadline_ms: float | None = None,
        max_calls: int | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        if deadline_ms is None and max_calls is None:
            raise ConfigError("a budget needs budget.deadline_ms, budget.max_calls or both; got neither")
        if deadline_ms is not None and not (isfinite(deadline_ms) and deadline_ms > 0):
            raise ConfigError(f"budget.deadline_ms must be a positive number of milliseconds, got {deadline_ms}")
        if max_calls is not None and max_calls < 1:
            raise ConfigError(f"budget.max_calls must be 1 or more, got {max_calls}")
        self.deadline_ms = deadline_ms
        self.max_calls = max_calls
        self.calls = 0
        self._clock = clock
        self._began = clock()

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the budget was made."""
        return 1e3 * (self._clock() - self._began)

    @property
    def exhausted(self) -> bool:
        """Whether nothing more may be spent."""
        late = self.deadline_ms is not None and self.elapsed_ms >= self.deadline_ms
        return late or (self.max_calls is not None and self.calls >= self.max_calls)

    def spend(self, calls: int) -> None:
        """Count `calls` as made.  Overspending is counted, not refused: it has happened."""
        if calls < 0:
            raise ValueError(f"calls must be 0 or more, got {calls}")
        self.calls += calls

    def would_exceed(self, expected_ms: float = 0.0, calls: int = 0) -> bool:
        """Whether `expected_ms` more milliseconds or `calls` more calls would end beyond the budget."""
        late = self.deadline_ms is not None and self.elapsed_ms + expected_ms > self.deadline_ms
        return late or (self.max_calls is not None and self.calls + calls > self.max_calls)
