"""Poses of the bodies in a frame: differences, turns, and maps that show them.

A pose `[..., P]` holds x and y of every body in [-1, 1] over the frame and, where it has one, its angle in radians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def columns(angled: Sequence[bool]) -> list[tuple[slice, int | None]]:
    """For every body, where its place and its angle (None without one) stand in a pose."""
    found, first = [], 0
    for angle in angled:
        found.append((slice(first, first + 2), first + 2 if angle else None))
        first += 2 + angle
    return found


def wrap(angle: Tensor) -> Tensor:
    """Angles in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def difference(angled: Sequence[bool], found: Tensor, true: Tensor) -> Tensor:
    """One pose `[..., P]` less another, angles the short way round."""
    parts = []
    for place, own in columns(angled):
        parts.append(found[..., place] - true[..., place])
        if own is not None:
            parts.append(wrap(found[..., own : own + 1] - true[..., own : own + 1]))
    return torch.cat(parts, dim=-1)


def turn(vector: Tensor, angle: Tensor) -> Tensor:
    """Vectors `[..., 2]` turned by `angle` `[...]`."""
    cos, sin = angle.cos(), angle.sin()
    x, y = vector.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)


def turn_places(angled: Sequence[bool], pose: Tensor, angle: Tensor) -> Tensor:
    """Poses, or differences of them, `[..., P]` with every place turned by `angle` `[...]`; angles stay."""
    parts = []
    for place, own in columns(angled):
        parts.append(turn(pose[..., place], angle))
        if own is not None:
            parts.append(pose[..., own : own + 1])
    return torch.cat(parts, dim=-1)


def bump_maps(rows: Tensor, columns: Tensor, angle: Tensor | None, height: float = 1.0) -> list[Tensor]:
    """A body as maps `[..., h, w]`: a Gaussian bump one cell wide and, with an angle `[...]`, the bump times its sine
    and its cosine.  rows, columns: `[..., h]` and `[..., w]`, how many cells each row and column lies from the body."""
    bump = height * torch.exp(-0.5 * (rows.square().unsqueeze(-1) + columns.square().unsqueeze(-2)))
    if angle is None:
        return [bump]
    turned = angle[..., None, None]
    return [bump, bump * turned.sin(), bump * turned.cos()]
