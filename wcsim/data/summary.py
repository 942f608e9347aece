"""What is in recordings, as tables of words: the set, and every number of actions and state.

Easy to get wrong: ranges are of up to 200 episodes, evenly taken, not of all in a large set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wcsim.data.check import POOLED
from wcsim.data.recordings import RecordedEpisode, Recordings
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
    kept, refused = _pooled(recordings)
    left = [*(str(error) for error in recordings.left_out), *refused]
    numbers = [("action", *row) for row in _rows(spec.action.names, [one.actions for one in kept])]
    if spec.state is not None:
        numbers += [("state", *row) for row in
                    _rows(spec.state.names, [one.state for one in kept if one.state is not None])]
    return Summary(facts, numbers, left)


def all_values(recordings: Recordings) -> list[tuple[str, np.ndarray]]:
    """Name and values `[n]` of every number of actions and state."""
    spec, (kept, _) = recordings.spec, _pooled(recordings)
    parts = [("action", spec.action, [one.actions for one in kept])]
    if spec.state is not None:
        parts.append(("state", spec.state, [one.state for one in kept if one.state is not None]))
    return [(f"{kind} {name}", np.concatenate(values)[:, place]) for kind, signal, values in parts if values
            for place, name in enumerate(signal.names)]


def some_frames(recordings: Recordings, *, episodes: int = 4, columns: int = 8) -> list[tuple[str, np.ndarray]]:
    """A label and frames uint8 `[columns, H, W, 3]`, evenly taken, of every camera in some episodes."""
    shown, total = [], len(recordings.episodes)
    for number in np.unique(np.linspace(0, total - 1, min(total, episodes)).astype(int)).tolist():
        row = recordings.episodes[number]
        ticks = np.linspace(0, row.frames - 1, columns).astype(int).tolist()
        for camera in recordings.spec.cameras.cameras:
            label = f"episode {row.name}, {camera.name}" + (f": {row.instruction}" if row.instruction else "")
            try:
                shown.append((label, recordings.frames(number, camera.name, ticks)))
            except DataError:
                continue  # `check` says what is wrong with it
    return shown


def _pooled(recordings: Recordings) -> tuple[list[RecordedEpisode], list[str]]:
    """Some episodes, evenly taken, and why others could not be read."""
    kept, refused, total = [], [], len(recordings.episodes)
    for number in np.unique(np.linspace(0, total - 1, min(total, POOLED)).astype(int)).tolist():
        try:
            kept.append(recordings.episode(number))
        except DataError as error:
            refused.append(str(error))
    return kept, refused


def _rows(names: Sequence[str], parts: Sequence[np.ndarray]) -> list[tuple[str, float, float, float, float, float]]:
    if not parts:
        return []
    low, few, middle, most, high = np.nanquantile(np.concatenate(parts).astype(np.float64), [0, 0.05, 0.5, 0.95, 1],
                                                  axis=0).tolist()
    return list(zip(names, low, few, middle, most, high, strict=True))
