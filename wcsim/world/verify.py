"""Whether a world on disk can be trusted to imagine: whole, as described, finite, and moved by its actions.

Easy to get wrong: an action embedder that is never called loads and runs without a word, so sensitivity is measured,
and with the cache that would run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wcsim.errors import CheckpointError
from wcsim.types import CachePolicy, Fidelity
from wcsim.world.world import World


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a world did when it was tried.

    weights: number of them in the transformer.  spread: standard deviation of one imagined chunk.  sensitivity: mean
    absolute difference between the chunks of two opposite action sequences, over that spread.
    """

    weights: int
    spread: float
    sensitivity: float


def verify_world(folder: Path, policy: CachePolicy, *, steps: int = 4, device: str = "cpu") -> Verdict:
    """Load a world (hashes, shapes, spec), imagine one chunk twice, and compare.

    CheckpointError where it does not load, where a value is not finite, or where actions change nothing.
    """
    world = World.load(folder, device=device)
    spec = world.spec
    frames = np.random.default_rng(0).integers(0, 256, (1, 1, *spec.frame_size, 3), dtype=np.uint8)
    low, high = (np.asarray(bound, np.float32) for bound in (spec.action.low, spec.action.high))
    fidelity = Fidelity(steps, policy, "unipc")
    chunks = []
    for action in (low, high):
        state = world.init(frames, np.zeros((1, 0, spec.action.dim), np.float32), [0])
        _, latents, _ = world.advance(state, np.tile(action, (1, spec.max_chunk, 1)), fidelity)
        chunks.append(latents.float())
    both = torch.stack(chunks)
    if not torch.isfinite(both).all():
        raise CheckpointError(f"{folder} imagines values that are not finite")
    spread = float(both.std())
    sensitivity = float((both[0] - both[1]).abs().mean()) / max(spread, 1e-12)
    if sensitivity == 0.0:
        raise CheckpointError(f"{folder} imagines the same frames whatever the actions are")
    return Verdict(sum(weight.numel() for weight in world.transformer.parameters()), spread, sensitivity)
