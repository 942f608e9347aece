"""WorldCache (Nawaz et al., arXiv 2603.22286): skip the deep blocks while the first blocks say that little has changed.

Equation numbers are the paper's; where its text and its authors' code disagree, a setting of `WorldCache.Config` picks
the form.  Easy to get wrong: `step` counts denoise steps of one loop, and "last" means the last step at which this
lane ran all blocks, which is not the previous step.

Shape suffixes: N lanes, L tokens, T frames, P tokens per frame, D width.  All arithmetic is float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from wcsim.cache.gate import GateConfig, Split, full_pass
from wcsim.types import BlockStack, Decision

EPSILON = 1e-6
Saliency = Literal["token", "place", "joint"]


def relative_drift(now_NLD: Tensor, before_NLD: Tensor, weights_NL: Tensor | None = None) -> Tensor:
    """Eq. 1, and with weights eq. 5: mean absolute change over mean absolute value, `[N]`, dimensionless.

    The mean goes over the width first: a single lane reduced at once would be summed in another order than a batch.
    """
    before = before_NLD.float()
    change = (now_NLD.float() - before).abs().mean(-1)
    if weights_NL is not None:
        change = change * weights_NL
    return change.mean(-1) / (before.abs().mean(-1).mean(-1) + EPSILON)


def velocity(change_N: Tensor, elapsed_N: Tensor | int) -> Tensor:
    """Eq. 2: relative change of the embedded tokens per denoise step, `[N]`; elapsed: steps that the change took."""
    return change_N / elapsed_N


def saliency(probe_NTPD: Tensor, form: Saliency) -> Tensor:
    """Eq. 4: spread of the channels, scaled per lane to [0, 1] (0 where all are equal).

    `token`: variance per token, `[N, T, P]`.  `place`: its mean over the frames, `[N, 1, P]`, as printed except that
    lanes are not averaged.  `joint`: standard deviation over frames and channels, `[N, 1, P]`, as the authors' code.
    """
    probe = probe_NTPD.float()
    if form == "joint":
        spread = probe.std((1, 3), correction=0).unsqueeze(1)
    else:
        spread = probe.var(-1, correction=0)
        spread = spread.mean(1, keepdim=True) if form == "place" else spread
    low, high = spread.amin((1, 2), keepdim=True), spread.amax((1, 2), keepdim=True)
    return (spread - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)


def saliency_weights(probe_NTPD: Tensor, beta_s: float, form: Saliency, *, normalise: bool) -> Tensor:
    """The weights of eq. 5, `[N, L]`: 1 + beta_s S.

    normalise: divide by their mean, so that saliency moves attention about and the threshold keeps its meaning.
    """
    weights_NTP = (1 + beta_s * saliency(probe_NTPD, form)).expand(probe_NTPD.shape[:3])
    weights = weights_NTP.flatten(1)
    return weights / weights.mean(1, keepdim=True) if normalise else weights


def adaptive_threshold(threshold: float, alpha: float, velocity_N: Tensor, growth: float) -> Tensor:
    """Eq. 3 times eq. 13: the threshold `[N]`, lower for lanes that move, grown by the schedule."""
    return threshold * growth / (1 + alpha * velocity_N)


def schedule(step: int, num_steps: int, beta_d: float) -> float:
    """Eq. 13 (and 31): the factor of the threshold, from 1 towards 1 + beta_d along the denoise steps."""
    return 1 + beta_d * step / num_steps


def budget_growth(num_steps: int) -> float:
    """Eq. 30: beta_d for a number of denoise steps; a fit to 4 at 35, 5 at 70 and 8 at 140."""
    u = num_steps / 35
    return u * u / 6 + u / 2 + 10 / 3


def osi_gain(q_NLD: Tensor, q1_NLD: Tensor, q2_NLD: Tensor, low: float, high: float) -> Tensor:
    """Eq. 8 and 9: least-squares position `[N]` of the probe residual on the line from q2 (0) to q1 (1), clamped.

    Both differences are of probe residuals, as in the authors' code; the printed eq. 8 mixes in deep ones.
    """
    target, source = q_NLD.float() - q2_NLD.float(), q1_NLD.float() - q2_NLD.float()
    along, length = (target * source).sum(-1).sum(-1), (source * source).sum(-1).sum(-1)
    return (along / (length + EPSILON)).clamp(low, high)


@dataclass(frozen=True, slots=True)
class Window:
    """Residuals of the last (1) and second-last (2) full computation of every lane, all `[N, L, D]`.

    r: output minus embedded tokens.  q: probe minus embedded tokens.  After only one computation both entries are it.
    """

    r1: Tensor
    r2: Tensor
    q1: Tensor
    q2: Tensor


def push(window: Window | None, split: Split, tokens: Tensor, probe: Tensor, output: Tensor) -> Window:
    """The window after a step: lanes that computed add their residuals (eq. 7), lanes that reused keep theirs."""
    if window is not None and not split.any_miss:
        return window
    r, q = output - tokens, probe - tokens
    if window is None:
        return Window(r, r, q, q)
    return Window(
        split.renew(window.r1, r),
        split.renew(window.r2, window.r1),
        split.renew(window.q1, q),
        split.renew(window.q2, window.q1),
    )


def extrapolate(tokens_NLD: Tensor, window: Window, gain_N: Tensor) -> Tensor:
    """Eq. 10: output tokens predicted from the last two deep residuals, in the dtype of the tokens."""
    r1, r2 = window.r1.float(), window.r2.float()
    return (tokens_NLD.float() + r2 + gain_N[:, None, None] * (r1 - r2)).to(tokens_NLD.dtype)


@dataclass(frozen=True, slots=True)
class WorldCache:
    """The policy.  Every lane decides for itself; the deep blocks run on the lanes that miss."""

    class Config(GateConfig):
        """Defaults are our recommendation, the preset `wcsim`."""

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
        """How much motion lowers the threshold (CFC)."""
        beta_s: float = Field(default=0.12, ge=0)
        """How much salient tokens count (SWD); 0 weighs all alike."""
        saliency: Saliency = "token"
        """What is salient, see `wcsim.cache.worldcache.saliency`."""
        normalise_weights: bool = True
        """Whether the weights of the tokens average to one."""
        beta_d: float | Literal["budget"] = 1.0
        """How much the threshold grows along the steps (ATS), at least 0; `budget` derives it from their number."""

        @model_validator(mode="after")
        def _check_growth(self) -> Self:
            if self.beta_d != "budget" and self.beta_d < 0:
                raise ValueError(f"beta_d {self.beta_d} is negative; allowed: 0 and above, or 'budget'")
            return self

        def growth(self, step: int, num_steps: int) -> float:
            """The factor of the threshold at a step."""
            beta_d = budget_growth(num_steps) if self.beta_d == "budget" else self.beta_d
            return schedule(step, num_steps, beta_d)

        def build(self) -> WorldCache:
            """The policy."""
            return WorldCache(self)

    @dataclass(frozen=True, slots=True)
    class State:
        """What one denoise loop remembers.

        path: `[N]` float32 on the host, drift since the last full pass (0 unless accumulated).  skips: `[N]` int64 on
        the host, steps skipped since then.  window: the residuals, None before the first step.  z_ref, p_ref:
        `[N, L, D]` tokens and probe that velocity and drift are measured from, empty before the first step.
        """

        num_steps: int
        path: Tensor
        skips: Tensor
        window: Window | None
        z_ref: Tensor
        p_ref: Tensor

    config: Config

    def init(self, num_lanes: int, num_steps: int) -> State:
        """Fresh state for one denoise loop; warns where no step could be skipped."""
        self.config.warn_if_idle(num_steps)
        path, skips = torch.zeros(num_lanes), torch.zeros(num_lanes, dtype=torch.int64)
        return self.State(num_steps, path, skips, None, torch.empty(0), torch.empty(0))

    def forward(self, stack: BlockStack, step: int, tokens: Tensor, state: State) -> tuple[Tensor, State, Decision]:
        """Probe, decide, predict the lanes that hit, resume the others: `[N, L, D]` to `[N, L, D]`."""
        self.config.check_depth(stack.depth)
        probe = stack.run(tokens, 0, self.config.probe)
        if state.window is None or self.config.is_forced(step, state.num_steps):
            decision = full_pass(len(tokens))
        else:
            decision = self._decide(stack, step, tokens, probe, state, state.window)
        split = Split(decision.hit, tokens.device)
        output = split.complete(stack, probe, self.config.probe, lambda: self._predict(tokens, state, decision))
        window = push(state.window, split, tokens, probe, output)
        return output, self._remember(state, split, decision, tokens, probe, window), decision

    def _decide(
        self, stack: BlockStack, step: int, tokens: Tensor, probe: Tensor, state: State, window: Window
    ) -> Decision:
        """Drift against threshold per lane (eq. 6), by one host read."""
        config, skip = self.config, self.config.unmeasured(stack)
        z, p, z_ref, p_ref = (x[:, skip:] for x in (tokens, probe, state.z_ref, state.p_ref))
        weights = None
        if config.beta_s > 0:
            places = p_ref.reshape(len(p_ref), -1, stack.grid[1] * stack.grid[2], p_ref.shape[-1])
            weights = saliency_weights(places, config.beta_s, config.saliency, normalise=config.normalise_weights)
        gain = osi_gain(p - z, window.q1[:, skip:], window.q2[:, skip:], config.gain_min, config.gain_max)
        measured = torch.stack([relative_drift(p, p_ref, weights), relative_drift(z, z_ref), gain])
        drift, change, gain = measured.cpu()  # the only host read of a denoise step
        drift = state.path + drift
        motion = velocity(change, state.skips + 1 if config.velocity == "anchor" else 1)
        threshold = adaptive_threshold(config.threshold, config.alpha, motion, config.growth(step, state.num_steps))
        return Decision((drift < threshold) & config.may_skip(state.skips), drift, threshold, gain)

    def _predict(self, tokens: Tensor, state: State, decision: Decision) -> Tensor:
        assert state.window is not None  # a first step never hits
        return extrapolate(tokens, state.window, decision.gain.to(tokens.device))

    def _remember(
        self, state: State, split: Split, decision: Decision, tokens: Tensor, probe: Tensor, window: Window
    ) -> State:
        config, hit = self.config, decision.hit
        accumulates = config.drift == "accumulate"
        return replace(
            state,
            path=torch.where(hit, decision.drift, 0) if accumulates else state.path,
            skips=torch.where(hit, state.skips + 1, 0),
            window=window,
            z_ref=split.renew(state.z_ref, tokens) if config.velocity == "anchor" else tokens,
            p_ref=split.renew(state.p_ref, probe) if config.drift == "anchor" else probe,
        )
