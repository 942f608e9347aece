"""What a noise level and an action do to a block: per frame a shift, a scale and a gate for each of its sub-layers.

A denoise loop knows its noise levels from the start, so the modulation of many steps is made at once: a matrix product
of a few rows costs as much as one of many, and a step of one lane has no more rows than frames.  Where one step has
rows enough, it is made norm by norm when asked for, so that blocks that are skipped cost nothing.  Steps that a cache
is known to skip have none.

Shape suffixes: K norms, S denoise steps, N lanes, T frames, P tokens per frame, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

ROWS = 64
"""Most rows (steps x lanes x frames) of the products that make several steps' modulation at once."""

Embed = Callable[[Tensor, tuple[Tensor, Tensor] | None], tuple[Tensor, Tensor]]
"""Noise levels `[B, T]` and what actions add to the two inputs of the norms; those inputs."""
Make = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Those inputs `[B, T, 1, D]` and `[B, T, 1, 3D]`; what all norms make of them, `[K, B, T, 1, 3D]`, and the one behind
the last block, `[B, T, 1, 2D]`."""


@dataclass(frozen=True, slots=True)
class Modulation:
    """One denoise step.

    time: `[N, T, 1, D]` normalised time and action embedding.  shared: `[N, T, 1, 3D]` the adaLN vector that all norms
    share.  made: `[K, N, T, 1, 3D]`, what each norm makes of the two.  last: `[N, T, 1, 2D]`, what the one behind the
    last block makes of them.  Both None: not made yet.
    """

    time: Tensor
    shared: Tensor
    made: Tensor | None = None
    last: Tensor | None = None

    def of(self, norm: Any, index: int) -> Tensor:
        """Shift, scale and gate side by side, `[N, T, 1, 3D]`, of an adaLN-zero `norm`, number `index` of the model."""
        return modulation_of(norm, self.time, self.shared) if self.made is None else self.made[index]

    def of_last(self, norm: Any) -> Tensor:
        """Shift and scale side by side, `[N, T, 1, 2D]`, of the adaLN `norm` behind the last block."""
        return modulation_of(norm, self.time, self.shared) if self.last is None else self.last

    def select(self, lanes: Tensor) -> Modulation:
        """That of some lanes."""
        made, last = self.made, self.last
        return Modulation(self.time[lanes], self.shared[lanes], None if made is None else made[:, lanes],
                          None if last is None else last[lanes])

    def since(self, frame: int) -> Modulation:
        """That of the frames from number `frame` on."""
        made, last = self.made, self.last
        return Modulation(self.time[:, frame:], self.shared[:, frame:], None if made is None else made[:, :, frame:],
                          None if last is None else last[:, frame:])

    def repeat(self, count: int) -> Modulation:
        """All lanes, `count` times over."""
        made = None if self.made is None else self.made.repeat(1, count, 1, 1, 1)
        last = None if self.last is None else self.last.repeat(count, 1, 1, 1)
        return Modulation(self.time.repeat(count, 1, 1, 1), self.shared.repeat(count, 1, 1, 1), made, last)


def modulation_of(norm: Any, time: Tensor, shared: Tensor) -> Tensor:
    """What a `CosmosAdaLayerNormZero`, or a `CosmosAdaLayerNorm` without gate, adds up before it reads any token."""
    own = norm.linear_2(norm.linear_1(norm.activation(time)))
    made: Tensor = own + shared[..., : own.shape[-1]]
    return made


class Modulations(Sequence[Modulation]):
    """The modulation of every step of a denoise loop, made when asked for: steps of few rows several at once.

    action: `[N, T, 1, D]` and `[N, T, 1, 3D]`, see `Embed`; None without actions.  schedule: the steps that will be
    asked for, None for all; another one is made by itself.
    """

    def __init__(
        self, embed: Embed, make: Make, sigma_SNT: Tensor, action: tuple[Tensor, Tensor] | None,
        schedule: Sequence[int] | None = None,
    ) -> None:
        self._embed, self._make_all, self._action = embed, make, action
        self._sigma_SNT, self._lanes = sigma_SNT, sigma_SNT.shape[1]
        steps = list(range(len(sigma_SNT)) if schedule is None else schedule)
        self._at_once = steps_at_once(sigma_SNT.shape[1] * sigma_SNT.shape[2])
        lots = [steps[first : first + self._at_once] for first in range(0, len(steps), self._at_once)]
        self._lot_of = {step: lot for lot in lots for step in lot}
        self._made: tuple[list[int], Modulation] | None = None

    def __len__(self) -> int:
        return len(self._sigma_SNT)

    @overload
    def __getitem__(self, step: int) -> Modulation: ...
    @overload
    def __getitem__(self, step: slice) -> Sequence[Modulation]: ...
    def __getitem__(self, step: int | slice) -> Modulation | Sequence[Modulation]:
        """Only the lot of steps asked for last is kept."""
        if isinstance(step, slice):
            return [self[one] for one in range(len(self))[step]]
        number = range(len(self))[step]
        lot = self._lot_of.get(number, [number])
        if self._made is None or self._made[0] != lot:
            # Stacked, since a list as an index would be uploaded, which waits for the device.
            self._made = lot, self._make(torch.stack([self._sigma_SNT[one] for one in lot]))
        whole, place = self._made[1], lot.index(number)
        own = slice(place * self._lanes, (place + 1) * self._lanes)
        made, last = whole.made, whole.last
        return Modulation(whole.time[own], whole.shared[own], None if made is None else made[:, own],
                          None if last is None else last[own])

    def _make(self, sigma_SNT: Tensor) -> Modulation:
        """Of some steps, as of one with their lanes together."""
        steps = len(sigma_SNT)
        action = self._action and (self._action[0].repeat(steps, 1, 1, 1), self._action[1].repeat(steps, 1, 1, 1))
        time, shared = self._embed(sigma_SNT.flatten(0, 1), action)
        if self._at_once == 1:
            return Modulation(time, shared)
        return Modulation(time, shared, *self._make_all(time, shared))


def steps_at_once(rows: int) -> int:
    """Denoise steps made at once where each has so many rows."""
    return max(1, ROWS // rows)
