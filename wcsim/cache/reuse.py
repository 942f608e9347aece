"""The denoise step that all caches share: measure, decide lane by lane, reuse or compute, remember.

A policy fills in three methods of `Gated` and names a dataclass of tensors as its memory.  Easy to get wrong: an upload
waits for everything queued on the device, so what a decision sends back (`Split`) is uploaded right after the one
host read, before the deep blocks are queued.

Shape suffixes: N lanes, B a sub-batch of lanes, L tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from wcsim.cache.gate import StepConfig
from wcsim.types import BlockStack, CachePolicy, Decision

Axis = Literal["step", "sigma"]
Memory = TypeVar("Memory")
Predict = Callable[[], Tensor]


def full_pass(num_lanes: int) -> Decision:
    """The decision of a step at which all lanes run all blocks and nothing is measured."""
    unknown = torch.full((num_lanes,), nan)
    return Decision(torch.zeros(num_lanes, dtype=torch.bool), unknown, unknown, unknown)


def per_lane(value_N: Tensor, like: Tensor) -> Tensor | float:
    """A number per lane, on the host, as a factor of `like` `[N, L, D]`; where lanes agree without an upload, which
    would wait."""
    first = value_N[:1]
    if bool((value_N == first).all()):
        return float(first)
    return value_N.to(like.device, torch.float32)[:, None, None]


class Split:
    """Which lanes of a batch reuse (hit) and which compute (miss), ready for use on `device`.

    hit: `[N]` bool on the host.
    """

    def __init__(self, hit: Tensor, device: torch.device) -> None:
        self.hit, self.any_hit, self.any_miss = hit, bool(hit.any()), not bool(hit.all())
        mixed = self.any_hit and self.any_miss
        self._miss_B = (~hit).nonzero().flatten().to(device) if mixed else None
        self._keep_N = hit.to(device) if mixed else None

    def complete(self, stack: BlockStack, probe_NLD: Tensor, first: int, predict: Predict) -> Tensor:
        """Output `[N, L, D]`: misses resume from the probe at block `first`, hits take `predict()`."""
        if not self.any_hit:
            return stack.run(probe_NLD, first, stack.depth)
        output = predict()
        if self._miss_B is None:
            return output
        deep_BLD = stack.run(probe_NLD[self._miss_B], first, stack.depth, lanes=self._miss_B)
        return output.index_copy(0, self._miss_B, deep_BLD)

    def update(self, old: Tensor, new: Tensor) -> Tensor:
        """`old` for hits, `new` for misses, both `[N, ...]`; copies only where both occur."""
        if self._keep_N is None:
            return old if self.any_hit else new
        return torch.where(self._keep_N.view(-1, *[1] * (new.ndim - 1)), old, new)


@dataclass(frozen=True, slots=True)
class Moment:
    """One denoise step as a policy finds it: embedded tokens, the probe behind the blocks that always run (the tokens
    themselves where there are none), and what the policy watches, all `[N, L, D]`.

    elapsed: `[N]` int64 on the host, steps since each lane's last full pass.  fallen: `[N]` float32 on the host, how
    far the noise level has fallen since then.
    """

    stack: BlockStack
    step: int
    tokens: Tensor
    probe: Tensor
    watched: Tensor
    elapsed: Tensor
    fallen: Tensor

    def since(self, axis: Axis) -> Tensor:
        """Either of the two."""
        return self.elapsed if axis == "step" else self.fallen


@dataclass(frozen=True, slots=True)
class State(Generic[Memory]):
    """What one denoise loop remembers.

    path: `[N]` float32 on the host, what the policy adds up along the steps.  skips, hits: `[N]` int64 on the host,
    steps skipped since the last full pass, and in all.  sigma: `[N]` float32 on the host, noise level at the last full
    pass.  memory: the policy's tensors, None before the first step.
    """

    num_steps: int
    path: Tensor
    skips: Tensor
    hits: Tensor
    sigma: Tensor
    memory: Memory | None


@dataclass(frozen=True, slots=True)
class Gated(CachePolicy, ABC, Generic[Memory]):
    """A policy whose lanes each decide for themselves; the deep blocks run on those that miss."""

    config: StepConfig

    def init(self, num_lanes: int, num_steps: int) -> State[Memory]:
        """Fresh state for one denoise loop; warns where no step could be skipped."""
        self.config.warn_if_idle(num_steps)
        zero, none = torch.zeros(num_lanes), torch.zeros(num_lanes, dtype=torch.int64)
        return State(num_steps, zero, none, none, zero, None)

    def forward(
        self, stack: BlockStack, step: int, state: State[Memory]
    ) -> tuple[Tensor, State[Memory], Decision]:
        """Measure, decide, predict the lanes that hit, resume the others: the velocity `[N, b, k, C, h, w]`."""
        config, memory, tokens = self.config, state.memory, stack.tokens
        config.check_depth(stack.depth)
        probe = stack.run(tokens, 0, config.always_run) if config.always_run else tokens
        watched, fallen = self._watch(stack, tokens, probe), state.sigma - stack.sigma
        now = Moment(stack, step, tokens, probe, watched, elapsed=state.skips + 1, fallen=fallen)
        decision, predict = full_pass(len(tokens)), lambda: tokens
        if memory is not None and not config.is_forced(step, state.num_steps):
            decision, predict = self._decide(now, state, memory)
        split = Split(decision.hit, tokens.device)
        output = split.complete(stack, probe, config.always_run, predict)
        after = State(
            num_steps=state.num_steps,
            path=self._path(state, decision),
            skips=torch.where(decision.hit, state.skips + 1, 0),
            hits=state.hits + decision.hit,
            sigma=torch.where(decision.hit, state.sigma, stack.sigma),
            memory=self._remember(now, memory, split, output),
        )
        if step == state.num_steps - 1 and len(tokens) and not after.hits.any():
            config.warn_if_useless(state.num_steps)
        return stack.velocity(output), after, decision

    def _watch(self, stack: BlockStack, tokens: Tensor, probe: Tensor) -> Tensor:
        """What the gate measures, `[N, L, D]`."""
        del stack, tokens
        return probe

    @abstractmethod
    def _decide(self, now: Moment, state: State[Memory], memory: Memory) -> tuple[Decision, Predict]:
        """The decision, with at most one host read, and the output to use where it is a hit."""

    @abstractmethod
    def _remember(self, now: Moment, memory: Memory | None, split: Split, output: Tensor) -> Memory:
        """The memory after this step; None before the first one, at which no lane hits."""

    def _path(self, state: State[Memory], decision: Decision) -> Tensor:
        """What is added up: the drift of lanes that skip, until they compute."""
        return torch.where(decision.hit, decision.drift, 0)

    def _decision(
        self, state: State[Memory], drift: Tensor, threshold: Tensor | float, gain: Tensor | None = None
    ) -> Decision:
        """Drift `[N]` on the host against the threshold, unless a lane has skipped too often (eq. 6 of WorldCache)."""
        threshold = torch.as_tensor(threshold, dtype=torch.float32).expand(len(drift)).clone()
        hit = (drift < threshold) & self.config.may_skip(state.skips)
        return Decision(hit, drift, threshold, torch.full_like(drift, nan) if gain is None else gain)
