"""A block stack whose dynamics are written down: block `i` adds `amounts[i]`, chosen by the test at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wcsim.types import CachePolicy, Decision


class ScriptedStack:
    """amounts: per block, a tensor that broadcasts to `[N, L, D]`.  The velocity is the output tokens as they are.
    block_lanes counts blocks times lanes run, embedded how often the tokens were asked for."""

    def __init__(
        self, tokens: Tensor, amounts: list[Tensor], grid: tuple[int, int, int] = (1, 1, 1), context: int = 0,
        sigma: float = 1.0, next_sigma: float = 0.0, branches: int = 1, tail: int = 0,
    ) -> None:  # fmt: skip
        self.depth, self.grid, self.context, self.tail = len(amounts), grid, context, tail
        self.sigma, self.next_sigma, self.branches = sigma, next_sigma, branches
        self.lanes, self.amounts, self._tokens = len(tokens), amounts, tokens
        self.block_lanes = self.embedded = 0
        self.calls: list[tuple[int, int, list[int] | None]] = []

    @property
    def tokens(self) -> Tensor:
        self.embedded += 1
        return self._tokens

    def run(self, tokens: Tensor, first: int, last: int, lanes: Tensor | None = None) -> Tensor:
        self.block_lanes += (last - first) * len(tokens)
        self.calls.append((first, last, None if lanes is None else lanes.tolist()))
        for amount in self.amounts[first:last]:
            tokens = tokens + (amount if lanes is None else amount[lanes])
        return tokens

    def modulated(self, tokens: Tensor) -> Tensor:
        return tokens

    def velocity(self, tokens: Tensor) -> Tensor:
        return tokens


def play(
    policy: CachePolicy, tokens_SNLD: Tensor, probe_SNLD: Tensor, output_SNLD: Tensor, **stack: Any
) -> tuple[Tensor, list[Decision], list[ScriptedStack]]:
    """A denoise loop over a stack of two blocks, tokens to probe to output; returns the outputs `[S, N, L, D]`.  The
    noise level falls in equal steps from 1 to 0."""
    outputs, decisions, stacks = [], [], []
    steps = len(tokens_SNLD)
    state = policy.init(tokens_SNLD.shape[1], steps)
    for step, (z, p, o) in enumerate(zip(tokens_SNLD, probe_SNLD, output_SNLD, strict=True)):
        stacks.append(ScriptedStack(z, [p - z, o - p], sigma=1 - step / steps, next_sigma=1 - (step + 1) / steps,
                                    **stack))
        output, state, decision = policy.forward(stacks[-1], step, state)
        outputs.append(output)
        decisions.append(decision)
    return torch.stack(outputs), decisions, stacks


def hits(decisions: list[Decision]) -> Tensor:
    """`[S, N]` bool."""
    return torch.stack([decision.hit for decision in decisions])


def scalars(values: list[float] | list[list[float]]) -> Tensor:
    """Per step, or per step and lane, a number: as `[S, N, 1, 1]`."""
    tensor = torch.tensor(values)
    return tensor.view(len(values), -1, 1, 1)
