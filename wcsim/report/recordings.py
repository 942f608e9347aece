"""The page of recordings: what they hold, some of their frames, and how actions, state and lengths are spread.

Easy to get wrong: the page stands alone and opens offline, so the frames are inside it, as one small PNG.

Shapes: F frames of one episode, H W frame, D numbers.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from wcsim.report.canvas import Panel, colour, draw
from wcsim.report.template import drawn, fill
from wcsim.runs import files

THUMB = 120
"""Height of a frame on the page, in pixels."""

MOST_PANELS = 64
"""Histograms on a page."""


def write_recordings(
    out: Path, *, title: str, facts: Sequence[tuple[str, str]], left_out: Sequence[str],
    frames: Sequence[tuple[str, np.ndarray]], values: Sequence[tuple[str, np.ndarray]], lengths: np.ndarray,
) -> Path:
    """Write `recordings.html` into a folder, which is made; returns its path.

    frames: a label and frames uint8 `[F, H, W, 3]` per row of the contact sheet.  values: a name and all numbers `[n]`
    of it per histogram.  lengths: frames of every episode.
    """
    panels = [histogram("length", "Frames per episode", lengths)]
    panels += [histogram(f"value-{place}", name, some) for place, (name, some) in enumerate(values[:MOST_PANELS])]
    sheets = [(label, "data:image/png;base64," + b64encode(png_of(some)).decode()) for label, some in frames]
    out.mkdir(parents=True, exist_ok=True)
    page = out / "recordings.html"
    files.replace(page, fill("recordings.html", title=title, facts=facts, left_out=left_out, sheets=sheets,
                             lengths=drawn(panels[:1]), spreads=drawn(panels[1:]),
                             hidden=max(len(values) - MOST_PANELS, 0)).encode())
    return page


def histogram(name: str, title: str, values: np.ndarray) -> Panel:
    """How often values `[n]` occur; what is not finite is left out."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.hist(finite, bins=min(40, max(len(np.unique(finite)), 1)), color=colour("cached"))
        axes.set_xlabel(title)
        axes.set_ylabel("count")

    return Panel(title, draw(name, f"Histogram of {title}", paint, height_in=2.0))


def png_of(frames: np.ndarray) -> bytes:
    """Frames `[F, H, W, 3]` side by side, small."""
    height, width = frames.shape[1:3]
    size = max(round(width * THUMB / height), 1), THUMB
    row = np.concatenate([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames], axis=1)
    return bytes(cv2.imencode(".png", cv2.cvtColor(row, cv2.COLOR_RGB2BGR))[1].tobytes())
