"""The denoise loop: rectified flow from noise to latents, context frames clean, blocks run by a cache policy.

Context frames enter every step as they are, marked by the mask channel and a near-zero noise level; only the new
frames are integrated.  The solvers are diffusers' own schedulers, or equal to them.  Nothing here waits for the device:
the one host read of a denoise step is the policy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from wcsim.backbones.backbone import Backbone, Text
from wcsim.errors import ConfigError
from wcsim.spans import Spans
from wcsim.types import CachePolicy, Decision, Timesteps
from wcsim.world.context import ContextCache, refresh_steps
from wcsim.world.guidance import Group, Guidance, alone, groups_of, guide, merge_groups
from wcsim.world.stack import DenoiseStep, TransformerStack
from wcsim.world.unipc import UniPC

SOLVERS: dict[str, Callable[[float], Any]] = {
    "euler": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    "unipc": lambda shift: UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift
    ),
    # The same with the grid of NVIDIA's own code, which begins a little below 1; see `make_scheduler`.
    "unipc-nvidia": lambda shift: UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift
    ),
    # Second-order multistep: one forward per step, like Euler.
    "dpm": lambda shift: DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift, algorithm_type="dpmsolver++",
    ),
    # A grid of its own instead of a shift, as released video models use it.
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
    """A scheduler, ready to step `steps` times from noise to data: diffusers' own, or `UniPC` on its noise levels."""
    check_solver(solver, steps)
    scheduler = SOLVERS[solver](flow_shift)
    if solver == "unipc-nvidia":
        scheduler.set_timesteps(sigmas=np.linspace(1 - 1 / scheduler.config.num_train_timesteps, 0, steps + 1)[:-1])
    else:
        scheduler.set_timesteps(steps)
    if solver.startswith("unipc"):
        return UniPC(scheduler)
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


class Branches:
    """The groups of guided branches in one denoise loop, and what the cache policy remembers of each."""

    def __init__(self, policy: CachePolicy, groups: Sequence[Group], lanes: int, steps: int) -> None:
        self.groups = groups
        self._policy, self._lanes, self._steps, self._first = policy, lanes, steps, 0
        self._states: dict[tuple[str, ...], Any] = {group.branches: policy.init(lanes, steps) for group in groups}

    def end_guidance(self, text: Text, step: int) -> None:
        """From this step on the conditional branch goes on alone."""
        self.groups = groups_of(text, None, None)
        branches = self.groups[0].branches
        if branches not in self._states:  # branches that decide together share a state; none can take its part
            self._first, self._states = step, {branches: self._policy.init(self._lanes, self._steps - step)}

    def decide(self, stacks: Sequence[TransformerStack], step: int) -> tuple[dict[str, Tensor], Decision]:
        """Velocities `[N, k, C, h, w]` by branch, and the decision."""
        velocities, decisions = dict[str, Tensor](), list[Decision]()
        for group, stack in zip(self.groups, stacks, strict=True):
            state = self._states[group.branches]
            velocity, self._states[group.branches], decision = self._policy.forward(stack, step - self._first, state)
            velocities |= zip(group.branches, velocity.unbind(1), strict=True)
            decisions.append(decision)
        return velocities, merge_groups(self.groups, decisions)


class ContextCaches:
    """The context KV cache of every group of branches in one denoise loop; none where every pass reads the context."""

    def __init__(self, levels: Sequence[float], schedule: Sequence[int] | None, refresh: float) -> None:
        """levels: noise levels of the steps.  schedule: those that run, None for all.  refresh: see `denoise`."""
        self._steps = refresh_steps(levels, range(len(levels)) if schedule is None else schedule, refresh)
        self._on, self._caches = refresh > 0, dict[tuple[str, ...], ContextCache]()

    def stacks(self, step: DenoiseStep, groups: Sequence[Group]) -> Sequence[TransformerStack]:
        """The transformer at a step, for each group."""
        if not self._on:
            return [TransformerStack(step, group) for group in groups]
        lanes, depth = len(step.latents_NCThw), step.transformer.depth
        self._caches = {
            group.branches: self._caches.get(group.branches) or ContextCache(len(group.branches) * lanes, depth)
            for group in groups}
        found = [(group, self._caches[group.branches]) for group in groups]
        return [TransformerStack(step, group, cache, refresh=step.step in self._steps or cache.empty)
                for group, cache in found]


def denoise(
    transformer: Backbone,
    window: Window,
    scheduler: Any,
    policy: CachePolicy,
    *,
    context_sigma: float,
    spans: Spans,
    refresh: float = 0.0,
    timesteps: Timesteps = "exact",
) -> tuple[Tensor, list[Decision], Tensor]:
    """New latents `[N, k, C, h, w]`, the decision of every step, and the blocks run `[S, N]`.

    context_sigma: noise level that the context frames are said to have; below 0, that of the new ones.  Where the
    window asks for a walk, the latents are `[N, c+k, C, h, w]`, the walked context first.  refresh: see
    `wcsim.types.Fidelity.context_refresh`; 0 reads the context in every pass.  timesteps: see `wcsim.types.WorldSpec`.
    """
    lanes, count, context = *window.noise.shape[:2], window.context.shape[1]
    ladder, guidance = scheduler.sigmas.tolist(), window.guidance
    clean_T = (torch.arange(context + count) < context).to(window.noise)
    constants = transformer.prepare(torch.cat([window.context, window.noise], dim=1).transpose(1, 2), window.actions,
                                    window.known, window.text, window.control)
    unconditional = transformer.read_text(guidance.unconditional) if guidance else None
    branches = Branches(policy, groups_of(constants.text, unconditional, guidance), lanes, len(scheduler.timesteps))
    schedule = policy.static_schedule(ladder[:-1])
    caches = ContextCaches(ladder[:-1], schedule, refresh if context else 0.0)
    levels_ST = levels_of(told_levels(scheduler, timesteps), clean_T, context_sigma)
    modulations = transformer.modulations(levels_ST.unsqueeze(1).expand(-1, lanes, -1), constants, schedule)
    x = window.noise if window.walk is None else torch.cat([window.walk, window.noise], dim=1)
    decisions, blocks = list[Decision](), []
    for number, timestep in enumerate(scheduler.timesteps):
        if guidance and ladder[number] < guidance.until:
            branches.end_guidance(constants.text, number)
            guidance = None
        latents = torch.cat([window.context, x[:, -count:]], dim=1).transpose(1, 2)
        stacks = caches.stacks(DenoiseStep(
            transformer, latents, levels_ST[number : number + 1], clean_T, constants, modulations, number, context,
            (ladder[number], ladder[number + 1]), spans), branches.groups)
        with spans("policy"):
            velocities, decision = branches.decide(stacks, number)
        with spans("solver"):
            x = scheduler.step(velocity_of(window, velocities, x.dtype), timestep, x, return_dict=False)[0]
        ended = decisions and decisions[0].by_branch and not decision.by_branch
        decisions.append(alone(decision) if ended else decision)
        blocks.append(torch.stack([stack.blocks for stack in stacks]).sum(0))
    return x, decisions, torch.stack(blocks)


def velocity_of(window: Window, velocities: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """The velocity that the solver integrates, of velocities `[N, k, C, h, w]` by branch; the walk's comes first."""
    velocity = guide(velocities, window.guidance.scale if window.guidance else 0.0).to(dtype)
    return velocity if window.walk is None else torch.cat([window.walk - window.context, velocity], dim=1)


def told_levels(scheduler: Any, timesteps: Timesteps) -> list[float]:
    """What the transformer is told of the noise level, step by step: it, or its whole thousandths."""
    if timesteps == "exact":
        levels: list[float] = scheduler.sigmas.tolist()[:-1]
        return levels
    return [int(timestep) / 1000 for timestep in scheduler.timesteps.tolist()]


def levels_of(levels: Sequence[float], clean_T: Tensor, context_sigma: float) -> Tensor:
    """Noise level by step and frame, `[S, T]`."""
    sigma_S1 = torch.tensor(levels, device=clean_T.device).unsqueeze(1)
    return torch.where(clean_T > 0, context_sigma if context_sigma >= 0 else sigma_S1, sigma_S1)
