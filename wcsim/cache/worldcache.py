"""WorldCache (Nawaz et al., arXiv 2603.22286): skip the deep blocks while the first blocks say that little has changed.

Where the paper's text and its authors' code disagree, a setting of `WorldCache.Config` picks the form; the equations
are in `drift` and `window`.  Easy to get wrong: `step` counts denoise steps of one loop, and "last" means the
last step at which this lane ran all blocks, which is not the previous step.

Shape suffixes: N lanes, L tokens, T frames, P tokens per frame, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from wcsim.cache.drift import (
    Saliency,
    adaptive_threshold,
    budget_growth,
    rate_factor,
    relative_drift,
    saliency_weights,
    schedule,
    velocity,
)
from wcsim.cache.gate import ProbeConfig
from wcsim.cache.reuse import Gated, Moment, Predict, Split, State
from wcsim.cache.window import Window, deep_residual, distance_gain, osi_gain, push, unexplained
from wcsim.types import BlockStack, Decision


@dataclass(frozen=True, slots=True)
class Memory:
    """z_ref, p_ref: tokens and probe that motion and drift are measured from; None where nothing reads them.  Only
    `window.r1` and `r2` hold all tokens, whatever else is kept of them leaves out those that are never read."""

    window: Window
    z_ref: Tensor | None
    p_ref: Tensor | None


@dataclass(frozen=True, slots=True)
class WorldCache(Gated[Memory]):
    """The policy.  The path of its state: drift since the last full pass (0 unless accumulated), or the error spent."""

    class Config(ProbeConfig):
        """Defaults are our recommendation, the preset `worldcache`."""

        kind: Literal["worldcache"] = "worldcache"
        threshold: float = Field(default=0.1, ge=0)
        """tau_0: drift below which a lane at rest skips at step 0; 0 never skips."""
        warmup: float = Field(default=0.0, ge=0, le=1)
        min_warmup: int = Field(default=2, ge=1)
        force_last: bool = True
        max_skips: int | None = Field(default=3, ge=1)
        mask_context: bool = True
        drift: Literal["accumulate", "anchor", "literal"] = "accumulate"
        """Path length of the probe since the last full pass; or its distance from there; or its last step alone."""
        velocity: Literal["anchor", "previous"] = "anchor"
        """Motion since the last full pass per elapsed step; or since the previous step, computed or not."""
        alpha: float = Field(default=2.0, ge=0)
        """How much motion lowers the threshold (CFC); 0 turns this off."""
        beta_s: float = Field(default=0.12, ge=0)
        """How much salient tokens count (SWD); 0 weighs all alike."""
        saliency: Saliency = "token"
        """What is salient, see `wcsim.cache.drift.saliency`."""
        normalise_weights: bool = True
        """Whether the weights of the tokens average to one."""
        beta_d: float | Literal["budget"] = 1.0
        """How much the threshold grows along the steps (ATS), at least 0, which turns it off; `budget` derives it from
        their number."""
        reuse: Literal["osi", "distance", "hold"] = "osi"
        """How far a hit goes along the last two residuals: least squares (OSI), DiCache's ratio, or to the last one."""
        gain: Literal["lane", "frame", "token"] = "lane"
        """What has a gain of its own; `Decision.gain` is their mean."""
        rate: float | None = Field(default=None, ge=0, lt=1)
        """Share of the gated steps that every lane is steered to skip, by moving its threshold; null leaves that be."""
        error: float | None = Field(default=None, gt=0)
        """A budget in place of drift and threshold: the share of the probe that extrapolation leaves unexplained, as a
        mean over the noise levels that the sampler crosses, computed steps counting 0; null for the gate above."""

        @model_validator(mode="after")
        def _check_choices(self) -> Self:
            if self.beta_d != "budget" and self.beta_d < 0:
                raise ValueError(f"beta_d {self.beta_d} is negative; allowed: 0 and above, or 'budget'")
            if self.rate is not None and self.error is not None:
                raise ValueError("rate and error both replace the threshold; set one of them")
            return self

        @property
        def may_hit(self) -> bool:
            """See `StepConfig`."""
            return self.error is not None or self.threshold > 0

        def unread(self, stack: BlockStack) -> int:
            """Leading tokens whose probe residuals are never read: those not measured, unless each has its own gain."""
            return self.unmeasured(stack) if self.gain == "lane" else 0

        def growth(self, step: int, num_steps: int) -> float:
            """The factor of the threshold at a step."""
            beta_d = budget_growth(num_steps) if self.beta_d == "budget" else self.beta_d
            return schedule(step, num_steps, beta_d)

        def build(self) -> WorldCache:
            """The policy."""
            return WorldCache(self)

    config: Config

    def _decide(self, now: Moment, state: State[Memory], memory: Memory) -> tuple[Decision, Predict]:
        config, window, skip = self.config, memory.window, self.config.unmeasured(now.stack)
        unread, end = config.unread(now.stack), now.tokens.shape[1] - now.stack.tail
        residuals = (now.probe[:, unread:end] - now.tokens[:, unread:end], window.q1, window.q2)
        q, q1, q2 = (x[:, skip - unread :] for x in residuals)
        if config.gain == "lane":
            gain = measured = self._gain(q, q1, q2)[:, None]
        else:
            parts = now.stack.grid[0] if config.gain == "frame" else end
            gain = self._gain(*(x.unflatten(1, (parts, -1)) for x in residuals))
            measured = gain[:, skip * parts // end :]
            gain = with_tail(gain, end // parts, now.stack.tail)
        if config.error is None:
            decision = self._by_drift(now, state, memory, measured.mean(1))
        else:
            decision = self._by_error(now, state, unexplained(q, q1, q2, measured), measured.mean(1))
        return decision, lambda: self._predict(now, memory, gain)

    def _gain(self, q: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
        config = self.config
        if config.reuse == "hold":
            return torch.ones(q.shape[:-2], device=q.device)
        solve = osi_gain if config.reuse == "osi" else distance_gain
        return solve(q, q1, q2, config.gain_min, config.gain_max)

    def _by_drift(self, now: Moment, state: State[Memory], memory: Memory, gain: Tensor) -> Decision:
        """Weighted drift against the threshold that motion, schedule and rate leave (eq. 1 to 6, 13)."""
        config, stack, skip = self.config, now.stack, self.config.unmeasured(now.stack)
        assert memory.p_ref is not None
        p_ref, weights = memory.p_ref, None
        if config.beta_s > 0:
            places = p_ref.unflatten(1, (-1, stack.grid[1] * stack.grid[2]))
            weights = saliency_weights(places, config.beta_s, config.saliency, normalise=config.normalise_weights)
        end = now.tokens.shape[1] - stack.tail
        drift = relative_drift(now.probe[:, skip:end], p_ref, weights)
        change = torch.zeros_like(drift)
        if config.alpha > 0 and memory.z_ref is not None:
            change = relative_drift(now.tokens[:, skip:end], memory.z_ref)
        drift, change, gain = torch.stack([drift, change, gain]).cpu()  # the only host read of a denoise step
        motion = velocity(change, now.elapsed if config.velocity == "anchor" else 1)
        threshold = adaptive_threshold(config.threshold, config.alpha, motion, config.growth(now.step, state.num_steps))
        if config.rate is not None:
            gated = now.step - config.warm_steps(state.num_steps)
            threshold = threshold * rate_factor(config.rate, gated, state.hits)
        return self._decision(state, state.path + drift, threshold, gain)

    def _by_error(self, now: Moment, state: State[Memory], missed: Tensor, gain: Tensor) -> Decision:
        """What this skip would spend, on top of what was spent, against what the noise levels so far allow."""
        assert self.config.error is not None
        missed, gain = torch.stack([missed, gain]).cpu()  # the only host read of a denoise step
        spent = state.path + missed * (now.stack.sigma - now.stack.next_sigma)
        return self._decision(state, spent, self.config.error * (1 - now.stack.next_sigma), gain)

    def _path(self, state: State[Memory], decision: Decision) -> Tensor:
        if self.config.error is not None:
            return torch.where(decision.hit, decision.drift, state.path)
        return torch.where(decision.hit, decision.drift, 0) if self.config.drift == "accumulate" else state.path

    def _predict(self, now: Moment, memory: Memory, gain: Tensor) -> Tensor:
        return (now.tokens.float() + deep_residual(memory.window, gain)).to(now.tokens.dtype)

    def _remember(self, now: Moment, memory: Memory | None, split: Split, output: Tensor) -> Memory:
        config, skip = self.config, self.config.unmeasured(now.stack)
        before = memory.window if memory else None
        end = now.tokens.shape[1] - now.stack.tail
        read = slice(config.unread(now.stack), end)
        window = push(before, split, now.tokens, now.probe, output, read=read)
        measures, z_ref, p_ref = config.error is None, None, None
        if measures and config.alpha > 0:
            z_ref = _part(now.tokens, skip, end)
            if memory and memory.z_ref is not None and config.velocity == "anchor":
                z_ref = split.update(memory.z_ref, z_ref)
        if measures:
            p_ref = _part(now.probe, skip, end)
            if memory and memory.p_ref is not None and config.drift == "anchor":
                p_ref = split.update(memory.p_ref, p_ref)
        return Memory(window, z_ref, p_ref)


def with_tail(gain_NG: Tensor, places: int, tail: int) -> Tensor:
    """Gains of so many places each, and behind them one for each of `tail` tokens, their mean; as they are without."""
    if not tail:
        return gain_NG
    return torch.cat([gain_NG.repeat_interleave(places, 1), gain_NG.mean(1, keepdim=True).expand(-1, tail)], dim=1)


def _part(tokens_NLD: Tensor, first: int, end: int) -> Tensor:
    """The tokens from `first` to `end`, without holding on to the others."""
    return tokens_NLD if not first and end == tokens_NLD.shape[1] else tokens_NLD[:, first:end].clone()
