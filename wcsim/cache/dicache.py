"""DiCache (Bu et al., arXiv 2508.17356): accumulated drift of a shallow probe against a fixed threshold.

WorldCache grew out of it, so what both do alike is imported from there.  Easy to get wrong: the gain is a ratio of
distances, by default kept at 1 or more, so it leans beyond the last residual and never back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from wcsim.cache.gate import GateConfig, Split, full_pass
from wcsim.cache.worldcache import EPSILON, Window, extrapolate, push, relative_drift
from wcsim.types import BlockStack, Decision


def distance_gain(q_NLD: Tensor, q1_NLD: Tensor, q2_NLD: Tensor, low: float, high: float) -> Tensor:
    """How far the probe residual is from q2, in units of the distance of q1 from q2: `[N]`, clamped; 1 if that is 0."""
    target = (q_NLD.float() - q2_NLD.float()).abs().mean(-1).mean(-1)
    source = (q1_NLD.float() - q2_NLD.float()).abs().mean(-1).mean(-1)
    return torch.where(source < EPSILON, 1.0, target / source.clamp_min(EPSILON)).clamp(low, high)


@dataclass(frozen=True, slots=True)
class DiCache:
    """The policy, with decisions and gains per lane where the authors' code takes one for the batch."""

    class Config(GateConfig):
        kind: Literal["dicache"] = "dicache"
        threshold: float = Field(default=0.08, ge=0)
        """Summed relative change of the probe below which the deep blocks are skipped; 0 never skips."""
        gain_min: float = 1.0

        def build(self) -> DiCache:
            """The policy."""
            return DiCache(self)

    @dataclass(frozen=True, slots=True)
    class State:
        """As `WorldCache.State`; p_ref: `[N, L, D]` the probe of the previous step."""

        num_steps: int
        path: Tensor
        skips: Tensor
        window: Window | None
        p_ref: Tensor

    config: Config

    def init(self, num_lanes: int, num_steps: int) -> State:
        """Fresh state for one denoise loop; warns where no step could be skipped."""
        self.config.warn_if_idle(num_steps)
        path, skips = torch.zeros(num_lanes), torch.zeros(num_lanes, dtype=torch.int64)
        return self.State(num_steps, path, skips, None, torch.empty(0))

    def forward(self, stack: BlockStack, step: int, tokens: Tensor, state: State) -> tuple[Tensor, State, Decision]:
        """Probe, decide, predict the lanes that hit, resume the others: `[N, L, D]` to `[N, L, D]`."""
        self.config.check_depth(stack.depth)
        probe = stack.run(tokens, 0, self.config.probe)
        if state.window is None or self.config.is_forced(step, state.num_steps):
            decision = full_pass(len(tokens))
        else:
            decision = self._decide(stack, tokens, probe, state, state.window)
        split = Split(decision.hit, tokens.device)
        output = split.complete(stack, probe, self.config.probe, lambda: self._predict(tokens, state, decision))
        after = replace(
            state,
            path=torch.where(decision.hit, decision.drift, 0),
            skips=torch.where(decision.hit, state.skips + 1, 0),
            window=push(state.window, split, tokens, probe, output),
            p_ref=probe,
        )
        return output, after, decision

    def _decide(self, stack: BlockStack, tokens: Tensor, probe: Tensor, state: State, window: Window) -> Decision:
        config, skip = self.config, self.config.unmeasured(stack)
        z, p, p_ref = (x[:, skip:] for x in (tokens, probe, state.p_ref))
        gain = distance_gain(p - z, window.q1[:, skip:], window.q2[:, skip:], config.gain_min, config.gain_max)
        drift, gain = torch.stack([relative_drift(p, p_ref), gain]).cpu()  # the only host read of a denoise step
        drift = state.path + drift
        threshold = torch.full_like(drift, config.threshold)
        return Decision((drift < threshold) & config.may_skip(state.skips), drift, threshold, gain)

    def _predict(self, tokens: Tensor, state: State, decision: Decision) -> Tensor:
        assert state.window is not None  # a first step never hits
        return extrapolate(tokens, state.window, decision.gain.to(tokens.device))
