"""MagCache (Ma et al., arXiv 2506.09045): how residuals shrink from step to step, measured once, says when to skip.

Easy to get wrong: nothing is measured at run time, so every lane and every rollout skips the same steps; and the ratios
are those of one model at one number of steps, brought to another by taking the nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from wcsim.cache.forecast import Forecast
from wcsim.cache.gate import GateConfig
from wcsim.cache.reuse import Gated, Moment, Predict, Split, State
from wcsim.types import Decision


def nearest(ratios: tuple[float, ...], step: int, num_steps: int) -> float:
    """The ratio of a step in a loop of another length: first to first, last to last, the nearest between."""
    place = step * (len(ratios) - 1) / max(num_steps - 1, 1)
    return ratios[int(place + 0.5)]


@dataclass(frozen=True, slots=True)
class MagCache(Gated[Forecast]):
    """The policy.  Its drift sums |1 - product of the ratios since the last full pass| over the steps since then."""

    class Config(GateConfig):
        kind: Literal["magcache"] = "magcache"
        threshold: float = Field(default=0.06, ge=0)
        """Summed error of the magnitude below which the blocks are skipped; 0 never skips."""
        warmup: float = Field(default=0.2, ge=0, le=1)
        max_skips: int | None = Field(default=3, ge=1)
        ratios: tuple[float, ...] = Field(min_length=1, strict=False)
        """Mean over tokens of |r_s| / |r_{s-1}| per denoise step s, 1 at the first; `scripts/calibrate_cache.py`."""

        def build(self) -> MagCache:
            """The policy."""
            return MagCache(self)

    config: Config

    def _decide(self, now: Moment, state: State[Forecast], memory: Forecast) -> tuple[Decision, Predict]:
        back = range(now.step, now.step - int(state.skips.max()) - 1, -1)
        ratios = torch.tensor([nearest(self.config.ratios, step, state.num_steps) for step in back])
        error = (1 - ratios.cumprod(0)[state.skips]).abs()
        decision = self._decision(state, state.path + error, self.config.threshold)
        return decision, lambda: memory.added_to(now.tokens, now.elapsed)

    def _remember(self, now: Moment, memory: Forecast | None, split: Split, output: Tensor) -> Forecast:
        return Forecast.after(memory, split, output - now.tokens, now.elapsed)
