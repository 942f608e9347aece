"""Windows of latent footage: a clean context and new frames, many of them where the picture changes.

Easy to get wrong: how much a picture changes needs no label, so windows are balanced by it whatever the robot does.

Shapes: B windows, T frames, C latent channels, h w latent pixels, F action features, R robot state.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wcsim.errors import DataError
from wcsim.train.footage import LatentFootage

CHANGE_QUANTILE = 0.95
"""Changes beyond this quantile count as this much: a cut between scenes is not the most interesting motion."""


class Draws(Protocol):
    """What a recipe says of windows; see `wcsim.train.recipe.TransformerRecipe`."""

    @property
    def max_context(self) -> int: ...

    @property
    def max_chunk(self) -> int: ...

    @property
    def context_shares(self) -> tuple[float, ...]: ...

    @property
    def chunk_shares(self) -> tuple[float, ...]: ...

    @property
    def moving_share(self) -> float: ...

    @property
    def start_share(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Window:
    """A batch: latents `[B, T, C, h, w]`, actions `[B, T, F]`, known `[B, T]`, state and its change `[B, T, R]`;
    `context` frames are clean."""

    latents: Tensor
    actions: Tensor
    known: Tensor
    state: Tensor
    change: Tensor
    context: int

    def to(self, device: torch.device) -> Window:
        """The window on a device."""
        return Window(self.latents.to(device), self.actions.to(device), self.known.to(device), self.state.to(device),
                      self.change.to(device), self.context)


def starts_of(latents: LatentFootage, length: int) -> np.ndarray:
    """Frames at which a window of a length may begin; DataError where every episode is shorter."""
    starts = np.flatnonzero(latents.room >= length)
    if len(starts) == 0:
        raise DataError(f"no episode has {length} frames, which a window needs; the longest has "
                        f"{int(latents.room.max())}: lower max_context or max_chunk")
    return starts


def reach_of(change: np.ndarray) -> np.ndarray:
    """Running sum `[n]` of changes `[n]`, the largest of which count as `CHANGE_QUANTILE`, and none as nothing."""
    most = np.quantile(change[change > 0], CHANGE_QUANTILE) if (change > 0).any() else 1.0
    found: np.ndarray = np.cumsum(np.minimum(change, most) + 1e-9)
    return found


class Windows:
    """Draws windows of footage."""

    def __init__(self, latents: LatentFootage, recipe: Draws) -> None:
        self._latents, self._recipe = latents, recipe
        starts_of(latents, 2)
        self._starts: dict[int, np.ndarray] = {}

    @cached_property
    def _reach(self) -> np.ndarray:
        """Running sum of how much every frame counts where windows are drawn by change."""
        return reach_of(self._latents.change)

    def draw(self, count: int, rng: np.random.Generator, imagined: bool = False) -> Window:
        """`count` windows of one random shape; with room for a chunk more of context where one shall be `imagined`."""
        recipe = self._recipe
        context = int(rng.choice(recipe.max_context, p=recipe.context_shares)) + 1
        chunk = int(rng.choice(recipe.max_chunk, p=recipe.chunk_shares)) + 1
        context += int(rng.integers(1, recipe.max_chunk + 1)) if imagined else 0
        longest = int(self._latents.room.max())
        context = min(context, longest - 1)
        return self.at(self._begin(count, context, min(chunk, longest - context), rng), context,
                       min(chunk, longest - context), rng)

    def _begin(self, count: int, context: int, chunk: int, rng: np.random.Generator) -> np.ndarray:
        length = context + chunk
        if length not in self._starts:
            self._starts[length] = starts_of(self._latents, length)
        starts, first, room = self._starts[length], self._latents.first, self._latents.room
        begin = rng.choice(starts, size=count)
        moving = rng.random(count) < self._recipe.moving_share
        tick = np.searchsorted(self._reach, rng.random(count) * self._reach[-1])
        last = tick + room[tick] - length  # the last start in the episode
        wanted = np.clip(tick - context - rng.integers(chunk, size=count), first[tick], np.maximum(last, first[tick]))
        begin = np.where(moving & (last >= first[tick]), wanted, begin)
        opening = rng.random(count) < self._recipe.start_share
        return np.where(opening, first[begin], begin)

    def at(self, begin: np.ndarray, context: int, chunk: int, rng: np.random.Generator) -> Window:
        """The windows that begin at some frames; of one in five nothing is known of how its first frame came."""
        latents = self._latents
        ticks = begin[:, None] + np.arange(context + chunk)
        known = latents.known[ticks]
        known[:, 0] &= torch.from_numpy(rng.random(len(begin)) < 0.8)
        return Window(torch.from_numpy(latents.latents[ticks].astype(np.float32)), latents.actions[ticks], known,
                      latents.state[ticks], latents.state_change[ticks], context)
