"""Motion-compensated reuse (WorldCache's OFA, part two): move the cached residual along with what moved in the tokens.

The paper names no form but a downsampled Lucas-Kanade; this is Lucas-Kanade in closed form on the token grid, per lane
and frame.  Easy to get wrong: denoising hardly moves anything, so expect nothing of it along the denoise steps.

Shape suffixes: N lanes, L tokens, T frames, Y X token rows and columns, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DAMPING = 1e-6
"""Added to the structure tensor, as a share of its trace: where nothing varies, nothing moves."""


def displacement(before_NLD: Tensor, now_NLD: Tensor, grid: tuple[int, int, int], window: int) -> Tensor:
    """How far the content at each token has moved, `[N, T, Y, X, 2]` as (x, y) in tokens.

    The u that minimises sum (u . grad + now - before)^2 over all channels of a square of `window` tokens (odd) around
    the token, cut off at the border; grad: central differences of the mean of both.
    """
    before, now = (_planes(x, grid) for x in (before_NLD, now_NLD))
    grad_y, grad_x = torch.gradient((before + now) / 2, dim=(-2, -1))
    change = now - before
    products = (grad_x * grad_x, grad_x * grad_y, grad_y * grad_y, grad_x * change, grad_y * change)
    sums = torch.stack([product.sum(1) for product in products], dim=1)
    half = window // 2
    xx, xy, yy, xt, yt = F.avg_pool2d(sums, window, stride=1, padding=half, count_include_pad=False).unbind(1)
    damping = DAMPING * (xx + yy) + torch.finfo(torch.float32).tiny
    xx, yy = xx + damping, yy + damping
    determinant = (xx * yy - xy * xy).clamp_min(torch.finfo(torch.float32).tiny)
    moved = torch.stack([xy * yt - yy * xt, xy * xt - xx * yt], dim=-1) / determinant[..., None]
    framed: Tensor = moved.unflatten(0, (-1, grid[0]))
    return framed


def warp(values_NLD: Tensor, moved_NTYX2: Tensor) -> Tensor:
    """The values carried along: at each token, what was `moved` before it (bilinear; the border repeats)."""
    _, frames, rows, columns, _ = moved_NTYX2.shape
    planes = _planes(values_NLD, (frames, rows, columns))
    y, x = (torch.arange(size, device=planes.device, dtype=planes.dtype) for size in (rows, columns))
    source = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1) - moved_NTYX2.flatten(0, 1)
    size = source.new_tensor([max(columns - 1, 1), max(rows - 1, 1)])
    carried = F.grid_sample(planes, 2 * source / size - 1, padding_mode="border", align_corners=True)
    tokens: Tensor = carried.unflatten(0, (-1, frames)).movedim(2, -1).flatten(1, 3)
    return tokens


def _planes(tokens_NLD: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Frames as images, `[N T, D, Y, X]` float32."""
    planes: Tensor = tokens_NLD.float().unflatten(1, grid).flatten(0, 1).movedim(-1, 1)
    return planes
