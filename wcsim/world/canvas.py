"""Frames on a canvas: a size that a model was trained at, the frame in its upper left, the rest filled from its edge.

What is larger is shrunk, what is smaller is never enlarged.  Easy to get wrong: the canvas is for the encoder alone;
latents are cut to whole patches of the frame again, so the rollout sees no filling.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""Height and width in pixels."""


def fitted_size(frame: Size, canvas: Size) -> Size:
    """A frame's size on a canvas: shrunk in proportion until it fits."""
    scale = min(canvas[1] / frame[1], canvas[0] / frame[0], 1.0)
    height, width = (max(1, int(scale * side + 0.5)) for side in frame)
    return height, width


def place(pixels_BCHW: Tensor, canvas: Size) -> Tensor:
    """Pixels `[B, C, H', W']` of the canvas's size: mirrored beyond the right and lower edge, or, where the border is
    wider than the frame, its last row and column repeated."""
    frame = (pixels_BCHW.shape[2], pixels_BCHW.shape[3])
    height, width = fitted_size(frame, canvas)
    if (height, width) != frame:
        pixels_BCHW = F.interpolate(pixels_BCHW, (height, width), mode="bicubic", align_corners=False, antialias=True)
    below, right = canvas[0] - height, canvas[1] - width
    if not below and not right:
        return pixels_BCHW
    mode = "replicate" if right >= width or below >= height else "reflect"
    return F.pad(pixels_BCHW, (0, right, 0, below), mode=mode)
