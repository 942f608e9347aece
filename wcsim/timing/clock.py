"""Clocks and simulated latency: what a model call takes, where it must be the same on every machine.

Everything here is a function of the number of the call and its size, so a run under a simulated clock repeats bit for
bit.  Easy to get wrong: a clock that is off never advances, so a deadline never passes; calls then bound a plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Literal, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from wcsim.config import StrictConfig
from wcsim.types import CostFn

ClockMode = Literal["off", "simulated", "wall"]


class SimulatedClock:
    """Seconds that pass only in `advance`."""

    def __init__(self) -> None:
        self._ms = 0.0

    def __call__(self) -> float:
        """Seconds since it was made."""
        return 1e-3 * self._ms

    def advance(self, ms: float) -> None:
        """Let `ms` milliseconds pass."""
        if not ms >= 0:
            raise ValueError(f"time goes forward: {ms} ms")
        self._ms += ms


class Latency(Protocol):
    """How long a model call takes."""

    def ms(self, call: int, lanes: int, ticks: int) -> float:
        """Milliseconds of call number `call` (from 0), which imagines `ticks` frames of `lanes` lanes."""
        ...


class ConstantLatency(StrictConfig):
    """`call_ms` a call and `frame_ms` a frame of a lane."""

    kind: Literal["constant"] = "constant"
    call_ms: float = Field(0.0, ge=0)
    frame_ms: float = Field(0.0, ge=0)

    def ms(self, call: int, lanes: int, ticks: int) -> float:
        """See `Latency`."""
        return self.call_ms + self.frame_ms * lanes * ticks


class DrawnLatency(ConstantLatency):
    """A `ConstantLatency` times a lognormal factor of median 1, drawn for every call from `seed` and its number."""

    kind: Literal["drawn"] = "drawn"  # type: ignore[assignment]  # the discriminator of a union names each kind
    sigma: float = Field(0.2, ge=0)
    """Standard deviation of the factor's logarithm; p95 is exp(1.645 sigma)."""
    seed: int = Field(0, ge=0)

    def ms(self, call: int, lanes: int, ticks: int) -> float:
        """See `Latency`."""
        factor = np.exp(self.sigma * np.random.default_rng([self.seed, call]).standard_normal())
        return float(factor) * super().ms(call, lanes, ticks)


class TracedLatency(StrictConfig):
    """What was once recorded, call by call, over and over; the size of a call does not count."""

    kind: Literal["trace"] = "trace"
    call_ms: tuple[float, ...] = Field(min_length=1)

    def ms(self, call: int, lanes: int, ticks: int) -> float:
        """See `Latency`."""
        return self.call_ms[call % len(self.call_ms)]


class MeasuredLatency(StrictConfig):
    """Milliseconds per tick at some numbers of lanes, linear in between and beyond; what `measure` returns."""

    kind: Literal["measured"] = "measured"
    lanes: tuple[int, ...]
    tick_ms: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.lanes) != len(self.tick_ms) or len(self.lanes) < 2 or sorted(set(self.lanes)) != list(self.lanes):
            raise ValueError("lanes must rise, at least two of them, with one tick_ms each")
        return self

    def ms(self, call: int, lanes: int, ticks: int) -> float:
        """See `Latency`."""
        i = int(np.clip(np.searchsorted(self.lanes, lanes), 1, len(self.lanes) - 1))
        (x0, x1), (y0, y1) = self.lanes[i - 1 : i + 1], self.tick_ms[i - 1 : i + 1]
        return ticks * max(0.0, y0 + (y1 - y0) * (lanes - x0) / (x1 - x0))


LatencyConfig = Annotated[
    ConstantLatency | DrawnLatency | TracedLatency | MeasuredLatency, Field(discriminator="kind")
]


def measure(
    work: Callable[[int], object], *, lanes: tuple[int, ...], ticks: int, repeats: int = 3,
    clock: Callable[[], float] = perf_counter,
) -> MeasuredLatency:
    """Time `work(lanes)`, which imagines `ticks` frames and waits for them: the median of `repeats` after a first."""
    tick_ms = []
    for count in lanes:
        work(count)  # the first carries warm-up
        spent = []
        for _ in range(repeats):
            began = clock()
            work(count)
            spent.append(1e3 * (clock() - began) / ticks)
        tick_ms.append(float(np.median(spent)))
    return MeasuredLatency(lanes=lanes, tick_ms=tuple(tick_ms))


@dataclass(slots=True)
class TimedCost:
    """A cost whose every call lets `latency` pass on `clock`."""

    cost: CostFn
    clock: SimulatedClock
    latency: Latency
    calls: int = 0

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Costs `[N]` of `[N, T, A]`."""
        costs = self.cost(actions)
        self.clock.advance(self.latency.ms(self.calls, *actions.shape[:2]))
        self.calls += 1
        return costs


def make_clock(mode: ClockMode) -> Callable[[], float]:
    """Seconds by that mode."""
    if mode == "simulated":
        return SimulatedClock()
    return perf_counter if mode == "wall" else lambda: 0.0
