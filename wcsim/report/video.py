"""Side-by-side video: truth, cached world, uncached world or some of them, the leading error under them.

Easy to get wrong: browsers play H.264 only with halved chroma, so both sides must be even, and imageio would stretch a
picture whose sides are no multiple of 16; the canvas is padded to that instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import imageio.v2 as imageio
import numpy as np

CAPTIONS = {"truth": "truth", "cached": "world, cached", "uncached": "world, uncached"}

PANEL_PX = 384
"""Frames are enlarged a whole number of times, up to this width: 96 px frames four times."""

MARGIN, CAPTION, STRIP, SIDE = 16, 48, 152, 16
"""Pixels: around panels, of the captions above them, of the error strip below, and what sides are multiples of."""

GROUND, INK, FAINT = (22, 24, 28), (230, 232, 234), (74, 80, 88)
PLACE_COLOURS = {"truth": (211, 216, 221), "cached": (86, 180, 233), "uncached": (240, 138, 75)}


@dataclass(frozen=True, slots=True)
class Clip:
    """One episode to show.

    frames: place to `[T + 1, H, W, 3]` uint8, the start first.  errors: `cached` and `uncached` to the error `[T]`
    against the truth, not finite where it was not measured; without any, no strip is drawn.  title: what the error is
    of.  start: the error of the first frame.
    """

    frames: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    title: str = "error"
    start: float = 0.0


def compose(clip: Clip) -> Iterator[np.ndarray]:
    """The `T + 1` pictures of a clip, `[H', W', 3]` uint8, sides multiples of 16."""
    places = [place for place in CAPTIONS if place in clip.frames]
    count, height, width = clip.frames[places[0]].shape[:3]
    scale = max(1, PANEL_PX // width)
    panel_height, panel_width = scale * height, scale * width
    columns = {place: MARGIN + i * (panel_width + MARGIN) for i, place in enumerate(places)}
    strip = STRIP if clip.errors else MARGIN
    size = (CAPTION + panel_height + strip, MARGIN + len(places) * (panel_width + MARGIN))
    ground = np.full((*(-(-side // SIDE) * SIDE for side in size), 3), GROUND, dtype=np.uint8)
    for place, left in columns.items():
        _write(ground, CAPTIONS[place], (left, CAPTION - 15), PLACE_COLOURS[place], 1.0)
    for step in range(count):
        picture = ground.copy()
        for place, left in columns.items():
            frame = clip.frames[place][step].repeat(scale, axis=0).repeat(scale, axis=1)
            picture[CAPTION : CAPTION + panel_height, left : left + panel_width] = frame
        if clip.errors:
            _draw_strip(picture, clip, step, top=CAPTION + panel_height)
        yield picture


def _draw_strip(picture: np.ndarray, clip: Clip, step: int, *, top: int) -> None:
    """Error curves up to `step`, faint beyond it, and a cursor there."""
    count = len(next(iter(clip.frames.values()))) - 1
    left, right = MARGIN, picture.shape[1] - MARGIN
    high, low = top + 58, top + STRIP - 14
    curves = {place: np.array([clip.start, *errors], dtype=np.float64) for place, errors in clip.errors.items()}
    most = max((float(e[np.isfinite(e)].max()) for e in curves.values() if np.isfinite(e).any()), default=0.0)
    _write_line(picture, [
        (clip.title, INK),
        *((f"{place} {_short(errors[step])}", PLACE_COLOURS[place]) for place, errors in curves.items()),
    ], f"step {step}/{count}", top + 38)
    cv2.line(picture, (left, low), (right, low), FAINT, 1)

    def at(horizon: int, error: float) -> tuple[int, int]:
        x = left + (right - left) * horizon / max(count, 1)
        return round(x), round(low - (low - high) * error / (most or 1.0))

    for place, errors in curves.items():
        points = [at(h, error) if np.isfinite(error) else None for h, error in enumerate(errors)]
        for h, (a, b) in enumerate(pairwise(points), start=1):
            if a is not None and b is not None:
                seen = h <= step
                tint = PLACE_COLOURS[place] if seen else _fade(PLACE_COLOURS[place])
                cv2.line(picture, a, b, tint, 3 if seen else 1, cv2.LINE_AA)
    x, _ = at(step, 0.0)
    cv2.line(picture, (x, high - 4), (x, low + 6), INK, 2)


def _short(value: float) -> str:
    """Two digits that mean something, whatever the unit."""
    return "-" if not np.isfinite(value) else f"{value:.1f}" if value >= 1.0 or value == 0.0 else f"{value:.2g}"


def _write_line(
    picture: np.ndarray, parts: Sequence[tuple[str, tuple[int, int, int]]], end: str, y: int
) -> None:
    """Write parts from the left and `end` on the right, all smaller where they would not fit."""
    left, right, gap = MARGIN, picture.shape[1] - MARGIN, 40
    needed = sum(_width(text, 0.8) + gap for text, _ in parts) + _width(end, 0.8)
    size = 0.8 * min(1.0, (right - left) / needed)
    for text, tint in parts:
        left = _write(picture, text, (left, y), tint, size) + round(gap * size / 0.8)
    _write(picture, end, (right, y), INK, size, align_right=True)


def _fade(tint: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple((3 * dark + 2 * light) // 5 for dark, light in zip(GROUND, tint, strict=True))


def _write(
    picture: np.ndarray, text: str, at: tuple[int, int], tint: tuple[int, int, int], size: float,
    *, align_right: bool = False,
) -> int:
    """Put `text` with its baseline's left (or right) end at x, y; returns where it ends."""
    width = _width(text, size)
    x = at[0] - width if align_right else at[0]
    cv2.putText(picture, text, (x, at[1]), cv2.FONT_HERSHEY_DUPLEX, size, tint, 1, cv2.LINE_AA)
    return x + width


def _width(text: str, size: float) -> int:
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, size, 1)
    return int(width)


def encode_mp4(pictures: Iterable[np.ndarray], fps: float) -> bytes:
    """H.264 in MP4 that browsers play and start before it is whole; pictures `[H, W, 3]` uint8, sides even."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        writer: Any = imageio.get_writer(
            path, fps=fps, codec="libx264", pixelformat="yuv420p", macro_block_size=2, ffmpeg_log_level="error",
            output_params=["-crf", "20", "-preset", "fast", "-threads", "1", "-movflags", "+faststart",
                           "-fflags", "+bitexact", "-flags:v", "+bitexact"],
        )
        with writer:
            for picture in pictures:
                writer.append_data(picture)
        return path.read_bytes()
