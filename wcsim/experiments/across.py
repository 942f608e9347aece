"""Reuse across rollout steps: what the blocks added at the same denoise step of the chunk before.

The one axis left where four steps leave nothing to skip along the loop.  Noise differs from frame to frame, so the
residual itself is another one; `change` takes from the chunk before only how it went on from step to step.  Easy to get
wrong: this policy remembers between loops, which no other may, and a state of a world does not hold it; so it is an
experiment, serves one rollout, and has to be built anew for the next.

Shape suffixes: N lanes, L tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from wcsim.cache.gate import StepConfig
from wcsim.cache.reuse import Gated, Moment, Predict, Split, State, full_pass
from wcsim.types import BlockStack, Decision


@dataclass(slots=True)
class Past:
    """residuals: `[N, L, D]` per denoise step of the loop before, empty at first.  loops: how many have ended."""

    residuals: tuple[Tensor, ...] = ()
    loops: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """residuals: `[N, L, D]` of every step so far, as computed or as used.  full: the last step that was computed."""

    residuals: tuple[Tensor, ...]
    full: int


@dataclass(frozen=True, slots=True, eq=False)
class Across(Gated[Memory]):
    """The policy.  Chunk by chunk other steps are skipped, so that what is reused is never older than `interval`
    chunks."""

    class Config(StepConfig):
        kind: Literal["across"] = "across"
        form: Literal["same", "change"] = "change"
        """What is taken from the chunk before: the residual, or its change since the last full pass of this loop."""
        interval: int = Field(default=2, ge=1)
        """Every how many steps all blocks run, once there is a chunk before; 1 never skips."""

        @property
        def may_hit(self) -> bool:
            """Without a chunk before nothing is skipped, and that is no news."""
            return False

        def build(self) -> Across:
            """The policy, for one rollout."""
            return Across(self)

    config: Config
    past: Past = field(default_factory=Past)

    def forward(
        self, stack: BlockStack, step: int, state: State[Memory]
    ) -> tuple[Tensor, State[Memory], Decision]:
        """As every policy; the last step hands what it remembers to the next loop."""
        velocity, after, decision = Gated.forward(self, stack, step, state)
        if step == state.num_steps - 1:
            assert after.memory is not None
            self.past.residuals, self.past.loops = after.memory.residuals, self.past.loops + 1
        return velocity, after, decision

    def _decide(self, now: Moment, state: State[Memory], memory: Memory) -> tuple[Decision, Predict]:
        before = self.past.residuals
        alike = len(before) == state.num_steps and before[now.step].shape == now.tokens.shape
        skips = alike and (now.step + self.past.loops) % self.config.interval > 0
        decision = replace(full_pass(len(now.tokens)), hit=torch.full((len(now.tokens),), skips))
        return decision, lambda: self._predict(now, memory)

    def _predict(self, now: Moment, memory: Memory) -> Tensor:
        before = self.past.residuals
        residual = before[now.step]
        if self.config.form == "change":
            residual = residual - before[memory.full] + memory.residuals[memory.full]
        return now.tokens + residual

    def _remember(self, now: Moment, memory: Memory | None, split: Split, output: Tensor) -> Memory:
        residuals = (*(memory.residuals if memory else ()), output - now.tokens)
        return Memory(residuals, now.step if split.any_miss or memory is None else memory.full)

    def _path(self, state: State[Memory], decision: Decision) -> Tensor:
        return state.path

