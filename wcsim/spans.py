"""Time per named span.  On CUDA the edges are events on the stream, read once at the end: no synchronisation inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch


class Spans:
    """Accumulates milliseconds per span name."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._cuda = torch.device(device).type == "cuda"
        self._ms: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body under `name`; spans of one name add up."""
        if self._cuda:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            try:
                yield
            finally:
                end.record()
                self._events.append((name, start, end))
            return
        began = perf_counter()
        try:
            yield
        finally:
            self._ms[name] = self._ms.get(name, 0.0) + 1e3 * (perf_counter() - began)

    def ms(self) -> dict[str, float]:
        """Milliseconds per span so far; waits for the device."""
        if self._events:
            torch.cuda.synchronize()
            for name, start, end in self._events:
                self._ms[name] = self._ms.get(name, 0.0) + start.elapsed_time(end)
            self._events.clear()
        return dict(self._ms)
