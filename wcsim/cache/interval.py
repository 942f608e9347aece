"""Fixed interval: a full pass every so many steps, whatever happens; between them the deep residual is continued.

The baseline that a gate has to beat, because it costs nothing to decide.  Easy to get wrong: steps are counted from the
last full pass, so the rhythm starts where the warm-up ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from wcsim.cache.forecast import Forecast, check_order
from wcsim.cache.gate import StepConfig
from wcsim.cache.reuse import Axis, Gated, Moment, Predict, Split, State
from wcsim.types import Decision


class IntervalConfig(StepConfig):
    """What fixed rhythms share."""

    interval: int = Field(default=2, ge=1)
    """Every how many steps all blocks run; 1 never skips."""
    min_warmup: int = Field(default=2, ge=1)
    order: int = Field(default=1, ge=0)
    """Differences that the residual is continued by: 0 holds it, 1 goes on in a straight line."""
    axis: Axis = "step"
    """What the line is straight in: the number of steps, or the noise level."""

    @property
    def may_hit(self) -> bool:
        """See `StepConfig`."""
        return self.interval > 1

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        check_order(self.order, self.min_warmup)
        return self


@dataclass(frozen=True, slots=True)
class Interval(Gated[Forecast]):
    """The policy; `Decision.drift` is the number of steps since the last full pass, the threshold the interval."""

    class Config(IntervalConfig):
        kind: Literal["interval"] = "interval"
        order: int = Field(default=1, ge=0, le=1)

        def build(self) -> Interval:
            """The policy."""
            return Interval(self)

    config: IntervalConfig

    def _decide(self, now: Moment, state: State[Forecast], memory: Forecast) -> tuple[Decision, Predict]:
        decision = self._decision(state, now.elapsed.float(), self.config.interval)
        return decision, lambda: memory.added_to(now.tokens, now.since(self.config.axis))

    def _remember(self, now: Moment, memory: Forecast | None, split: Split, output: Tensor) -> Forecast:
        since = now.since(self.config.axis)
        return Forecast.after(memory, split, output - now.tokens, since, self.config.order)
