"""Write a cache, imagine with it, and measure what it skips and what it costs.

    python examples/write_cache.py

The cache runs the blocks at every second denoise step and repeats what they added at the others.  Easy to get wrong:
the object holds no memory; what it remembers travels in the state that `forward` returns.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wcsim import World
from wcsim.cache import NoCache
from wcsim.envs.tasks import make_task
from wcsim.types import BlockStack, CachePolicy, Decision, Fidelity


@dataclass(frozen=True, slots=True)
class EverySecond(CachePolicy):
    """Run the blocks at even denoise steps; repeat their residual at odd ones."""

    def init(self, num_lanes: int, num_steps: int) -> Tensor | None:
        """Nothing to repeat yet."""
        del num_lanes, num_steps
        return None

    def forward(self, stack: BlockStack, step: int, state: Tensor | None) -> tuple[Tensor, Tensor, Decision]:
        """The velocity, the residual `[N, L, D]` to repeat, and the decision of every lane."""
        skip = state is not None and step % 2 == 1
        residual = state if state is not None and skip else stack.run(stack.tokens, 0, stack.depth) - stack.tokens
        unknown = torch.full((stack.lanes,), float("nan"))
        decision = Decision(torch.full((stack.lanes,), skip), unknown, unknown, unknown)
        return stack.velocity(stack.tokens + residual), residual, decision


def main() -> None:
    """Eight frames under one action, with the cache and without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="pusht-96", help="a shipped world's name, or a folder")
    parser.add_argument("--steps", type=int, default=20, help="denoise steps per chunk")
    arguments = parser.parse_args()

    world, start = World.load(arguments.world), make_task("pusht").start(0)
    state = world.init(start.frames[None], start.actions[None], seeds=[0])
    actions = np.full((1, 8, 2), 256.0)
    _, plain, _ = world.advance(state, actions, Fidelity(arguments.steps, NoCache()))
    _, cached, trace = world.advance(state, actions, Fidelity(arguments.steps, EverySecond()))
    apart = float((cached - plain).norm() / plain.norm())
    print(f"{trace.skipped:.0%} of the blocks skipped, latents {apart:.4f} apart (relative)")


if __name__ == "__main__":
    main()
