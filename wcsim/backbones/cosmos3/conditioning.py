"""What Cosmos 3's generator is given beside the latents: once for a denoise loop, and at one step of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wcsim.backbones.cosmos3.attention import Text
from wcsim.backbones.cosmos3.positions import Clock, Rope, generator_rope


@dataclass(frozen=True, slots=True)
class Constants:
    """What is constant during a denoise loop.

    actions: their tokens `[N, A, D]`, which carry no noise level.  grid: frames, rows and columns of tokens.
    """

    text: Text
    actions: Tensor
    grid: tuple[int, int, int]

    @property
    def tail(self) -> int:
        """Tokens behind those of the frames: the actions."""
        return self.actions.shape[1]


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What every block reads beside the tokens.  lanes: how many.  actions: how many.  first: frame from which on the
    tokens are; the grid is that of all."""

    clock: Clock
    text: Text
    grid: tuple[int, int, int]
    actions: int
    lanes: int
    device: torch.device
    dtype: torch.dtype
    first: int = 0

    @property
    def frames(self) -> tuple[int, int, int]:
        """The grid of the frames that the tokens are of."""
        frames, rows, columns = self.grid
        return frames - self.first, rows, columns

    def ropes(self) -> list[Rope]:
        """Rotations of the tokens, for the lanes of each text."""
        hidden = self.first * self.grid[1] * self.grid[2]
        found = (generator_rope(self.clock, self.grid, self.actions, length, self.device, self.dtype)
                 for length in self.text.lengths)
        return [(cos[hidden:], sin[hidden:]) for cos, sin in found]

    def select(self, lanes: Tensor) -> Conditioning:
        """The conditioning of some lanes."""
        return replace(self, text=self.text.select(lanes, self.lanes), lanes=len(lanes))

    def since(self, frame: int) -> Conditioning:
        """The conditioning of the frames from number `frame` on, and of the actions."""
        return replace(self, first=self.first + frame)

    def branch(self, text: Text, count: int) -> Conditioning:
        """All lanes `count` times over, the lanes of each repetition under their share of `text`."""
        return replace(self, text=text, lanes=self.lanes * count)
