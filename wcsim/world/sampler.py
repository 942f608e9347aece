"""The denoise loop: rectified flow from noise to latents, context frames held clean, blocks run by a cache policy.

Context frames enter every step as they are, marked by the mask channel and a near-zero noise level; only the new
frames are integrated.  The solvers are diffusers' own schedulers.  Nothing here waits for the device: the one host read
of a denoise step is the policy's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from wcsim.errors import ConfigError
from wcsim.spans import Spans
from wcsim.types import CachePolicy, Decision
from wcsim.world.transformer import ActionCosmosTransformer, Conditioning

SOLVERS: dict[str, Callable[[float], Any]] = {
    "euler": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    "unipc": lambda shift: UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift
    ),
}


def make_scheduler(solver: str, steps: int, flow_shift: float) -> Any:
    """A diffusers scheduler, ready to step `steps` times from noise to data."""
    if solver not in SOLVERS:
        raise ConfigError(f"solver {solver!r} is unknown; known: {', '.join(SOLVERS)}")
    if steps < 1:
        raise ConfigError(f"steps is {steps}; at least 1 denoise step is needed")
    scheduler = SOLVERS[solver](flow_shift)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    return scheduler


@dataclass(frozen=True, slots=True)
class Window:
    """What a denoise loop is given: context latents `[N, c, C, h, w]`, noise `[N, k, C, h, w]` in place of the new
    frames, action features `[N, c+k, F]` and whether they are known `[N, c+k]`, text `[N, S, E]`."""

    context: Tensor
    noise: Tensor
    actions: Tensor
    known: Tensor
    text: Tensor


class TransformerStack:
    """The real transformer as a `BlockStack` at one denoise step; counts what runs and times it."""

    def __init__(
        self, transformer: ActionCosmosTransformer, given: Conditioning, context: int, lanes: int, spans: Spans
    ) -> None:
        self.depth = transformer.depth
        self.grid = given.grid
        self.context = context
        self.blocks = torch.zeros(lanes, dtype=torch.int64, device=given.time.device)
        self._transformer, self._given, self._spans = transformer, given, spans

    def run(self, tokens: Tensor, first: int, last: int, lanes: Tensor | None = None) -> Tensor:
        """See `wcsim.types.BlockStack`."""
        self.blocks[slice(None) if lanes is None else lanes] += last - first
        given = self._given if lanes is None else self._given.select(lanes)
        with self._spans("probe" if first == 0 and last < self.depth else "deep"):
            return self._transformer.run_blocks(tokens, first, last, given)


def denoise(
    transformer: ActionCosmosTransformer,
    window: Window,
    scheduler: Any,
    policy: CachePolicy,
    *,
    context_sigma: float,
    spans: Spans,
) -> tuple[Tensor, list[Decision], Tensor]:
    """New latents `[N, k, C, h, w]`, the decision of every step, and the blocks run `[S, N]`."""
    lanes, count = window.noise.shape[:2]
    context = window.context.shape[1]
    clean_T = (torch.arange(context + count) < context).to(window.noise)
    state = policy.init(lanes, len(scheduler.timesteps))
    rope = transformer.position(torch.cat([window.context, window.noise], dim=1).transpose(1, 2))
    x = window.noise
    decisions, blocks = [], []
    for step, timestep in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[step])
        sigma_NT = torch.where(clean_T > 0, context_sigma, sigma).expand(lanes, -1)
        with spans("embed"):
            latents = torch.cat([window.context, x], dim=1).transpose(1, 2)
            tokens, given = transformer.embed(
                latents, sigma_NT, window.actions, window.known, window.text, clean_T, rope
            )
        stack = TransformerStack(transformer, given, context, lanes, spans)
        with spans("policy"):
            tokens, state, decision = policy.forward(stack, step, tokens, state)
        with spans("head"):
            velocity = transformer.unembed(tokens, given).transpose(1, 2)[:, context:]
            x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
        decisions.append(decision)
        blocks.append(stack.blocks)
    return x, decisions, torch.stack(blocks)
