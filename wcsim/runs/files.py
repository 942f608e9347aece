"""Files that a kill cannot spoil: JSON values, append-only JSON lines, and whole-file replacement.

Easy to get wrong: a line counts only once its newline is on disk, so the last piece of a file without one is a torn
line, even where it happens to be valid JSON.  JSON has no NaN: numbers that are not finite are written as null.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.errors import RunError


def encode(value: object, *, indent: int | None = None) -> str:
    """JSON text with sorted keys; numpy scalars and arrays become numbers and lists.  TypeError for anything else."""
    return json.dumps(_plain(value), sort_keys=True, allow_nan=False, indent=indent)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def to_lines(rows: Iterable[object]) -> bytes:
    """One JSON line per row."""
    return "".join(encode(row) + "\n" for row in rows).encode()


def from_lines(content: bytes, name: str) -> tuple[list[dict[str, Any]], bool]:
    """The rows of all whole lines, and whether a torn line follows them; `name` is for messages.

    A kill tears only the end: RunError where a whole line is not a JSON object, since the file was then damaged.
    """
    *lines, rest = content.split(b"\n")
    rows = [_to_object(line, f"{name} line {number}") for number, line in enumerate(lines, start=1)]
    return rows, rest != b""


def read_object(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.  Raises RunError where it does not."""
    return _to_object(path.read_bytes(), path.name)


def _to_object(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise RunError(f"{where} is not JSON ({error}); the file is damaged") from error
    if not isinstance(value, dict):
        raise RunError(f"{where} is not a JSON object; the file is damaged")
    return value


def append(path: Path, content: bytes) -> None:
    """Append to an existing file; on return the content is on disk."""
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Write `content` as the whole of `path`: a kill leaves either the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put on disk which names `folder` holds; where folders cannot be opened (Windows) there is nothing to do."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
