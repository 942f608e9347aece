"""A contact sheet: what was imagined under what was true, a pair of rows per episode, a column per horizon.

Easy to get wrong: which episodes are shown decides what a reader believes, so they are picked by rank, not by eye.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

GAP, MARGIN, SCALE = 4, 92, 2
INK, GROUND = (40, 40, 40), 255


def by_rank(errors: np.ndarray, shares: Sequence[float] = (0.1, 0.5, 0.9)) -> list[int]:
    """The episodes whose errors `[N]` stand at these shares of the ranking, best first."""
    order = np.argsort(errors, kind="stable")
    return [int(order[round(share * (len(order) - 1))]) for share in shares]


def contact_sheet(
    truth: np.ndarray, imagined: np.ndarray, horizons: Sequence[int], labels: Sequence[str]
) -> np.ndarray:
    """RGB picture uint8 of frames `[E, T, H, W, 3]`, the t-th after horizon `horizons[t]`; a label per episode."""
    count, columns, height, width = truth.shape[:4]
    cell_h, cell_w = SCALE * height + GAP, SCALE * width + GAP
    sheet = np.full((24 + count * (2 * cell_h + 2 * GAP), MARGIN + columns * cell_w, 3), GROUND, np.uint8)
    for column, horizon in enumerate(horizons):
        write(sheet, f"step {horizon}", MARGIN + column * cell_w, 16)
    for row in range(count):
        top = 24 + row * (2 * cell_h + 2 * GAP)
        write(sheet, labels[row], 4, top + 14)
        for place, (name, frames) in enumerate((("truth", truth), ("imagined", imagined))):
            y = top + place * cell_h
            write(sheet, name, 4, y + cell_h // 2)
            for column in range(columns):
                x = MARGIN + column * cell_w
                large = cv2.resize(frames[row, column], None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
                sheet[y : y + SCALE * height, x : x + SCALE * width] = large
    return sheet


def write(sheet: np.ndarray, text: str, x: int, y: int) -> None:
    """Put small dark text on the sheet, its baseline at y."""
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
