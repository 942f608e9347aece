"""FirstBlockCache (ParaAttention; also in diffusers): the residual of the first block against a threshold.

Easy to get wrong: nothing is summed; the first block's residual is compared with that of the last full pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from wcsim.cache.drift import relative_drift
from wcsim.cache.forecast import Forecast
from wcsim.cache.gate import DriftConfig
from wcsim.cache.reuse import Gated, Moment, Predict, Split, State
from wcsim.types import BlockStack, Decision


@dataclass(frozen=True, slots=True)
class Memory:
    """tail: what the other blocks added at the last full pass.  first: `[N, L, D]` what the first one added then."""

    tail: Forecast
    first: Tensor


@dataclass(frozen=True, slots=True)
class FirstBlock(Gated[Memory]):
    """The policy."""

    class Config(DriftConfig):
        kind: Literal["firstblock"] = "firstblock"
        threshold: float = Field(default=0.05, ge=0)
        """Relative change of the first block's residual below which the others are skipped; 0 never skips."""

        @property
        def always_run(self) -> int:
            """See `StepConfig`."""
            return 1

        def build(self) -> FirstBlock:
            """The policy."""
            return FirstBlock(self)

    config: Config

    def _watch(self, stack: BlockStack, tokens: Tensor, probe: Tensor) -> Tensor:
        return probe - tokens

    def _decide(self, now: Moment, state: State[Memory], memory: Memory) -> tuple[Decision, Predict]:
        skip = self.config.unmeasured(now.stack)
        drift = relative_drift(now.watched[:, skip:], memory.first[:, skip:]).cpu()
        return self._decision(state, drift, self.config.threshold), lambda: memory.tail.added_to(now.probe, now.elapsed)

    def _remember(self, now: Moment, memory: Memory | None, split: Split, output: Tensor) -> Memory:
        tail = Forecast.after(memory.tail if memory else None, split, output - now.probe, now.elapsed)
        return Memory(tail, split.update(memory.first, now.watched) if memory else now.watched)

    def _path(self, state: State[Memory], decision: Decision) -> Tensor:
        return torch.zeros_like(state.path)
