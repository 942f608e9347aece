"""What a server measures of itself, for `/metrics` and the page.

Easy to get wrong: percentiles are of the newest steps alone, so that they say how it goes now.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

NEWEST = 2_000


@dataclass(slots=True)
class Meter:
    """Counts since the start, and times of the newest steps in milliseconds."""

    steps: int = 0
    forwards: int = 0
    sessions: int = 0
    connections: int = 0
    opened: int = 0
    refused: int = 0
    malformed: int = 0
    waiting: int = 0
    hits: float = 0.0
    step_ms: deque[float] = field(default_factory=lambda: deque(maxlen=NEWEST))
    queue_ms: deque[float] = field(default_factory=lambda: deque(maxlen=NEWEST))

    def forward(self, lanes: int, ticks: int, step_ms: float, hit_rate: float) -> None:
        """One batch of `lanes`, each by `ticks`."""
        self.forwards += 1
        self.steps += lanes * ticks
        self.hits += hit_rate * lanes * ticks
        self.step_ms.append(step_ms)

    def summary(self) -> dict[str, float]:
        """Name to number, in a fixed order."""
        told: dict[str, float] = {name: getattr(self, name) for name in (
            "sessions", "connections", "waiting", "steps", "forwards", "opened", "refused", "malformed")}
        told["lanes_per_forward"] = self.steps / self.forwards if self.forwards else 0.0
        told["cache_hit_rate"] = self.hits / self.steps if self.steps else 0.0
        for name in ("step_ms", "queue_ms"):
            values = np.array(getattr(self, name) or [0.0])
            told |= {f"{name}_p50": float(np.percentile(values, 50)), f"{name}_p95": float(np.percentile(values, 95))}
        return told

    def text(self) -> str:
        """The same in Prometheus's text format."""
        return "".join(f"wcsim_serve_{name} {value:.6g}\n" for name, value in self.summary().items())
