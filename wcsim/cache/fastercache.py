"""FasterCache (Lv et al., arXiv 2410.19355): self-attention continued every other step, and a guided branch rebuilt
from the other.

Unlike every other policy here it saves inside the blocks, all of which run.  Each branch has a cache of its own.  After
the warm-up a block's self-attention is computed at every `interval`-th step and between them continued from its last
two answers, a = a_1 + w (a_1 - a_0), with w rising over the steps that are left.  Where branches decide together, the
unconditional one runs at every `branch_interval`-th step; between them its output is the conditional one's plus their
last difference, whose low spatial frequencies are raised while there is much noise, and the high ones afterwards (the
FFT is linear, so only the difference is filtered).  Differs: published code rebuilds the network's output, here it is
the output of the last block.  Easy to get wrong: a branch that did not run has no new answers to continue from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from wcsim.cache.gate import StepConfig
from wcsim.cache.reuse import full_pass
from wcsim.types import BlockStack, CachePolicy, Decision
from wcsim.world.guidance import beside

Answers = tuple[Tensor, ...]
"""A block's last self-attention and, once there are two, the one before: `[N, L, D]` each."""

RADIUS_SHARE = 5
"""Low are frequencies within a circle of the shorter side over this, rounded down."""


@dataclass(frozen=True, slots=True)
class State:
    """answers: per branch, per block.  difference: how far the unconditional output was from the conditional one when
    both ran, `[N, L, D]`; None without guidance.  attended, guided: steps since all self-attentions, and all branches,
    were computed."""

    num_steps: int
    answers: tuple[tuple[Answers, ...], ...] = ()
    difference: Tensor | None = None
    attended: int = 0
    guided: int = 0


@dataclass(slots=True)
class Attention:
    """Stands in for the self-attention of one branch at one step (`wcsim.types.Attend`): computed and noted, or where
    there is a weight continued.  noted: what the next step finds."""

    before: tuple[Answers, ...]
    weight: float | None
    noted: list[Answers] = field(default_factory=list)

    def __call__(self, block: int, compute: Callable[[], Tensor]) -> Tensor:
        answers = self.before[block] if self.before else ()
        if self.weight is None or not answers:
            answer = compute()
            self.noted.append((answer, *answers[:1]))
            return answer
        self.noted.append(answers)
        return continued(answers, self.weight)


def continued(answers: Answers, weight: float) -> Tensor:
    """Return a_1 + w (a_1 - a_0), in the dtype of the answers; a_1 where there is no other."""
    if len(answers) == 1:
        return answers[0]
    newer, older = answers
    return (newer.float() + weight * (newer.float() - older.float())).to(newer.dtype)


def raised(difference_NLD: Tensor, grid: tuple[int, int, int], low: float, high: float) -> Tensor:
    """A difference with its low and its high spatial frequencies, frame by frame, times these factors; float32."""
    _, rows, columns = grid
    places = difference_NLD.float().unflatten(1, (-1, rows, columns))
    row, column = (torch.fft.fftfreq(size, 1 / size, device=places.device) for size in (rows, columns))
    near = row[:, None] ** 2 + column[None, :] ** 2 <= (min(rows, columns) // RADIUS_SHARE) ** 2
    spectrum = torch.fft.fft2(places, dim=(2, 3)) * torch.where(near, low, high)[:, :, None]
    filtered: Tensor = torch.fft.ifft2(spectrum, dim=(2, 3)).real.flatten(1, 3)
    return filtered


@dataclass(frozen=True, slots=True)
class FasterCache(CachePolicy):
    """The policy.  Its decisions are the same for all lanes; as drift and threshold it reports steps since the
    attentions were computed and their interval."""

    class Config(StepConfig):
        saves_inside: ClassVar[bool] = True

        kind: Literal["fastercache"] = "fastercache"
        warmup: float = Field(default=0.34, ge=0, le=1)
        min_warmup: int = Field(default=2, ge=1)
        interval: int = Field(default=2, ge=1)
        """Steps from one computed self-attention to the next; 1 computes all."""
        weights: tuple[float, float] = Field(default=(0.0, 1.0), strict=False)
        """Weight w of the last change at the end of the warm-up and at the last step."""
        branch_interval: int = Field(default=5, ge=1)
        """Steps from one run of the unconditional branch to the next; 1 runs it always."""
        raise_by: float = Field(default=1.1, gt=0)
        """Factor of the low frequencies above noise level `turn` and of the high ones below it."""
        turn: float = Field(default=0.3, ge=0, le=1)

        def build(self) -> FasterCache:
            """The policy."""
            return FasterCache(self)

    config: Config

    def init(self, num_lanes: int, num_steps: int) -> State:
        """Fresh state for one denoise loop; warns where nothing could be left out."""
        del num_lanes
        self.config.warn_if_idle(num_steps)
        return State(num_steps)

    def forward(self, stack: BlockStack, step: int, state: State) -> tuple[Tensor, State, Decision]:
        """All blocks, some without their self-attention: the velocity `[N, b, k, C, h, w]`."""
        config, frames = self.config, stack.grid[0] // stack.branches
        free = not config.is_forced(step, state.num_steps)
        attended, guided = state.attended + 1, state.guided + 1
        continues = free and attended < config.interval
        rebuilds = free and stack.branches > 1 and guided < config.branch_interval
        weight = self._weight(step, state.num_steps) if continues else None
        answers = list(state.answers or ((),) * stack.branches)
        outputs: dict[int, Tensor] = {}
        for number in [stack.conditional] if rebuilds else range(stack.branches):
            alone = stack.branch(number)
            attention = Attention(answers[number], weight)
            outputs[number] = alone.run(alone.tokens, 0, stack.depth, attend=attention)
            answers[number] = tuple(attention.noted)
        told, difference = outputs[stack.conditional], state.difference
        if stack.branches > 1:
            other = 1 - stack.conditional
            if rebuilds and difference is not None:
                low, high = (config.raise_by, 1.0) if stack.sigma > config.turn else (1.0, config.raise_by)
                outputs[other] = (told.float() + raised(difference, stack.grid, low, high)).to(told.dtype)
            else:
                difference = outputs[other] - told
        after = State(state.num_steps, tuple(answers), difference, attended if continues else 0,
                      guided if rebuilds else 0)
        output = beside([outputs[number] for number in range(stack.branches)], frames)
        return stack.velocity(output), after, self._decision(stack.lanes, continues or rebuilds, attended)

    def _weight(self, step: int, num_steps: int) -> float:
        """Linear over the steps that are left after the warm-up."""
        first, last = self.config.weights
        begin = self.config.warm_steps(num_steps)
        return first + (last - first) * (step - begin) / max(1, num_steps - 1 - begin)

    def _decision(self, lanes: int, hit: bool, since: int) -> Decision:
        decision = full_pass(lanes)
        drift = torch.full((lanes,), float(since))
        return replace(decision, hit=torch.full((lanes,), hit), drift=drift,
                       threshold=torch.full((lanes,), float(self.config.interval)))
