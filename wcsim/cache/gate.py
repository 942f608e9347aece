"""What policies have in common as configuration: when a lane may skip at all, and what is measured to find out.

Each class adds one idea to the one before it; a policy's `Config` starts from the one that holds all it has.  Easy to
get wrong: a setting that a policy ignores must not be in its configuration, so start low.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from wcsim.errors import ConfigError
from wcsim.types import BlockStack, CachePolicy


class PolicyConfig(BaseModel, ABC):
    """A policy's numbers: immutable, no unknown keys, no converted types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: str

    @abstractmethod
    def build(self) -> CachePolicy:
        """The policy that these numbers describe."""


class StepConfig(PolicyConfig):
    """At which denoise steps a policy may skip."""

    warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of the denoise steps, rounded down, that run all blocks before the first skip."""
    min_warmup: int = Field(default=1, ge=1)
    """The least number of such steps, whatever the share."""
    force_last: bool = False
    """Whether the last denoise step runs all blocks."""

    @property
    def always_run(self) -> int:
        """Leading blocks that run at every step."""
        return 0

    @property
    def may_hit(self) -> bool:
        """Whether these numbers allow any skip, steps permitting."""
        return True

    def warm_steps(self, num_steps: int) -> int:
        """Leading denoise steps that run all blocks."""
        return max(self.min_warmup, int(self.warmup * num_steps))

    def is_forced(self, step: int, num_steps: int) -> bool:
        """Whether every lane runs all blocks at this step, so that nothing is measured."""
        return step < self.warm_steps(num_steps) or (self.force_last and step == num_steps - 1)

    def may_skip(self, skips_N: Tensor) -> Tensor:
        """Whether lanes that have skipped so many steps in a row may skip another: `[N]` bool."""
        return torch.ones_like(skips_N, dtype=torch.bool)

    def warn_if_idle(self, num_steps: int) -> None:
        """Warn where no step is left at which the policy could skip."""
        if all(self.is_forced(step, num_steps) for step in range(num_steps)):
            warnings.warn(
                f"cache {self.kind!r} has no effect: of {num_steps} denoise steps, {self.warm_steps(num_steps)} warm up"
                f"{' and the last is forced' if self.force_last else ''}; use more steps, or cache 'none'",
                stacklevel=3,
            )

    def warn_if_useless(self, num_steps: int) -> None:
        """Warn where a loop that could have skipped has skipped nothing."""
        if self.may_hit and not all(self.is_forced(step, num_steps) for step in range(num_steps)):
            warnings.warn(
                f"cache {self.kind!r} skipped nothing in {num_steps} denoise steps: no drift stayed below its "
                "threshold; raise that, or use cache 'none'",
                stacklevel=3,
            )

    def check_depth(self, depth: int) -> None:
        """Raise ConfigError where no block is left to skip."""
        if self.always_run >= depth:
            raise ConfigError(
                f"cache.probe is {self.always_run}, but of {depth} blocks it may take only 1 to {depth - 1}"
            )


class GateConfig(StepConfig):
    """A number against a threshold."""

    threshold: float = Field(ge=0)
    """Drift below which the deep blocks are skipped (tau_0); 0 never skips."""
    max_skips: int | None = Field(default=None, ge=1)
    """Most denoise steps that one lane skips in a row; null for no bound."""

    @property
    def may_hit(self) -> bool:
        """See `StepConfig`."""
        return self.threshold > 0

    def may_skip(self, skips_N: Tensor) -> Tensor:
        """See `StepConfig`."""
        return torch.ones_like(skips_N, dtype=torch.bool) if self.max_skips is None else skips_N < self.max_skips


class DriftConfig(GateConfig):
    """The number is measured on tokens."""

    mask_context: bool = False
    """Whether to measure on the generated frames only: clean context hardly moves and dilutes every mean."""

    def unmeasured(self, stack: BlockStack) -> int:
        """Leading tokens that no measurement reads."""
        return stack.context * stack.grid[1] * stack.grid[2] if self.mask_context else 0


class ProbeConfig(DriftConfig):
    """The tokens are those behind the first blocks, and say how far to extrapolate."""

    probe: int = Field(default=1, ge=1)
    """Blocks that always run; the drift is measured behind them."""
    warmup: float = Field(default=0.2, ge=0, le=1)
    gain_min: float = 0.0
    gain_max: float = 2.0
    """Bounds of the extrapolation gain: 1 repeats the last deep residual, 0 the one before."""

    @property
    def always_run(self) -> int:
        """See `StepConfig`."""
        return self.probe

    @model_validator(mode="after")
    def _check_gain(self) -> Self:
        if self.gain_min > self.gain_max:
            raise ValueError(f"gain_min {self.gain_min} is above gain_max {self.gain_max}")
        return self
