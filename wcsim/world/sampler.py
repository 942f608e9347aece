"""The denoise loop: rectified flow from noise to latents, context frames held clean, blocks run by a cache policy.

Context frames enter every step as they are, marked by the mask channel and a near-zero noise level; only the new
frames are integrated.  The solvers are diffusers' own schedulers.  Nothing here waits for the device: the one host read
of a denoise step is the policy's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from wcsim.errors import ConfigError
from wcsim.spans import Spans
from wcsim.types import Attend, CachePolicy, Decision
from wcsim.world.attention import Text
from wcsim.world.conditioning import Conditioning
from wcsim.world.guidance import CONDITIONAL, Group, Guidance, alone, apart, beside, groups_of, guide, merge_groups
from wcsim.world.transformer import ActionCosmosTransformer

SOLVERS: dict[str, Callable[[float], Any]] = {
    "euler": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    "unipc": lambda shift: UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift
    ),
    # Second-order multistep: one forward per step, like Euler.
    "dpm": lambda shift: DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift, algorithm_type="dpmsolver++",
    ),
    # The post-trained base models of Cosmos-Predict2.5: a grid of its own instead of a shift.
    "unipc-karras": lambda shift: UniPCMultistepScheduler(
        use_karras_sigmas=True, use_flow_sigmas=True, prediction_type="flow_prediction", sigma_max=200.0,
        sigma_min=0.01,
    ),
}
"""Solver name to what makes its scheduler, given the flow shift."""


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
    """What a denoise loop is given.

    context: latents `[N, c, C, h, w]`, c >= 0.  noise: `[N, k, C, h, w]` in place of the new frames.  actions: features
    `[N, c+k, F]`.  known: `[N, c+k]`, whether there is an action; both None in a model without actions.  text:
    `[1 or N, S, E]`, one for all lanes or one each, or as the transformer has read it.  guidance: None for the
    conditional branch alone.  walk: noise `[N, c, C, h, w]` from which the official pipelines integrate the context
    frames, under the velocity towards their clean values; they end within the first noise level of them.  None leaves
    them as they are.  control: maps `[N, K, c+k, h, w]` of what is expected where; None in a model without.
    """

    context: Tensor
    noise: Tensor
    actions: Tensor | None
    known: Tensor | None
    text: Tensor | Text
    guidance: Guidance | None = None
    walk: Tensor | None = None
    control: Tensor | None = None


class TransformerStack:
    """The real transformer as a `BlockStack` at one denoise step; counts what runs and times it.

    group: the branches, their texts and batches; None for one branch, under the text of `given`.  sigmas: noise level
    now and after this step.  blocks: `[N]` blocks run so far, each counted once however many branches it ran on: of a
    branch alone, where it is the conditional one.
    """

    def __init__(
        self,
        transformer: ActionCosmosTransformer,
        given: Conditioning,
        context: int,
        spans: Spans,
        *,
        sigmas: tuple[float, float],
        group: Group | None = None,
    ) -> None:
        group = group or Group((CONDITIONAL,), (given.text,), ((given.text, 1),))
        self.depth = transformer.depth
        self.branches, self.conditional = len(group.branches), group.conditional
        self.grid = (given.grid[0] * self.branches, *given.grid[1:])
        self.context = context * self.branches
        self.sigma, self.next_sigma = sigmas
        self.blocks = torch.zeros(given.lanes, dtype=torch.int64, device=given.modulation.time.device)
        self._transformer, self._spans, self._frames = transformer, spans, given.grid[0]
        self._given, self._group, self._context = given, group, context
        self._passes = [(given.branch(text, count), count) for text, count in group.passes]

    def run(
        self, tokens: Tensor, first: int, last: int, lanes: Tensor | None = None, attend: Attend | None = None
    ) -> Tensor:
        """See `wcsim.types.BlockStack`."""
        self.blocks[slice(None) if lanes is None else lanes] += last - first
        with self._spans("probe" if first == 0 and last < self.depth else "deep"):
            return self._each(
                tokens, lanes, lambda some, given: self._transformer.run_blocks(some, first, last, given, attend))

    def branch(self, number: int) -> TransformerStack:
        """See `wcsim.types.BlockStack`."""
        if self.branches == 1:
            return self
        text = self._group.texts[number]
        group = Group((self._group.branches[number],), (text,), ((text, 1),))
        alone = TransformerStack(self._transformer, self._given, self._context, self._spans,
                                 sigmas=(self.sigma, self.next_sigma), group=group)
        if number == self.conditional:
            alone.blocks = self.blocks
        return alone

    def act(self, tokens: Tensor, index: int, block: Callable[[Any, Tensor, Conditioning], Tensor]) -> Tensor:
        """Block `index` done by another hand, on all lanes: `block` is given diffusers' module, tokens `[B, L, D]` and
        their conditioning."""
        self.blocks += 1
        module = self._transformer.transformer_blocks[index]
        with self._spans("deep"):
            return self._each(tokens, None, lambda some, given: block(module, some, given))

    def modulated(self, tokens: Tensor) -> Tensor:
        """See `wcsim.types.BlockStack`."""
        return self._each(tokens, None, self._transformer.modulated)

    def _each(
        self, tokens: Tensor, lanes: Tensor | None, act: Callable[[Tensor, Conditioning], Tensor]
    ) -> Tensor:
        """`act` on every pass: its branches as one batch, branch after branch."""
        branches, done = list(apart(tokens, self._frames, self.branches)), list[Tensor]()
        for given, count in self._passes:
            if lanes is not None:
                given = given.select(torch.cat([lanes + number * len(self.blocks) for number in range(count)]))
            some = branches[0] if count == 1 else torch.cat(branches[:count])
            done += act(some, given).chunk(count)
            del branches[:count]
        return beside(done, self._frames)


def denoise(
    transformer: ActionCosmosTransformer,
    window: Window,
    scheduler: Any,
    policy: CachePolicy,
    *,
    context_sigma: float,
    spans: Spans,
) -> tuple[Tensor, list[Decision], Tensor]:
    """New latents `[N, k, C, h, w]`, the decision of every step, and the blocks run `[S, N]`.

    context_sigma: noise level that the context frames are said to have; below 0, that of the new ones.  Where the
    window asks for a walk, the latents are `[N, c+k, C, h, w]`, the walked context first.
    """
    lanes, count = window.noise.shape[:2]
    context = window.context.shape[1]
    clean_T = (torch.arange(context + count) < context).to(window.noise)
    position = transformer.position(torch.cat([window.context, window.noise], dim=1).transpose(1, 2))
    constants = transformer.settle(window.actions, window.known, window.text, position, window.control)
    unconditional = transformer.read_text(window.guidance.unconditional) if window.guidance else None
    groups = groups_of(constants.text, unconditional, window.guidance)
    states = {group.branches: policy.init(lanes, len(scheduler.timesteps)) for group in groups}
    x = window.noise if window.walk is None else torch.cat([window.walk, window.noise], dim=1)
    decisions, blocks, guided, begun = list[Decision](), [], window.guidance is not None, 0
    ladder = scheduler.sigmas.tolist()
    sigma_S1 = torch.tensor(ladder[:-1], device=x.device).unsqueeze(1)
    levels_ST = torch.where(clean_T > 0, context_sigma if context_sigma >= 0 else sigma_S1, sigma_S1)
    modulations = transformer.modulations(levels_ST.unsqueeze(1).expand(-1, lanes, -1), constants)
    for step, timestep in enumerate(scheduler.timesteps):
        if guided and window.guidance and ladder[step] < window.guidance.until:
            guided, groups = False, groups_of(constants.text, None, None)
            if groups[0].branches not in states:  # branches that decide together share a state; none can take its part
                begun, states = step, {groups[0].branches: policy.init(lanes, len(scheduler.timesteps) - step)}
        with spans("embed"):
            latents = torch.cat([window.context, x[:, -count:]], dim=1).transpose(1, 2)
            tokens, given = transformer.embed_step(latents, next(modulations), clean_T, constants)
        stacks = [TransformerStack(transformer, given, context, spans, sigmas=(ladder[step], ladder[step + 1]),
                                   group=group) for group in groups]
        with spans("policy"):
            outputs, decision = _decide(groups, stacks, policy, step - begun, tokens, states)
        with spans("head"):
            levels_1T = levels_ST[step : step + 1]
            velocities = {name: transformer.velocity(transformer.unembed(output, given), latents, levels_1T)
                          for name, output in outputs.items()}
            velocity = guide(velocities, window.guidance.scale if window.guidance else 0.0).transpose(1, 2)[:, context:]
            velocity = velocity.to(x.dtype)
            if window.walk is not None:
                velocity = torch.cat([window.walk - window.context, velocity], dim=1)
            x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
        if decisions and decisions[0].by_branch and not decision.by_branch:
            decision = alone(decision)
        decisions.append(decision)
        blocks.append(torch.stack([stack.blocks for stack in stacks]).sum(0))
    return x, decisions, torch.stack(blocks)


def _decide(
    groups: Sequence[Group], stacks: Sequence[TransformerStack], policy: CachePolicy, step: int, tokens: Tensor,
    states: dict[tuple[str, ...], Any],
) -> tuple[dict[str, Tensor], Decision]:
    """Output tokens `[N, L, D]` by branch, and the decision; brings `states` up to date."""
    outputs, told = dict[str, Tensor](), list[Decision]()
    for group, stack in zip(groups, stacks, strict=True):
        frames = stack.grid[0] // stack.branches
        shown = beside([tokens] * stack.branches, frames)
        output, states[group.branches], decision = policy.forward(stack, step, shown, states[group.branches])
        outputs |= zip(group.branches, apart(output, frames, stack.branches), strict=True)
        told.append(decision)
    return outputs, merge_groups(groups, told)
