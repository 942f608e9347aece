"""What is wrong with recordings: every episode's numbers, times and frames, and all of them together.

Easy to get wrong: an episode that cannot be read is a fault like others, and the check goes on with the next.

Shapes: T actions, n frames, H W frame, A action, R robot state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wcsim.data import frame_faults
from wcsim.data.faults import Fault, Numbers
from wcsim.data.lags import find_lag
from wcsim.data.likeness import Like, against_state, compare
from wcsim.data.recordings import RecordedEpisode, Recordings, RecordingsSpec, Signal
from wcsim.data.tables import read_json
from wcsim.errors import DataError
from wcsim.runs import files

POOLED = 200
"""Episodes, evenly taken, whose numbers are looked at together."""

BEYOND, RARE, STILL = 8.0, 0.01, 0.1
"""Ranges from the 5% to the 95% quantile beyond which a value is an outlier; the share of all values above which it is
none; the share of the usual range below which a number counts as resting, and its jitter for nothing."""


def check(recordings: Recordings, like: Like | None = None, *, look: bool = True,
          progress: Callable[[int, int], None] | None = None) -> list[Fault]:
    """All faults, those of single episodes first.  look: decode all frames.

    Raises DataError only where not even the first episode says what the recordings are.
    """
    spec, total = recordings.spec, len(recordings.episodes)
    faults = [Fault.of(error) for error in recordings.left_out]
    if spec.fps is None:
        faults.append(Fault("fps", "", "nothing says how many frames are a second; say it (--fps)"))
    pooled = set(np.linspace(0, total - 1, min(total, POOLED)).astype(int).tolist())
    kept, motion = [], []
    for number in range(total):
        if progress is not None:
            progress(number, total)
        episode, found, moves = check_episode(recordings, number, look=look)
        faults += found
        if episode is not None and number in pooled:
            kept.append(episode)
            motion.append(moves)
    known = all(moves is not None for moves in motion)
    numbers = Numbers.gather(kept, spec.action, spec.state, [one for one in motion if one is not None] if known else ())
    faults += [*find_lag(numbers), *find_outliers(kept, spec), *find_beyond_stats(recordings, numbers),
               *against_state(numbers)]
    return faults + (compare(spec, numbers, like) if like is not None else [])


def check_episode(recordings: Recordings, number: int, *, look: bool
                  ) -> tuple[RecordedEpisode | None, list[Fault], np.ndarray | None]:
    """One episode, its faults, and how much its picture changes `[T]`; None where it cannot be read."""
    name = recordings.episodes[number].name
    try:
        episode = recordings.episode(number)
    except DataError as error:
        return None, [Fault(error.kind, name, str(error))], None
    drift = frame_faults.find_drift(recordings, number, episode)
    faults = [*find_nan(episode, recordings.spec), *find_times(episode, recordings.spec.fps),
              *(fault for found in drift.values() for fault in found)]
    own = getattr(recordings, "own_faults", None)
    if own is not None:
        faults += [Fault.of(error) for error in own(number)]
    if not look:
        return episode, faults, None
    whole = [camera.name for camera in recordings.spec.cameras.cameras if not drift.get(camera.name)]
    seen, motion = frame_faults.look(recordings, number, episode, whole)
    return episode, faults + seen, motion


def find_nan(episode: RecordedEpisode, spec: RecordingsSpec) -> list[Fault]:
    """Numbers that are not finite."""
    faults = []
    for what, signal, values in (("action", spec.action, episode.actions), ("state", spec.state, episode.state)):
        if values is not None and signal is not None and not np.isfinite(values).all():
            tick, place = (int(one) for one in np.argwhere(~np.isfinite(values))[0])
            faults.append(Fault("nan", episode.name, f"{what} {signal.names[place]} is {values[tick, place]} at tick "
                                f"{tick}, {int((~np.isfinite(values)).sum())} such numbers in all"))
    return faults


def find_times(episode: RecordedEpisode, fps: float | None) -> list[Fault]:
    """Timestamps that repeat, go back or jump, or that run faster or slower than the fps."""
    times = episode.times
    if times is None or fps is None or len(times) < 2:
        return []
    gaps = np.diff(times)
    if not np.isfinite(times).all():
        return [Fault("timestamps", episode.name, f"timestamp {int(np.argmin(np.isfinite(times)))} is not finite")]
    if (gaps <= 0).any():
        tick = int(np.argmax(gaps <= 0))
        return [Fault("timestamps", episode.name, f"timestamp {tick + 1} is {times[tick + 1]:.4f} s after "
                      f"{times[tick]:.4f} s; it repeats or goes back, {int((gaps <= 0).sum())} times in all")]
    off = float(np.median(gaps)) * fps
    if abs(off - 1.0) > 0.01 and abs((times[-1] - times[0]) * fps - len(gaps)) > 0.5:
        return [Fault("drift", episode.name, f"the table counts {1 / np.median(gaps):.4g} frames a second, the "
                      f"recordings say {fps:g}")]
    if (np.abs(gaps * fps - 1.0) > 0.5).any():
        tick = int(np.argmax(np.abs(gaps * fps - 1.0)))
        return [Fault("timestamps", episode.name, f"{gaps[tick]:.4f} s lie between timestamps {tick} and {tick + 1}; "
                      f"needed are {1 / fps:.4f} s")]
    return []


def find_outliers(episodes: Sequence[RecordedEpisode], spec: RecordingsSpec) -> list[Fault]:
    """Values far beyond where 90% of them are; one fault per number, at the episode of the worst."""
    faults = []
    parts = [("action", spec.action, [one.actions for one in episodes])]
    if spec.state is not None:
        parts.append(("state", spec.state, [one.state for one in episodes if one.state is not None]))
    for what, signal, values in parts:
        if values:
            faults += _outliers(what, signal, values, [one.name for one in episodes])
    return faults


def _outliers(what: str, signal: Signal, values: Sequence[np.ndarray], names: Sequence[str]) -> list[Fault]:
    every = np.concatenate(values).astype(np.float64)
    every = every[np.isfinite(every).all(1)]
    if len(every) < 20:
        return []
    low, high = np.quantile(every, [0.05, 0.95], axis=0)
    span = high - low
    usual = float(np.median(span[span > 0])) if (span > 0).any() else 0.0
    reach, faults = BEYOND * np.maximum(span, STILL * usual), []
    for place in np.flatnonzero(span > 0).tolist():
        bounds = low[place] - reach[place], high[place] + reach[place]
        wrong = [(number, float(value)) for number, part in enumerate(values) for value in part[:, place]
                 if np.isfinite(value) and not bounds[0] <= value <= bounds[1]]
        if 0 < len(wrong) <= max(RARE * len(every), 3):
            number, value = max(wrong, key=lambda one: abs(one[1] - low[place]))
            faults.append(Fault("outliers", names[number], f"{what} {signal.names[place]} is {value:.4g}, where 90% "
                                f"are {low[place]:.4g} to {high[place]:.4g}; {len(wrong)} such values"))
    return faults


def find_beyond_stats(recordings: Recordings, numbers: Numbers) -> list[Fault]:
    """Actions or states outside what meta/stats.json says of them."""
    path = recordings.path / "meta/stats.json"
    if not path.is_file():
        return []
    try:
        stats = read_json(path)
    except DataError as error:
        return [Fault.of(error)]
    faults = []
    for key, values in (("action", numbers.actions), ("observation.state", numbers.states)):
        told = stats.get(key)
        if not values or not isinstance(told, dict) or not {"min", "max"} <= set(told):
            continue
        every = np.concatenate(values)
        low, high = (np.asarray(told[name], np.float64).reshape(-1) for name in ("min", "max"))
        if low.shape != (every.shape[1],):
            faults.append(Fault("outliers", "", f"{path} has {len(low)} numbers for {key!r}, the table "
                                f"{every.shape[1]}"))
            continue
        slack = 1e-3 * (high - low) + 1e-5
        out = np.flatnonzero(((every < low - slack) | (every > high + slack)).any(0))
        if len(out):
            faults.append(Fault("outliers", "", f"{key!r} number {out[0]} reaches {every[:, out[0]].min():.4g} to "
                                f"{every[:, out[0]].max():.4g}; {path} says {low[out[0]]:.4g} to {high[out[0]]:.4g}"))
    return faults


def write_check(faults: Sequence[Fault], folder: Path) -> Path:
    """check.json in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "check.json"
    files.replace(path, files.encode({"faults": [fault.to_json() for fault in faults]}, indent=2).encode() + b"\n")
    return path
