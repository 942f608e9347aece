"""Whether a world on disk can be trusted to imagine: whole, as described, finite, and moved by its actions.

Easy to get wrong: an action embedder that is never called loads and runs without a word, and so does one that a cache
leaves out, so sensitivity is measured with the cache that would run and without.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wcsim.errors import CheckpointError
from wcsim.types import CachePolicy, Fidelity
from wcsim.world.checkpoints import read_description
from wcsim.world.memory import Need
from wcsim.world.world import World


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a world did when it was tried.

    files, weights: number of them on disk, and in the transformer.  spread: standard deviation of one imagined chunk.
    sensitivity: mean absolute difference between the chunks of two opposite action sequences, over that spread, with
    the cache; uncached: the same without.  skipped: share of the blocks that the cache left out.  need: memory.
    """

    files: int
    weights: int
    spread: float
    sensitivity: float
    uncached: float
    skipped: float
    need: Need


def verify_world(
    folder: Path, cache: CachePolicy, plain: CachePolicy, *, steps: int = 4, device: str = "cpu"
) -> Verdict:
    """Load a world (hashes, shapes, spec), imagine one chunk under opposite actions, and compare; once under `cache`,
    once under `plain`, which skips nothing.

    CheckpointError where it does not load, or where actions change nothing; NotFiniteError where a value is not.
    """
    world = World.load(folder, device=device)
    _, hashes = read_description(folder)
    cached = _try(world, Fidelity(steps, cache, "unipc"), folder)
    uncached = _try(world, Fidelity(steps, plain, "unipc"), folder)
    return Verdict(
        files=len(hashes), weights=sum(weight.numel() for weight in world.transformer.parameters()), spread=cached[0],
        sensitivity=cached[1], uncached=uncached[1], skipped=cached[2], need=world.memory(Fidelity(steps, cache)),
    )


def _try(world: World, fidelity: Fidelity, folder: Path) -> tuple[float, float, float]:
    """Spread, sensitivity, and share of the blocks skipped."""
    spec = world.spec
    frames = np.random.default_rng(0).integers(0, 256, (1, 1, *spec.frame_size, 3), dtype=np.uint8)
    chunks: list[torch.Tensor] = []
    skipped: list[float] = []
    for action in (spec.action.low, spec.action.high):
        state = world.init(frames, np.zeros((1, 0, spec.action.dim), np.float32), [0])
        actions = np.tile(np.asarray(action, np.float32), (1, spec.max_chunk, 1))
        _, latents, trace = world.advance(state, actions, fidelity)
        chunks.append(latents.float())
        skipped.append(trace.skipped)
    both = torch.stack(chunks)
    spread = float(both.std())
    sensitivity = float((both[0] - both[1]).abs().mean()) / max(spread, 1e-12)
    if sensitivity == 0.0:
        raise CheckpointError(f"{folder} imagines the same frames whatever the actions are")
    return spread, sensitivity, sum(skipped) / len(skipped)
