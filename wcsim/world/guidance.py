"""Classifier-free guidance on the same engine: a lane of two branches is one lane of twice the frames.

Each branch, `conditional` and `unconditional`, runs the blocks under its own text.  A cache policy is shown both at
once, branch beside branch along the frames: what it remembers covers each branch, what it decides holds for both.  Easy
to get wrong: the scale counts from the conditional branch, v = c + g (c - u), so that g = 0 is the conditional branch
alone, and costs one pass.

Shape suffixes: b branches, N lanes, T frames, P tokens per frame, L = T P, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wcsim.errors import ConfigError

CONDITIONAL, UNCONDITIONAL = "conditional", "unconditional"


@dataclass(frozen=True, slots=True)
class Guidance:
    """scale: g, above 0.  unconditional: text `[1 or N, S, E]`.  batched: both branches in one batch, or one after the
    other, for half the memory."""

    scale: float
    unconditional: Tensor
    batched: bool = True

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ConfigError(f"a guidance scale of {self.scale:g} needs no second branch; leave the guidance out")


def guide(velocity_bN: Sequence[Tensor], scale: float) -> Tensor:
    """Return v = c + g (c - u); c alone where there is no second branch."""
    if len(velocity_bN) == 1:
        return velocity_bN[0]
    conditional, unconditional = velocity_bN
    return conditional + scale * (conditional - unconditional)


def beside(tokens_bNLD: Sequence[Tensor], frames: int) -> Tensor:
    """Branches `[N, L, D]` as `[N, b L, D]`: of each frame first the one, then the other."""
    if len(tokens_bNLD) == 1:
        return tokens_bNLD[0]
    return torch.stack([tokens.unflatten(1, (frames, -1)) for tokens in tokens_bNLD], dim=2).flatten(1, 3)


def apart(tokens: Tensor, frames: int, branches: int) -> Sequence[Tensor]:
    """Undo `beside`."""
    if branches == 1:
        return (tokens,)
    return tuple(branch.flatten(1, 2) for branch in tokens.unflatten(1, (frames, branches, -1)).unbind(2))
