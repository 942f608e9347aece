"""Parquet and JSON files of a dataset, with one line of error that names the file.

Easy to get wrong: a column of lists is an array only where all lists are equally long.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.data.packages import package
from wcsim.errors import DataError


def read_json(path: Path) -> dict[str, Any]:
    """A file with one JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); it is needed") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); it is damaged") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is no JSON object; it is damaged")
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """A file with a JSON object per line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); it is needed") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise DataError(f"{path} line {number} is no JSON object ({error}); it is damaged") from error
    return rows


def columns_of(path: Path) -> list[str]:
    """Names of the columns of a Parquet file."""
    return list(_guard(path, lambda: package("pyarrow.parquet").read_schema(path)).names)


def read_table(path: Path, columns: Sequence[str], *, episode: int | None = None) -> Any:
    """Some columns of a Parquet file, as a pyarrow table; `episode` takes the rows with that `episode_index`."""
    filters = None if episode is None else [("episode_index", "=", episode)]
    return _guard(path, lambda: package("pyarrow.parquet").read_table(
        path, columns=list(columns), filters=filters, use_threads=False, partitioning=None))


def _guard(path: Path, read: Any) -> Any:
    if not path.is_file():
        raise DataError(f"{path} does not exist; it is needed")
    arrow = package("pyarrow")
    try:
        return read()
    except (arrow.ArrowException, OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise DataError(f"{path} is no whole Parquet file ({why}); it is damaged, fetch it again") from error


def numbers(table: Any, column: str, path: Path, episode: str) -> np.ndarray:
    """A column as float64 `[rows, D]`; numbers are D = 1.  Nulls become NaN."""
    pieces = table.column(column).combine_chunks()
    types = package("pyarrow").types
    kind = pieces.type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        flat = pieces.flatten()
        width = len(flat) // max(len(pieces), 1)
        lengths = package("pyarrow.compute").list_value_length(pieces).fill_null(0)
        counts = set(lengths.unique().to_pylist()) or {width}
        if counts != {width}:
            raise DataError(f"{path} episode {episode} has rows of {min(counts)} to {max(counts)} numbers in "
                            f"{column!r}; all rows need the same", kind="action_count", episode=episode)
        kind, pieces = flat.type, flat
    else:
        width = 1
    if not (types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)):
        raise DataError(f"{path} episode {episode} has {column!r} of type {kind}; numbers are needed", episode=episode)
    values = np.asarray(pieces.cast("float64").to_numpy(zero_copy_only=False), np.float64)
    return values.reshape(-1, width)
