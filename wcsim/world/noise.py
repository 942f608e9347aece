"""Noise as a function of (episode seed, frame index, stream), lane by lane.

A counter-based generator (Philox) is keyed by those three numbers, so a lane's noise depends on nothing else: not on
its neighbours, the batch size, the chunking, the device, or what any cache skipped.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SAMPLING = 0
"""Stream of the noise that a denoise loop starts from."""
PLANNING = 1
"""Stream of those who plan inside an environment, which must not know its noise."""


def frame_noise(seeds_N: Tensor, frames_N: Tensor, shape: tuple[int, ...], stream: int = SAMPLING) -> Tensor:
    """Standard normal float32 `[N, *shape]` on the CPU; lane n gets the noise of its own seed and frame index."""
    lanes = [
        np.random.Generator(np.random.Philox(key=[seed, (stream << 48) + frame])).standard_normal(shape, np.float32)
        for seed, frame in zip(seeds_N.tolist(), frames_N.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(lanes))


def chunk_noise(seeds_N: Tensor, first_N: Tensor, count: int, shape: tuple[int, ...]) -> Tensor:
    """Noise `[N, count, *shape]` of `count` frames from index `first` on."""
    return torch.stack([frame_noise(seeds_N, first_N + offset, shape) for offset in range(count)], dim=1)


def stream_seeds(seeds_N: Tensor, stream: int) -> Tensor:
    """Seeds `[N]` of another stream: what is drawn by them has nothing to do with what is drawn by `seeds`.

    Not the seeds plus a number, since those belong to other episodes: numpy's `SeedSequence` mixes the two.
    """
    mixed = (np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64) for seed in seeds_N.tolist())
    return torch.tensor([int(words[0]) >> 1 for words in mixed], dtype=torch.int64)
