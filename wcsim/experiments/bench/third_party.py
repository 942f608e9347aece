"""Other people's caches in our benchmark, run as they come: the hooks of diffusers, and cache-dit's DBCache.

They take hold of modules, so each is given a `wcsim.experiments.bench.adapter.Model`, whose modules run the world's own
blocks: only the caching is theirs.  Easy to get wrong: they remember on those modules, so a model serves one denoise
loop at a time and begins each one reset, and they decide once for a whole batch.
"""

from __future__ import annotations

import importlib
import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from pydantic import Field
from torch import Tensor

from wcsim.cache.gate import PolicyConfig
from wcsim.cache.reuse import full_pass
from wcsim.errors import ConfigError, WcsimError
from wcsim.experiments.bench.adapter import Block, Model
from wcsim.types import BlockStack, CachePolicy, Decision

Origin = Literal["ours", "diffusers", "cache-dit"]


class ThirdPartyConfig(PolicyConfig):
    """A third party's cache by its own settings; `THIRD_PARTY` lists them."""

    opened: ClassVar[bool] = False

    @abstractmethod
    def enable(self, model: Model, num_steps: int) -> None:
        """Install it."""

    def restart(self, model: Model) -> None:
        """Forget the last denoise loop."""
        model.forget()

    def build(self) -> ThirdPartyCache:
        """The policy."""
        return ThirdPartyCache(self)


class FirstBlockConfig(ThirdPartyConfig):
    """diffusers' FirstBlockCache."""

    kind: Literal["firstblock (diffusers)"] = "firstblock (diffusers)"
    threshold: float = Field(default=0.05, ge=0)

    def enable(self, model: Model, num_steps: int) -> None:
        """See `ThirdPartyConfig`."""
        model.install(FirstBlockCacheConfig(threshold=self.threshold))


class MagCacheSettings(ThirdPartyConfig):
    """diffusers' MagCache; the ratios are those of our preset unless given."""

    kind: Literal["magcache (diffusers)"] = "magcache (diffusers)"
    threshold: float = Field(default=0.06, ge=0)
    max_skips: int = Field(default=3, ge=1)
    retention: float = Field(default=0.2, ge=0, le=1)
    ratios: tuple[float, ...] = Field(default=(), strict=False)

    def enable(self, model: Model, num_steps: int) -> None:
        """See `ThirdPartyConfig`."""
        from wcsim.cache import preset

        ratios = self.ratios or preset("magcache").ratios  # type: ignore[attr-defined]  # of this preset's kind
        model.install(MagCacheConfig(
            threshold=self.threshold, max_skip_steps=self.max_skips, retention_ratio=self.retention,
            num_inference_steps=num_steps, mag_ratios=torch.tensor(ratios),
        ))


class TaylorSeerSettings(ThirdPartyConfig):
    """diffusers' TaylorSeer, a series for every attention and feed-forward output as published.  Its default patterns
    name no module of Cosmos, and its default bfloat16 would be its largest error here."""

    opened: ClassVar[bool] = True
    kind: Literal["taylorseer (diffusers)"] = "taylorseer (diffusers)"
    interval: int = Field(default=5, ge=1)
    order: int = Field(default=1, ge=0)
    warmup: int = Field(default=3, ge=1)
    lite: bool = False
    """One series for the output of the last block instead."""

    def enable(self, model: Model, num_steps: int) -> None:
        """See `ThirdPartyConfig`."""
        model.install(TaylorSeerCacheConfig(
            cache_interval=self.interval, max_order=self.order, disable_cache_before_step=self.warmup,
            taylor_factors_dtype=torch.float32, use_lite_mode=self.lite,
            cache_identifiers=None if self.lite else [r"transformer_blocks\.\d+\.(attn1|attn2|ff)"],
        ))


class PabConfig(ThirdPartyConfig):
    """diffusers' Pyramid Attention Broadcast (arXiv 2408.12588): self-attention every `interval` steps."""

    opened: ClassVar[bool] = True
    kind: Literal["pab (diffusers)"] = "pab (diffusers)"
    interval: int = Field(default=2, ge=1)
    between: tuple[int, int] = Field(default=(100, 800), strict=False)
    """Thousandths of the noise level within which it may act."""

    def enable(self, model: Model, num_steps: int) -> None:
        """See `ThirdPartyConfig`."""
        model.install(PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=self.interval, spatial_attention_timestep_skip_range=self.between,
            current_timestep_callback=model.timestep,
        ))


class FasterCacheSettings(ThirdPartyConfig):
    """The attention half of diffusers' FasterCache (arXiv 2410.19355); the other half needs two branches per batch."""

    opened: ClassVar[bool] = True
    kind: Literal["fastercache (diffusers)"] = "fastercache (diffusers)"
    interval: int = Field(default=2, ge=1)
    below: int = Field(default=681, ge=0)
    """Thousandths of the noise level below which it acts."""
    weight: float = 0.5

    def enable(self, model: Model, num_steps: int) -> None:
        """See `ThirdPartyConfig`."""
        model.install(FasterCacheConfig(
            spatial_attention_block_skip_range=self.interval, spatial_attention_timestep_skip_range=(-1, self.below),
            attention_weight_callback=lambda _: self.weight, current_timestep_callback=model.timestep,
            is_guidance_distilled=True,
        ))


class DBCacheSettings(ThirdPartyConfig):
    """cache-dit's DBCache with its own defaults, except that the gate is one block deep: eight are its default and all
    that our world has."""

    kind: Literal["dbcache (cache-dit)"] = "dbcache (cache-dit)"
    threshold: float = Field(default=0.08, ge=0)
    front: int = Field(default=1, ge=1)
    warmup: int = Field(default=8, ge=1)

    def enable(self, model: Model, num_steps: int) -> None:
        """See `ThirdPartyConfig`."""
        theirs: Any = importlib.import_module("cache_dit")
        adapter = theirs.BlockAdapter(transformer=model, blocks=model.transformer_blocks,
                                      forward_pattern=theirs.ForwardPattern.Pattern_3, has_separate_cfg=False)
        theirs.enable_cache(adapter, cache_config=theirs.DBCacheConfig(
            Fn_compute_blocks=self.front, Bn_compute_blocks=0, max_warmup_steps=self.warmup,
            residual_diff_threshold=self.threshold, num_inference_steps=num_steps,
        ))

    def restart(self, model: Model) -> None:
        """See `ThirdPartyConfig`."""
        importlib.import_module("cache_dit").refresh_context(model)


THIRD_PARTY: dict[tuple[str, str], type[ThirdPartyConfig]] = {
    ("diffusers", "firstblock"): FirstBlockConfig,
    ("diffusers", "magcache"): MagCacheSettings,
    ("diffusers", "taylorseer"): TaylorSeerSettings,
    ("diffusers", "pab"): PabConfig,
    ("diffusers", "fastercache"): FasterCacheSettings,
    ("cache-dit", "dbcache"): DBCacheSettings,
}
"""Origin and policy to configuration."""


def third_party_config(origin: str, policy: str, settings: dict[str, Any]) -> ThirdPartyConfig:
    """The configuration of a third party's cache; ConfigError names the known ones."""
    if (origin, policy) not in THIRD_PARTY:
        known = ", ".join(name for whose, name in THIRD_PARTY if whose == origin)
        raise ConfigError(f"{origin} has no cache {policy!r} here; known: {known or 'none'}")
    return THIRD_PARTY[origin, policy].model_validate(settings)


def missing(origin: str) -> str | None:
    """Why caches of this origin cannot run here; None if they can."""
    if origin == "cache-dit" and find_spec("cache_dit") is None:
        return "cache-dit is not installed; it comes with the extra: pip install 'wcsim[bench]'"
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notes that they log about every setting of every model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@dataclass(frozen=True, slots=True)
class Loop:
    """The state of one denoise loop of so many steps.  model: on whose modules all is remembered.  turn: which of its
    loops this is."""

    num_steps: int
    model: Model | None = None
    turn: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class ThirdPartyCache(CachePolicy):
    """The policy.  Unlike ours it is no value: its models remember."""

    config: ThirdPartyConfig
    models: dict[tuple[int, int], Model] = field(default_factory=dict)

    def init(self, num_lanes: int, num_steps: int) -> Loop:
        """A fresh loop; its first step ends any other."""
        del num_lanes
        return Loop(num_steps)

    def forward(self, stack: BlockStack, step: int, state: Loop) -> tuple[Tensor, Loop, Decision]:
        """The velocity `[N, b, k, C, h, w]`; a hit is a step at which any module was left out."""
        del step
        if stack.branches > 1:
            raise ConfigError(f"{self.config.kind} decides for one branch; run it without guidance")
        state = state if state.model else self._begin(stack.depth, state.num_steps)
        assert state.model is not None
        model = state.model
        if model.site.turn != state.turn:
            raise WcsimError(f"{self.config.kind} serves one denoise loop at a time, and another one has begun")
        output = model.step(stack, stack.tokens)
        hit = torch.full((stack.lanes,), model.site.ran < model.units)
        return stack.velocity(output), state, replace(full_pass(stack.lanes), hit=hit)

    def _begin(self, depth: int, num_steps: int) -> Loop:
        """A loop on the model for this depth and number of steps, reset."""
        if (depth, num_steps) not in self.models:
            TransformerBlockRegistry.register(Block, TransformerBlockMetadata(return_hidden_states_index=0))
            self.models[depth, num_steps] = Model(depth, opened=self.config.opened)
            with quiet():
                self.config.enable(self.models[depth, num_steps], num_steps)
        model = self.models[depth, num_steps]
        self.config.restart(model)
        model.site.turn += 1
        return Loop(num_steps, model, model.site.turn)
