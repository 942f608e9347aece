"""DiCache (Bu et al., arXiv 2508.17356): accumulated drift of a shallow probe against a fixed threshold.

WorldCache grew out of it.  Easy to get wrong: the gain is a ratio of distances, by default kept at 1 or more, so it
leans beyond the last residual and never back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from wcsim.cache.drift import relative_drift
from wcsim.cache.gate import ProbeConfig
from wcsim.cache.reuse import Gated, Moment, Predict, Split, State
from wcsim.cache.window import Window, distance_gain, extrapolate, push
from wcsim.types import Decision


@dataclass(frozen=True, slots=True)
class Memory:
    """p_ref: `[N, L, D]` the probe of the previous step."""

    window: Window
    p_ref: Tensor


@dataclass(frozen=True, slots=True)
class DiCache(Gated[Memory]):
    """The policy, with decisions and gains per lane where the authors' code takes one for the batch."""

    class Config(ProbeConfig):
        kind: Literal["dicache"] = "dicache"
        threshold: float = Field(default=0.08, ge=0)
        """Summed relative change of the probe below which the deep blocks are skipped; 0 never skips."""
        gain_min: float = 1.0

        def build(self) -> DiCache:
            """The policy."""
            return DiCache(self)

    config: Config

    def _decide(self, now: Moment, state: State[Memory], memory: Memory) -> tuple[Decision, Predict]:
        config, window, skip = self.config, memory.window, self.config.unmeasured(now.stack)
        z, p, p_ref, q1, q2 = (x[:, skip:] for x in (now.tokens, now.probe, memory.p_ref, window.q1, window.q2))
        gain = distance_gain(p - z, q1, q2, config.gain_min, config.gain_max)
        drift, gains = torch.stack([relative_drift(p, p_ref), gain]).cpu()  # the only host read of a denoise step
        decision = self._decision(state, state.path + drift, config.threshold, gains)
        return decision, lambda: extrapolate(now.tokens, window, gain)

    def _remember(self, now: Moment, memory: Memory | None, split: Split, output: Tensor) -> Memory:
        return Memory(push(memory.window if memory else None, split, now.tokens, now.probe, output), now.probe)
