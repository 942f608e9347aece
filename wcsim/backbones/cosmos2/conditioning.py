"""What the transformer is given beside the latents: once for a denoise loop, and at one step of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from wcsim.backbones.cosmos2.attention import Position, Text
from wcsim.backbones.cosmos2.modulation import Modulation


@dataclass(frozen=True, slots=True)
class Constants:
    """What stands still during a denoise loop, made once for it.

    action: what the action embedders add to the two modulation inputs, `[N, T, 1, D]` and `[N, T, 1, 3D]`, zero where
    no action is known; None in a model without actions.
    """

    action: tuple[Tensor, Tensor] | None
    text: Text
    position: Position
    control: Tensor | None = None


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
