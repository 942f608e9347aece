"""Ours: a full pass whenever the noise level has fallen far enough, the velocity on a smooth curve between them.

Along the path of a rectified flow the velocity bends slowly with the noise level, so there is little to measure: no
probe runs, no number is calibrated, nothing is read from the device, and a step that is skipped asks the transformer
for nothing at all, neither embedding nor last layer.  It bends faster the less noise is left, which is why levels are
taken to a `power` below 1.  Easy to get wrong: denoise steps are uneven, so what is drawn over their number
(`interval`, `taylorseer`) misses by more, and equal runs of skips spend most of the error where the steps are largest,
at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from wcsim.cache.gate import GateConfig
from wcsim.cache.polynomial import MAX_ORDER, Polynomial
from wcsim.cache.reuse import full_pass
from wcsim.types import BlockStack, CachePolicy, Decision


@dataclass(frozen=True, slots=True)
class State:
    """What one denoise loop remembers, for all lanes alike.

    level: noise level at the last full pass, to the power.  skips, hits: steps skipped since then, and in all.
    velocity: `[N, b, k, C, h, w]` over the levels, None before the first step.
    """

    num_steps: int
    level: float = 0.0
    skips: int = 0
    hits: int = 0
    velocity: Polynomial | None = None


@dataclass(frozen=True, slots=True)
class Curve(CachePolicy):
    """The policy; `Decision.drift` is how far the noise level, to the power, has fallen since the last full pass."""

    class Config(GateConfig):
        kind: Literal["curve"] = "curve"
        threshold: float = Field(default=0.1, ge=0)
        """Fall of the noise level to the power, of 1 in all, within which the transformer is skipped; 0 never skips."""
        power: float = Field(default=0.5, gt=0, le=1)
        """Of the noise level: 1 counts all falls alike, less counts those near the end for more."""
        min_warmup: int = Field(default=2, ge=1)
        order: int = Field(default=2, ge=0, le=MAX_ORDER)
        """Of the polynomial through the last full passes: 0 holds the velocity, 1 is a line.  Lower until there have
        been enough of them."""

        def build(self) -> Curve:
            """The policy."""
            return Curve(self)

    config: Config

    def init(self, num_lanes: int, num_steps: int) -> State:
        """Fresh state for one denoise loop; warns where no step could be skipped."""
        del num_lanes
        self.config.warn_if_idle(num_steps)
        return State(num_steps)

    def forward(self, stack: BlockStack, step: int, state: State) -> tuple[Tensor, State, Decision]:
        """The velocity `[N, b, k, C, h, w]`, float32 where it is extrapolated."""
        config, known = self.config, state.velocity
        hit, fallen, after = self._decide(step, stack.sigma, state)
        decision = full_pass(stack.lanes)
        if not config.is_forced(step, state.num_steps):
            decision = replace(decision, hit=torch.full_like(decision.hit, hit),
                               drift=torch.full_like(decision.drift, fallen),
                               threshold=torch.full_like(decision.drift, config.threshold))
        if hit and known is not None:
            return known.ahead(fallen), after, decision
        velocity = stack.velocity(stack.run(stack.tokens, 0, stack.depth))
        if step == state.num_steps - 1 and not after.hits:
            config.warn_if_useless(state.num_steps)
        return velocity, replace(after, velocity=Polynomial.after(known, velocity, fallen, config.order)), decision

    def static_schedule(self, sigmas: Sequence[float]) -> Sequence[int]:
        """See `wcsim.types.CachePolicy`."""
        state, steps = State(len(sigmas)), list[int]()
        for step, sigma in enumerate(sigmas):
            hit, _, state = self._decide(step, sigma, state)
            steps += [] if hit else [step]
        return steps

    def _decide(self, step: int, sigma: float, state: State) -> tuple[bool, float, State]:
        """Whether this step is skipped, how far the level has fallen since the last full pass, and the state after it
        but for the velocity."""
        level = sigma**self.config.power
        fallen = state.level - level
        if self.config.is_forced(step, state.num_steps) or not self._skips(step, fallen, state):
            return False, fallen, replace(state, level=level, skips=0)
        return True, fallen, replace(state, skips=state.skips + 1, hits=state.hits + 1)

    def _skips(self, step: int, fallen: float, state: State) -> bool:
        """Whether this step, which may be skipped, is."""
        del step
        return fallen < self.config.threshold and bool(self.config.may_skip(torch.tensor(state.skips)))
