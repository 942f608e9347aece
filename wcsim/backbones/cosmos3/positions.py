"""Where tokens of Cosmos 3 are: three numbers each, a time and a place in the frame, turned into rotations.

Text stands at 0, 1, 2, .. on all three axes.  A margin behind it begin the frames and, at the same time, the actions:
latent f at f / fps, and action i, which leads through the next frame, at (i + 1) / fps, both in units of which 24 make
a second of four-frame latents.  Easy to get wrong: positions reach 15,000, so the angles are made in float32 and only
their cosines are rounded; and where there is one latent alone, time counts latents.

Shape suffixes: L tokens, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

FRAMES_PER_LATENT = 4

Rope = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Clock:
    """How positions count.  fps: of frames and actions.  base_fps: of the frames that positions stand for; None counts
    latents and actions one by one.  margin: between text and frames.  head, theta, axes: head width, base of the
    frequencies, and how many of these belong to time, row and column."""

    fps: float
    base_fps: float | None
    margin: int
    head: int
    theta: float
    axes: tuple[int, int, int]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Clock:
        """That of a transformer's configuration."""
        return cls(
            float(config["fps"]), float(config["base_fps"]) if config["enable_fps_modulation"] else None,
            config["unified_3d_mrope_temporal_modality_margin"], config["head_dim"], config["rope_theta"],
            tuple(config["rope_axes_dim"]),
        )


def text_positions(tokens: int) -> Tensor:
    """Time, row and column of text tokens, `[3, S]` float32."""
    return torch.arange(tokens, dtype=torch.float32).expand(3, -1)


def frame_positions(clock: Clock, grid: tuple[int, int, int], start: float) -> Tensor:
    """Those of the tokens of latent frames in their order, `[3, T h w]` float32; the first frame is at `start`."""
    frames, rows, columns = grid
    time = _times(clock, frames, 0, FRAMES_PER_LATENT, start)
    places = torch.meshgrid(time, torch.arange(rows).float(), torch.arange(columns).float(), indexing="ij")
    return torch.stack(places).flatten(1)


def action_positions(clock: Clock, count: int, start: float) -> Tensor:
    """Those of actions, `[3, A]` float32."""
    time = _times(clock, count, 1, 1, start)
    return torch.stack([time, torch.zeros(count), torch.zeros(count)])


def _times(clock: Clock, count: int, first: int, frames_each: int, start: float) -> Tensor:
    """When `count` things are, of `frames_each` frames, number `first` first."""
    numbers = torch.arange(count, dtype=torch.float32) + first
    if clock.base_fps is None or count == 1:
        return numbers + int(start)
    return numbers / (clock.fps / frames_each) * (clock.base_fps / FRAMES_PER_LATENT) + start


def rope_of(clock: Clock, positions_3L: Tensor) -> Rope:
    """Cosines and sines `[L, d]` float32.  Frequencies are dealt to time, row and column in turn, and what is left over
    goes to time."""
    exponents = torch.arange(0, clock.head, 2, dtype=torch.float32) / clock.head
    angles = (1.0 / clock.theta**exponents)[None, :, None] @ positions_3L[:, None]  # [3, d / 2, L]
    mixed = angles[0].clone()
    for axis in (1, 2):
        places = slice(axis, 3 * clock.axes[axis], 3)
        mixed[places] = angles[axis, places]
    both = torch.cat([mixed, mixed]).T
    return both.cos(), both.sin()


@lru_cache(maxsize=64)
def generator_rope(
    clock: Clock, grid: tuple[int, int, int], actions: int, text_tokens: int, device: torch.device, dtype: torch.dtype
) -> Rope:
    """Rotations of frames, then actions, behind a text of so many tokens; a world asks for few of them, again and
    again."""
    start = float(text_tokens + clock.margin)
    with torch.inference_mode(False):
        places = torch.cat([frame_positions(clock, grid, start), action_positions(clock, actions, start)], dim=1)
        cos, sin = rope_of(clock, places)
        return cos.to(device, dtype), sin.to(device, dtype)
