"""Fidelity as configuration: how many denoise steps, which solver, how much context, which cache."""

from __future__ import annotations

from pydantic import Field

from wcsim.cache.none import NoCache
from wcsim.cache.policy import CacheConfig
from wcsim.config import StrictConfig
from wcsim.types import Decide, Fidelity, WorldSpec
from wcsim.world.checks import check_fidelity


class FidelityConfig(StrictConfig):
    """See `wcsim.types.Fidelity`; what is left out is the world's default."""

    steps: int | None = Field(None, ge=1)
    solver: str = "euler"
    context: int | None = Field(None, ge=1)
    chunk: int | None = Field(None, ge=1)
    cache: CacheConfig = NoCache.Config()
    guidance: float = Field(0.0, ge=0)
    guidance_until: float = Field(0.0, ge=0, le=1)
    decide: Decide = "together"
    context_refresh: float = Field(0.0, ge=0, le=1)

    def build(self, spec: WorldSpec) -> Fidelity:
        """The fidelity for a world; ConfigError where the world cannot do it."""
        steps = self.steps or spec.default_steps
        fidelity = Fidelity(steps, self.cache.build(), self.solver, self.context, self.chunk, self.guidance,
                            self.decide, guidance_until=self.guidance_until, context_refresh=self.context_refresh)
        check_fidelity(spec, fidelity)
        return fidelity
