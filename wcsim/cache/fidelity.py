"""Fidelity as configuration: how many denoise steps, which solver, how much context, which cache.

One mapping becomes one value here, and the value travels whole.  Easy to get wrong: every field of
`wcsim.types.Fidelity` has its line in `FidelityConfig` and in `build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from wcsim.cache.none import NoCache
from wcsim.cache.policy import CacheConfig
from wcsim.config import StrictConfig, validate
from wcsim.errors import ConfigError
from wcsim.types import Decide, Fidelity, WorldSpec
from wcsim.world.checks import check_fidelity


class FidelityConfig(StrictConfig):
    """See `wcsim.types.Fidelity`; what is left out is the world's default."""

    renamed: ClassVar[Mapping[str, str]] = {"context_hold": "context_refresh"}
    steps: int | None = Field(None, ge=1)
    solver: str | None = None
    context: int | None = Field(None, ge=1)
    chunk: int | None = Field(None, ge=1)
    cache: CacheConfig = NoCache.Config()
    guidance: float = Field(0.0, ge=0)
    guidance_until: float = Field(0.0, ge=0, le=1)
    decide: Decide = "together"
    batched: bool = True
    context_refresh: float = Field(0.0, ge=0, le=1)

    def build(self, spec: WorldSpec) -> Fidelity:
        """The fidelity for a world; ConfigError where the world cannot do it."""
        parts = {name: getattr(self, name) for name in type(self).model_fields}
        named = {"steps": self.steps or spec.default_steps, "solver": self.solver or spec.default_solver}
        fidelity = Fidelity(**{**parts, **named, "cache": self.cache.build()})
        check_fidelity(spec, fidelity)
        return fidelity


def parse_fidelity(given: Mapping[str, Any] | FidelityConfig | None, *, cache: str = "none") -> FidelityConfig:
    """The configuration that a mapping stands for; None is an empty one.  cache: the preset where it names no cache.

    Raises ConfigError for an unknown key or a value that is not allowed, and says what is known.
    """
    if isinstance(given, FidelityConfig):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"fidelity is a mapping of {', '.join(FidelityConfig.model_fields)}, got "
                          f"{type(given).__name__}")
    try:
        return validate(FidelityConfig, {"cache": cache, **(given or {})})
    except ConfigError as error:
        raise ConfigError("\n".join(f"fidelity.{line}" for line in str(error).splitlines())) from None
