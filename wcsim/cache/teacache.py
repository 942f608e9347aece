"""TeaCache (Liu et al., arXiv 2411.19108): the change of the first block's modulated input, rescaled by a polynomial
that was fitted to predict the change of the output from it.

`InputGate` holds all but the rescaling, for caches that gate on what the first block reads.  Easy to get wrong: the
coefficients belong to one model; those of another turn the threshold into a number without meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from wcsim.cache.drift import relative_drift
from wcsim.cache.forecast import Forecast, check_order
from wcsim.cache.gate import DriftConfig
from wcsim.cache.reuse import Axis, Gated, Moment, Predict, Split, State
from wcsim.types import BlockStack, Decision


def polynomial(coefficients: tuple[float, ...], x_N: Tensor) -> Tensor:
    """Its value at every x; the coefficient of the highest power comes first."""
    value = x_N.new_zeros(x_N.shape)
    for coefficient in coefficients:
        value = value * x_N + coefficient
    return value


class InputConfig(DriftConfig):
    """What gates on the first block's input share."""

    force_last: bool = True
    order: int = Field(default=0, ge=0, le=1)
    """0 holds the residual, as published; 1 continues it in a straight line."""
    axis: Axis = "step"
    """What the line is straight in: the number of steps, or the noise level."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        check_order(self.order, self.min_warmup)
        return self


@dataclass(frozen=True, slots=True)
class Memory:
    """residual: of all blocks.  watched: `[N, L, D]` what the gate saw at the previous step."""

    residual: Forecast
    watched: Tensor


@dataclass(frozen=True, slots=True)
class InputGate(Gated[Memory]):
    """Summed relative change of the first block's input since the last full pass, against a threshold."""

    config: InputConfig

    def _watch(self, stack: BlockStack, tokens: Tensor, probe: Tensor) -> Tensor:
        return stack.modulated(tokens)

    def _rescale(self, change_N: Tensor) -> Tensor:
        """What one step's relative change adds to the sum."""
        return change_N

    def _decide(self, now: Moment, state: State[Memory], memory: Memory) -> tuple[Decision, Predict]:
        skip = self.config.unmeasured(now.stack)
        change = relative_drift(now.watched[:, skip:], memory.watched[:, skip:]).cpu()
        decision = self._decision(state, state.path + self._rescale(change), self.config.threshold)
        return decision, lambda: memory.residual.added_to(now.tokens, now.since(self.config.axis))

    def _remember(self, now: Moment, memory: Memory | None, split: Split, output: Tensor) -> Memory:
        before = memory.residual if memory else None
        since = now.since(self.config.axis)
        residual = Forecast.after(before, split, output - now.tokens, since, self.config.order)
        return Memory(residual, now.watched)


@dataclass(frozen=True, slots=True)
class TeaCache(InputGate):
    """The policy, in the form that computes the first and the last step and no more by decree."""

    class Config(InputConfig):
        kind: Literal["teacache"] = "teacache"
        threshold: float = Field(default=0.3, ge=0)
        """Sum of the rescaled changes below which the blocks are skipped; 0 never skips."""
        coefficients: tuple[float, ...] = Field(
            default=(271.156, -91.978, 2.2444, 2.0836, 0.14178), min_length=1, strict=False
        )
        """The polynomial, highest power first; by default the one published for Cosmos-Predict1."""

        def build(self) -> TeaCache:
            """The policy."""
            return TeaCache(self)

    config: Config

    def _rescale(self, change_N: Tensor) -> Tensor:
        # A distance: far from the changes that it was fitted to a polynomial turns negative, and would never compute.
        return polynomial(self.config.coefficients, change_N).abs()
