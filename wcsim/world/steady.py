"""Matrix products whose rows do not depend on how many rows there are, on the CPU.

MKL multiplies fewer than four rows by another kernel than more, and the two round differently: the time and action
embeddings of one lane alone (a row per frame) then differ in their last bits from the same rows within a batch.  So few
rows are filled up with zeros.  Easy to get wrong: MKL deals the rows out to its threads, and each thread needs four.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 32
"""Products of fewer rows are filled up to this many: four rows for each of eight threads."""


class SteadyLinear(nn.Linear):
    """A linear layer that rounds one row as it rounds many."""

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        rows = input.numel() // self.in_features
        if rows >= ROWS or rows == 0 or input.device.type != "cpu":
            return super().forward(input)
        filled = F.pad(input.reshape(rows, self.in_features), (0, 0, 0, ROWS - rows))
        return super().forward(filled)[:rows].view(*input.shape[:-1], self.out_features)


def steady(module: nn.Module) -> None:
    """Make every linear layer of a module steady, in place; its weights stay the same."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = SteadyLinear
