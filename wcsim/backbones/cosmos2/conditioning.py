"""What the transformer is given beside the latents: once for a denoise loop, and at one step of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wcsim.backbones.cosmos2.attention import Position, Text
from wcsim.backbones.cosmos2.modulation import Modulation


@dataclass(frozen=True, slots=True)
class Constants:
    """What is constant during a denoise loop, made once for it.

    action: what the action embedders add to the two modulation inputs, `[N, T, 1, D]` and `[N, T, 1, 3D]`, zero where
    no action is known; None in a model without actions.
    """

    action: tuple[Tensor, Tensor] | None
    text: Text
    position: Position
    control: Tensor | None = None

    @property
    def tail(self) -> int:
        """No tokens but those of the frames."""
        return 0


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What every block reads at one denoise step.

    grid: frames, rows and columns of tokens.
    """

    modulation: Modulation
    position: Position
    text: Text
    grid: tuple[int, int, int]

    @property
    def lanes(self) -> int:
        """How many lanes it is for."""
        return len(self.modulation.time)

    def select(self, lanes: Tensor) -> Conditioning:
        """The conditioning of some lanes."""
        return replace(self, modulation=self.modulation.select(lanes), text=self.text.select(lanes, self.lanes))

    def since(self, frame: int) -> Conditioning:
        """The conditioning of the frames from number `frame` on."""
        if not frame:
            return self
        frames, rows, columns = self.grid
        return replace(self, modulation=self.modulation.since(frame), position=self.position.since(frame, frames),
                       grid=(frames - frame, rows, columns))

    def branch(self, text: Text, count: int) -> Conditioning:
        """All lanes `count` times over, the lanes of each repetition under their share of `text`."""
        return replace(self, modulation=self.modulation.repeat(count) if count > 1 else self.modulation, text=text)


def modulate(
    norm: Any, x_BTPD: Tensor, given: Conditioning, index: int, *, read: bool = True
) -> tuple[Tensor, Tensor]:
    """What a sub-layer reads and the gate of its answer, in the dtype of the tokens; one modulation per frame.  index:
    the norm's number in the model, three to a block.  read: whether the sub-layer reads anything; the tokens come back
    as they are where not."""
    shift, scale, gate = given.modulation.of(norm, index).chunk(3, dim=-1)
    gate = gate.to(x_BTPD.dtype)
    if not read:
        return x_BTPD, gate
    return torch.addcmul(shift, norm.norm(x_BTPD), 1 + scale).to(x_BTPD.dtype), gate


def add_gated(x_BTPD: Tensor, gate_BT1D: Tensor, answer: Tensor) -> Tensor:
    """Tokens and, times the gate of their frame, what a sub-layer answers: `[B, L, D]`, or `[B, 1, D]` for all."""
    alike = answer.shape[1] == 1
    return torch.addcmul(x_BTPD, gate_BT1D, answer.unsqueeze(1) if alike else answer.unflatten(1, x_BTPD.shape[1:3]))
