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

from wcsim.backbones.cosmos2.attention import Text
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.errors import ConfigError
from wcsim.spans import Spans
from wcsim.types import CachePolicy, Decision
from wcsim.world.context import Kept, renewals
from wcsim.world.guidance import Group, Guidance, alone, groups_of, guide, merge_groups
from wcsim.world.stack import Shown, TransformerStack

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


def check_solver(solver: str, steps: int) -> None:
    """ConfigError for a solver that is not known, or fewer than one step."""
    if solver not in SOLVERS:
        raise ConfigError(f"solver {solver!r} is unknown; known: {', '.join(SOLVERS)}")
    if steps < 1:
        raise ConfigError(f"steps is {steps}; at least 1 denoise step is needed")


def make_scheduler(solver: str, steps: int, flow_shift: float) -> Any:
    """A diffusers scheduler, ready to step `steps` times from noise to data."""
    check_solver(solver, steps)
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


def denoise(
    transformer: ActionCosmosTransformer,
    window: Window,
    scheduler: Any,
    policy: CachePolicy,
    *,
    context_sigma: float,
    spans: Spans,
    hold: float = 0.0,
) -> tuple[Tensor, list[Decision], Tensor]:
    """New latents `[N, k, C, h, w]`, the decision of every step, and the blocks run `[S, N]`.

    context_sigma: noise level that the context frames are said to have; below 0, that of the new ones.  Where the
    window asks for a walk, the latents are `[N, c+k, C, h, w]`, the walked context first.  hold: see
    `wcsim.world.context.renewals`; 0 reads the context in every pass.
    """
    lanes, count = window.noise.shape[:2]
    context = window.context.shape[1]
    clean_T = (torch.arange(context + count) < context).to(window.noise)
    position = transformer.position(torch.cat([window.context, window.noise], dim=1).transpose(1, 2))
    constants = transformer.settle(window.actions, window.known, window.text, position, window.control)
    unconditional = transformer.read_text(window.guidance.unconditional) if window.guidance else None
    groups = groups_of(constants.text, unconditional, window.guidance)
    states = {group.branches: policy.init(lanes, len(scheduler.timesteps)) for group in groups}
    kept, keeps = dict[tuple[str, ...], Kept](), hold > 0 and context > 0
    x = window.noise if window.walk is None else torch.cat([window.walk, window.noise], dim=1)
    decisions, blocks, guided, begun = list[Decision](), [], window.guidance is not None, 0
    ladder = scheduler.sigmas.tolist()
    sigma_S1 = torch.tensor(ladder[:-1], device=x.device).unsqueeze(1)
    levels_ST = torch.where(clean_T > 0, context_sigma if context_sigma >= 0 else sigma_S1, sigma_S1)
    schedule = policy.static_schedule(ladder[:-1])
    passes = range(len(ladder) - 1) if schedule is None else schedule
    renewing = renewals(ladder[:-1], passes, hold) if keeps else frozenset[int]()
    modulations = transformer.modulations(levels_ST.unsqueeze(1).expand(-1, lanes, -1), constants, schedule)
    for step, timestep in enumerate(scheduler.timesteps):
        if guided and window.guidance and ladder[step] < window.guidance.until:
            guided, groups = False, groups_of(constants.text, None, None)
            if groups[0].branches not in states:  # branches that decide together share a state; none can take its part
                begun, states = step, {groups[0].branches: policy.init(lanes, len(scheduler.timesteps) - step)}
        shown = Shown(
            transformer, torch.cat([window.context, x[:, -count:]], dim=1).transpose(1, 2), levels_ST[step : step + 1],
            clean_T, constants, modulations, step, context, (ladder[step], ladder[step + 1]), spans)
        if keeps:
            kept = {group.branches: kept.get(group.branches) or Kept(len(group.branches) * lanes, transformer.depth)
                    for group in groups}
        stacks = [TransformerStack(shown, group, held, renew=step in renewing or (held is not None and held.empty))
                  for group in groups for held in [kept.get(group.branches)]]
        with spans("policy"):
            velocities, decision = _decide(groups, stacks, policy, step - begun, states)
        with spans("solver"):
            velocity = guide(velocities, window.guidance.scale if window.guidance else 0.0).to(x.dtype)
            if window.walk is not None:
                velocity = torch.cat([window.walk - window.context, velocity], dim=1)
            x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
        if decisions and decisions[0].by_branch and not decision.by_branch:
            decision = alone(decision)
        decisions.append(decision)
        blocks.append(torch.stack([stack.blocks for stack in stacks]).sum(0))
    return x, decisions, torch.stack(blocks)


def _decide(
    groups: Sequence[Group], stacks: Sequence[TransformerStack], policy: CachePolicy, step: int,
    states: dict[tuple[str, ...], Any],
) -> tuple[dict[str, Tensor], Decision]:
    """Velocities `[N, k, C, h, w]` by branch, and the decision; brings `states` up to date."""
    velocities, told = dict[str, Tensor](), list[Decision]()
    for group, stack in zip(groups, stacks, strict=True):
        velocity, states[group.branches], decision = policy.forward(stack, step, states[group.branches])
        velocities |= zip(group.branches, velocity.unbind(1), strict=True)
        told.append(decision)
    return velocities, merge_groups(groups, told)
