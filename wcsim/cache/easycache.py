"""EasyCache (Zhou et al., arXiv 2507.02860): how fast the output changed with the input predicts how much it will.

Published, input and output are the latents that enter the net and the velocity that leaves it, and their difference is
reused.  Here they are the tokens that enter the first block and leave the last, so that the final layer still runs with
the present noise level and action, as for every policy that continues what blocks add.  A lane decides for itself;
published, one rate serves the batch.  Easy to get wrong: the rate spans from full pass to full pass, the change of the
input one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from wcsim.cache.drift import mean_size
from wcsim.cache.forecast import Forecast
from wcsim.cache.gate import DriftConfig
from wcsim.cache.reuse import Gated, Moment, Predict, Split, State
from wcsim.types import Decision


@dataclass(frozen=True, slots=True)
class Memory:
    """residual: of all blocks.  last, before: `[N, L, D]` tokens at the last full pass, and at the previous step.
    rate: `[N]` change of the output per change of the tokens between the last two full passes; NaN before."""

    residual: Forecast
    last: Tensor
    before: Tensor
    rate: Tensor


@dataclass(frozen=True, slots=True)
class EasyCache(Gated[Memory]):
    """The policy.  Its drift sums rate |x_s - x_{s-1}| / |output at the last full pass|, all means of sizes."""

    class Config(DriftConfig):
        kind: Literal["easycache"] = "easycache"
        threshold: float = Field(default=0.05, ge=0)
        """Summed relative change predicted for the output below which the blocks are skipped; 0 never skips."""
        min_warmup: int = Field(default=5, ge=2)
        force_last: bool = True

        def build(self) -> EasyCache:
            """The policy."""
            return EasyCache(self)

    config: Config

    def _decide(self, now: Moment, state: State[Memory], memory: Memory) -> tuple[Decision, Predict]:
        skip = self.config.unmeasured(now.stack)
        moved = mean_size((now.tokens.float() - memory.before.float())[:, skip:])
        predicted = (memory.rate * moved / mean_size(self._output(memory)[:, skip:])).cpu()
        decision = self._decision(state, state.path + predicted, self.config.threshold)
        return decision, lambda: memory.residual.added_to(now.tokens, now.elapsed)

    def _output(self, memory: Memory) -> Tensor:
        """That of the last full pass."""
        return memory.residual.added_to(memory.last, torch.zeros(1))

    def _remember(self, now: Moment, memory: Memory | None, split: Split, output: Tensor) -> Memory:
        residual = Forecast.after(memory.residual if memory else None, split, output - now.tokens, now.elapsed)
        if memory is None:
            return Memory(residual, now.tokens, now.tokens, torch.full((len(output),), torch.nan, device=output.device))
        if not split.any_miss:
            return Memory(residual, memory.last, now.tokens, memory.rate)
        skip = self.config.unmeasured(now.stack)
        changed = mean_size((output.float() - self._output(memory).float())[:, skip:])
        moved = mean_size((now.tokens.float() - memory.last.float())[:, skip:])
        rate = split.update(memory.rate, changed / moved)
        return Memory(residual, split.update(memory.last, now.tokens), now.tokens, rate)
