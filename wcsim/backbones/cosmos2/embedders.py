"""What a frame is given beside its noise level: its action, and where things are in it."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ActionEmbedder(nn.Module):
    """fc1, GELU (tanh form), fc2: the official action MLP."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, actions: Tensor) -> Tensor:
        """`[..., F]` to `[..., out]`."""
        out: Tensor = self.fc2(F.gelu(self.fc1(actions), approximate="tanh"))
        return out


def moments(latents_NCThw: Tensor) -> Tensor:
    """Of every channel of every frame, `[N, T, 3C]`: its sum, and its sums weighted by row and by column.

    Weights have mean square 1 and the sums are divided by the root of their number of terms, so that white noise of
    unit variance has moments of variance 1.
    """
    height, width = latents_NCThw.shape[-2:]
    rows, columns = (_axis(size, latents_NCThw.dtype, latents_NCThw.device) for size in (height, width))
    by_row, by_column = latents_NCThw.sum(-1), latents_NCThw.sum(-2)
    sums = torch.stack([by_row.sum(-1), by_row @ rows, by_column @ columns], dim=-1) / (height * width) ** 0.5
    found: Tensor = sums.transpose(1, 2).flatten(2)
    return found


@lru_cache
def _axis(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Evenly spaced weights `[size]` of mean square 1."""
    with torch.inference_mode(False):  # or training could not use what a rollout has made
        axis = torch.linspace(-1, 1, size, dtype=dtype, device=device)
        return axis / axis.square().mean().sqrt()
