"""What probe-gated policies share: their common settings, and who runs the deep blocks once it is decided.

Easy to get wrong: an upload waits for everything queued on the device, so what a decision sends back (`Split`) is
uploaded right after the one host read, before the deep blocks are queued.

Shape suffixes: N lanes, B a sub-batch of lanes, L tokens, D width.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import nan
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from wcsim.errors import ConfigError
from wcsim.types import BlockStack, CachePolicy, Decision


class PolicyConfig(BaseModel, ABC):
    """A policy's numbers: immutable, no unknown keys, no converted types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: str

    @abstractmethod
    def build(self) -> CachePolicy:
        """The policy that these numbers describe."""


class GateConfig(PolicyConfig):
    """When a policy that watches the first blocks may skip the others."""

    threshold: float = Field(ge=0)
    """Drift below which the deep blocks are skipped (tau_0); 0 never skips."""
    probe: int = Field(default=1, ge=1)
    """Blocks that always run; the drift is measured behind them."""
    warmup: float = Field(default=0.2, ge=0, le=1)
    """Share of the denoise steps, rounded down, that run all blocks before the first skip."""
    min_warmup: int = Field(default=1, ge=1)
    """The least number of such steps, whatever the share."""
    force_last: bool = False
    """Whether the last denoise step runs all blocks."""
    max_skips: int | None = Field(default=None, ge=1)
    """Most denoise steps that one lane skips in a row; null for no bound."""
    mask_context: bool = False
    """Whether to measure on the generated frames only: clean context hardly moves and dilutes every mean."""
    gain_min: float = 0.0
    gain_max: float = 2.0
    """Bounds of the extrapolation gain: 1 repeats the last deep residual, 0 the one before."""

    @model_validator(mode="after")
    def _check_gain(self) -> Self:
        if self.gain_min > self.gain_max:
            raise ValueError(f"gain_min {self.gain_min} is above gain_max {self.gain_max}")
        return self

    def warm_steps(self, num_steps: int) -> int:
        """Leading denoise steps that run all blocks."""
        return max(self.min_warmup, int(self.warmup * num_steps))

    def is_forced(self, step: int, num_steps: int) -> bool:
        """Whether every lane runs all blocks at this step, so that nothing is measured."""
        return step < self.warm_steps(num_steps) or (self.force_last and step == num_steps - 1)

    def may_skip(self, skips_N: Tensor) -> Tensor:
        """Whether lanes that have skipped so many steps in a row may skip another: `[N]` bool."""
        return torch.ones_like(skips_N, dtype=torch.bool) if self.max_skips is None else skips_N < self.max_skips

    def warn_if_idle(self, num_steps: int) -> None:
        """Warn where no step is left at which the policy could skip."""
        if all(self.is_forced(step, num_steps) for step in range(num_steps)):
            warnings.warn(
                f"cache {self.kind!r} has no effect: of {num_steps} denoise steps, {self.warm_steps(num_steps)} warm up"
                f"{' and the last is forced' if self.force_last else ''}; use more steps, or cache 'none'",
                stacklevel=3,
            )

    def check_depth(self, depth: int) -> None:
        """Raise ConfigError where the probe leaves no block to skip."""
        if self.probe >= depth:
            raise ConfigError(f"cache.probe is {self.probe}, but of {depth} blocks it may take only 1 to {depth - 1}")

    def unmeasured(self, stack: BlockStack) -> int:
        """Leading tokens that no measurement looks at."""
        return stack.context * stack.grid[1] * stack.grid[2] if self.mask_context else 0


def full_pass(num_lanes: int) -> Decision:
    """The decision of a step at which all lanes run all blocks and nothing is measured."""
    unknown = torch.full((num_lanes,), nan)
    return Decision(torch.zeros(num_lanes, dtype=torch.bool), unknown, unknown, unknown)


class Split:
    """Which lanes of a batch reuse (hit) and which compute (miss), ready for use on `device`.

    hit: `[N]` bool on the host.
    """

    def __init__(self, hit: Tensor, device: torch.device) -> None:
        self.any_hit, self.any_miss = bool(hit.any()), not bool(hit.all())
        mixed = self.any_hit and self.any_miss
        self._miss_B = (~hit).nonzero().flatten().to(device) if mixed else None
        self._keep_N11 = hit[:, None, None].to(device) if mixed else None

    def complete(self, stack: BlockStack, probe_NLD: Tensor, first: int, predict: Callable[[], Tensor]) -> Tensor:
        """Output `[N, L, D]`: misses resume from the probe at block `first`, hits take `predict()`."""
        if not self.any_hit:
            return stack.run(probe_NLD, first, stack.depth)
        output = predict()
        if self._miss_B is None:
            return output
        deep_BLD = stack.run(probe_NLD[self._miss_B], first, stack.depth, lanes=self._miss_B)
        return output.index_copy(0, self._miss_B, deep_BLD)

    def renew(self, old_NLD: Tensor, new_NLD: Tensor) -> Tensor:
        """`old` for hits, `new` for misses; copies only where both occur."""
        if self._keep_N11 is None:
            return old_NLD if self.any_hit else new_NLD
        return torch.where(self._keep_N11, old_NLD, new_NLD)
