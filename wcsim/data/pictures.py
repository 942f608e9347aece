"""Frames that a dataset keeps as pictures in its table (dtype image): PNG or JPEG bytes, or paths to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from wcsim.data.tables import columns_of, read_table
from wcsim.errors import DataError


def read_pictures(path: Path, column: str, episode: int, ticks: Sequence[int], root: Path) -> np.ndarray:
    """Frames `[n, H, W, 3]` uint8 of an episode; only these are decoded."""
    order = [name for name in ("frame_index",) if name in columns_of(path)]
    table = read_table(path, [column, *order], episode=episode if "episode_index" in columns_of(path) else None)
    cells = (table.sort_by("frame_index") if order else table).column(column)
    if ticks and max(ticks) >= len(cells):
        raise DataError(f"{path} has {len(cells)} pictures of {column!r} in episode {episode}, asked for {max(ticks)}",
                        kind="drift")
    return np.stack([_decode(cells[tick].as_py(), f"{path} episode {episode} row {tick}", root) for tick in ticks])


def _decode(cell: object, where: str, root: Path) -> np.ndarray:
    content = cell if isinstance(cell, bytes) else None
    if isinstance(cell, dict):
        content = cell.get("bytes")
        if content is None and cell.get("path") and (root / cell["path"]).is_file():
            content = (root / cell["path"]).read_bytes()
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if picture is None:
        raise DataError(f"{where} holds no picture; PNG or JPEG bytes are needed")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
