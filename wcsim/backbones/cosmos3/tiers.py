"""The sizes that Cosmos 3 was trained at, and the world that a picture of some size becomes.

A picture, its sides squashed to multiples of 16, goes on the canvas, of its tier, whose proportions are nearest; it is
shrunk where it is larger, and its edge is repeated where it is smaller (`wcsim.world.canvas`).  What is imagined is the
picture cut to whole latents.
"""

from __future__ import annotations

from wcsim.errors import ConfigError
from wcsim.world.canvas import Size, fitted_size

TIERS: dict[int, tuple[Size, ...]] = {
    256: ((256, 256), (256, 320), (320, 256), (192, 320), (320, 192)),
    480: ((640, 640), (544, 736), (736, 544), (480, 832), (832, 480)),
    704: ((960, 960), (832, 1088), (1088, 832), (704, 1280), (1280, 704)),
    720: ((960, 960), (832, 1104), (1104, 832), (720, 1280), (1280, 720)),
}
"""Canvases, height and width in pixels, by tier."""

COMPRESSION = 16
"""Frame pixels per latent pixel, along a side."""


def squashed_size(frame: Size) -> Size:
    """A frame's size before it goes on a canvas."""
    height, width = (max(side // COMPRESSION, 1) * COMPRESSION for side in frame)
    return height, width


def canvas_of(frame: Size, tier: int) -> Size:
    """The canvas of a tier for frames of a size; ConfigError for an unknown tier."""
    if tier not in TIERS:
        raise ConfigError(f"tier is {tier}; known: {', '.join(map(str, TIERS))}")
    return min(TIERS[tier], key=lambda canvas: abs(canvas[0] / canvas[1] - frame[0] / frame[1]))


def imagined_size(frame: Size, tier: int) -> Size:
    """The size of the frames that are imagined from one of this size."""
    squashed = squashed_size(frame)
    return squashed_size(fitted_size(squashed, canvas_of(squashed, tier)))
