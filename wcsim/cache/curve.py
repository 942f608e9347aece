"""Ours: a full pass whenever the noise level has fallen far enough, a smooth curve over the noise level in between.

Along the path of a rectified flow the deep residual bends slowly with the noise level, so there is little to measure:
no probe runs, no number is calibrated, nothing is read from the device.  Easy to get wrong: denoise steps are uneven,
so what is drawn over their number (`interval`, `taylorseer`) misses by more, and equal runs of skips spend most of
the error where the steps are largest, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from torch import Tensor

from wcsim.cache.gate import GateConfig
from wcsim.cache.polynomial import MAX_ORDER, Polynomial
from wcsim.cache.reuse import Gated, Moment, Predict, Split, State
from wcsim.types import Decision


@dataclass(frozen=True, slots=True)
class Curve(Gated[Polynomial]):
    """The policy; `Decision.drift` is how far the noise level has fallen since the last full pass."""

    class Config(GateConfig):
        kind: Literal["curve"] = "curve"
        threshold: float = Field(default=0.08, ge=0)
        """Fall of the noise level, of 1 in all, within which the blocks are skipped; 0 never skips."""
        min_warmup: int = Field(default=2, ge=1)
        order: int = Field(default=2, ge=0, le=MAX_ORDER)
        """Of the polynomial through the last full passes: 0 holds the residual, 1 is a line.  Lower until there have
        been enough of them."""

        def build(self) -> Curve:
            """The policy."""
            return Curve(self)

    config: Config

    def _decide(self, now: Moment, state: State[Polynomial], memory: Polynomial) -> tuple[Decision, Predict]:
        decision = self._decision(state, now.fallen, self.config.threshold)
        return decision, lambda: memory.added_to(now.tokens, now.fallen)

    def _remember(self, now: Moment, memory: Polynomial | None, split: Split, output: Tensor) -> Polynomial:
        return Polynomial.after(memory, split, output - now.tokens, now.fallen, self.config.order)
