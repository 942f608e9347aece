"""What a frame is told beside its noise level: its action, and where things are in it."""

from __future__ import annotations

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
    rows, columns = (torch.linspace(-1, 1, size, dtype=latents_NCThw.dtype, device=latents_NCThw.device)
                     for size in (height, width))
    rows, columns = (axis / axis.square().mean().sqrt() for axis in (rows, columns))
    by_row, by_column = latents_NCThw.sum(-1), latents_NCThw.sum(-2)
    sums = torch.stack([by_row.sum(-1), by_row @ rows, by_column @ columns], dim=-1) / (height * width) ** 0.5
    said: Tensor = sums.transpose(1, 2).flatten(2)
    return said
