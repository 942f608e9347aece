"""Ours: a full pass whenever the noise level has fallen far enough, a straight line in the noise level in between.

Along the path of a rectified flow the deep residual is nearly linear in the noise level, so there is little to measure:
no probe runs, no number is calibrated, nothing is read from the device.  Easy to get wrong: denoise steps are uneven,
so a line over their number (`interval`, `taylorseer`) misses by twice as much, and equal runs of skips spend most of
the error where the steps are largest, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from wcsim.cache.forecast import Forecast, check_order
from wcsim.cache.gate import GateConfig
from wcsim.cache.reuse import Gated, Moment, Predict, Split, State
from wcsim.types import Decision


@dataclass(frozen=True, slots=True)
class Straight(Gated[Forecast]):
    """The policy; `Decision.drift` is how far the noise level has fallen since the last full pass."""

    class Config(GateConfig):
        kind: Literal["straight"] = "straight"
        threshold: float = Field(default=0.05, ge=0)
        """Fall of the noise level, of 1 in all, within which the blocks are skipped; 0 never skips."""
        min_warmup: int = Field(default=2, ge=1)
        order: int = Field(default=1, ge=0, le=2)
        """0 holds the residual, 1 continues it in a straight line, 2 in a curve."""

        @model_validator(mode="after")
        def _check_order(self) -> Self:
            check_order(self.order, self.min_warmup)
            return self

        def build(self) -> Straight:
            """The policy."""
            return Straight(self)

    config: Config

    def _decide(self, now: Moment, state: State[Forecast], memory: Forecast) -> tuple[Decision, Predict]:
        decision = self._decision(state, now.fallen, self.config.threshold)
        return decision, lambda: memory.added_to(now.tokens, now.fallen)

    def _remember(self, now: Moment, memory: Forecast | None, split: Split, output: Tensor) -> Forecast:
        return Forecast.after(memory, split, output - now.tokens, now.fallen, self.config.order)
