"""What is in recordings, as tables of words: the set, and every number of actions and state.

Easy to get wrong: ranges are of up to 200 episodes, evenly taken, not of all in a large set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wcsim.data.check import POOLED
from wcsim.data.recordings import Recordings
from wcsim.errors import DataError


@dataclass(frozen=True, slots=True)
class Summary:
    """facts: what and how much.  numbers: rows of kind, name, least, 5%, median, 95%, most.  left_out: what is
    announced and not there, and episodes that cannot be read."""

    facts: Sequence[tuple[str, str]]
    numbers: Sequence[tuple[str, str, float, float, float, float, float]]
    left_out: Sequence[str]


def summarise(recordings: Recordings) -> Summary:
    """Read the numbers of the episodes, and no frame."""
    spec, rows = recordings.spec, recordings.episodes
    lengths = np.array([row.frames for row in rows])
    frames = int(lengths.sum())
    time = f", {frames / spec.fps / 60:.1f} min" if spec.fps is not None else ""
    instructions = list(dict.fromkeys(row.instruction for row in rows if row.instruction))
    facts = [
        ("format", recordings.format), ("robot", spec.robot or "not said"),
        ("fps", "not said" if spec.fps is None else f"{spec.fps:g}"),
        ("episodes", f"{len(rows)}, of {lengths.min()} to {lengths.max()} frames (median {np.median(lengths):g})"),
        ("frames", f"{frames:,}{time}"),
        ("cameras", ", ".join(f"{one.name} {one.height}x{one.width}" for one in spec.cameras.cameras)),
        ("actions", f"{spec.action.dim}, {spec.action.units or 'units not said'}"),
        ("state", "none" if spec.state is None else f"{spec.state.dim}, {spec.state.units or 'units not said'}"),
        ("instructions", f"{len(instructions)}" + (f", first: {instructions[0]}" if instructions else "")),
        *((f"note: {key}", str(value)) for key, value in spec.notes.items())]
    kept, left = [], [str(error) for error in recordings.left_out]
    for number in np.unique(np.linspace(0, len(rows) - 1, min(len(rows), POOLED)).astype(int)).tolist():
        try:
            kept.append(recordings.episode(number))
        except DataError as error:
            left.append(str(error))
    numbers = [("action", *row) for row in _rows(spec.action.names, [one.actions for one in kept])]
    if spec.state is not None:
        numbers += [("state", *row) for row in
                    _rows(spec.state.names, [one.state for one in kept if one.state is not None])]
    return Summary(facts, numbers, left)


def _rows(names: Sequence[str], parts: Sequence[np.ndarray]) -> list[tuple[str, float, float, float, float, float]]:
    if not parts:
        return []
    low, few, middle, most, high = np.nanquantile(np.concatenate(parts).astype(np.float64), [0, 0.05, 0.5, 0.95, 1],
                                                  axis=0).tolist()
    return list(zip(names, low, few, middle, most, high, strict=True))
