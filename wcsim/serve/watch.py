"""Runs and trainings in a folder, as they grow: progress, curves, videos.  Nothing is written.

Easy to get wrong: a client names a video by a key that was made here of what was found, never by a path; and what lies
outside of the folder, by a link or otherwise, is not shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from wcsim.errors import ConfigError, WcsimError
from wcsim.experiments.watch import PROGRESS, status_of
from wcsim.runs import files
from wcsim.runs.lock import holder

MARKS = ("recipe.json", "config.yaml")
"""A folder with one of these is a training or a run."""
RUNS, VIDEOS, CURVES, POINTS = 50, 60, 12, 300
"""Most that is shown: folders, the newest first; of each, videos and curves; of a curve, points."""

Curves = dict[str, list[tuple[float, float]]]


class Watched:
    """folder: a run, or a folder of runs.  ConfigError where it is none."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"--watch {folder}: there is no such folder")
        self._root = folder.resolve()
        self._videos: dict[str, Path] = {}

    def runs(self) -> list[dict[str, Any]]:
        """All that are found now, the newest first."""
        found = [(newest(folder), folder) for folder in self._folders()]
        return [self._told(folder) for _, folder in sorted(found, reverse=True)[:RUNS]]

    def video(self, key: str) -> Path | None:
        """The video that `runs` gave this key; None where there is none."""
        path = self._videos.get(key)
        return path if path is not None and path.is_file() else None

    def _folders(self) -> Iterator[Path]:
        for folder in (self._root, *sorted(self._root.iterdir())):
            if folder.is_dir() and self._inside(folder) and any((folder / mark).is_file() for mark in MARKS):
                yield folder

    def _inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._root)

    def _told(self, folder: Path) -> dict[str, Any]:
        kind = "training" if (folder / "recipe.json").is_file() else "run"
        told: dict[str, Any] = {"name": folder.name, "kind": kind, "curves": {}, "line": "", "share": None}
        try:
            if kind == "training":
                rows = rows_of(folder / "scalars.jsonl")
                told |= {"curves": trained(rows), "line": training_line(folder, rows)}
            else:
                rows = rows_of(folder / "episodes.jsonl")
                told |= {"curves": played(rows), **run_line(folder, len(rows))}
        except (WcsimError, OSError, ValueError, KeyError, TypeError) as error:
            told["line"] = f"cannot be read now: {str(error).replace(str(self._root), '')[:200]}"
        told["videos"] = [{"name": path.stem.replace("_", " "), "key": self._key(path)} for path in self._films(folder)]
        return told

    def _films(self, folder: Path) -> list[Path]:
        films = [path for path in folder.glob("*.mp4") if path.is_file() and self._inside(path)]
        return sorted(films)[:VIDEOS]

    def _key(self, path: Path) -> str:
        key = sha256(str(path.relative_to(self._root)).encode()).hexdigest()[:20]
        self._videos[key] = path
        return key


def newest(folder: Path) -> float:
    """When anything in a folder was last written."""
    return max((path.stat().st_mtime for path in folder.iterdir() if path.is_file()), default=0.0)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file that may be growing."""
    return files.from_lines(path.read_bytes(), path.name)[0] if path.is_file() else []


def trained(rows: Sequence[Mapping[str, Any]]) -> Curves:
    """Every scalar of a training over its steps."""
    found: Curves = {}
    for row in rows:
        for split in ("train", "held_out"):
            for name, value in row[split].items():
                add(found, f"{row['stage']}: {name}, {split.replace('_', ' ')}", row["step"], value)
    return shortened(found)


def played(rows: Sequence[Mapping[str, Any]]) -> Curves:
    """Every number that episodes of a run have, in the order in which they ended."""
    found: Curves = {}
    for number, row in enumerate(rows):
        for name, value in row.items():
            if name not in ("episode", "number", "seed", "start", "index"):
                add(found, name.replace("_", " "), number, value)
    return shortened(found)


def add(curves: Curves, name: str, x: float, value: Any) -> None:
    """A point, where the value is a finite number."""
    if isinstance(value, int | float) and math.isfinite(value):
        curves.setdefault(name, []).append((x, float(value)))


def shortened(curves: Curves) -> Curves:
    """The first curves, each with few enough points."""
    return {name: points[:: -(-len(points) // POINTS)] for name, points in list(curves.items())[:CURVES]}


def training_line(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """How far a training is."""
    ended = (folder / "summary.json").is_file()
    if not rows:
        return "ended" if ended else "no checkpoint yet"
    last = rows[-1]
    return f"{last['stage']} step {last['step']}, {last['seconds']:.0f} s" + (", ended" if ended else "")


def run_line(folder: Path, episodes: int) -> dict[str, Any]:
    """How far a run is, in words and, where it is known, as a share."""
    if (folder / PROGRESS).is_file():
        status = status_of(folder)
        return {"line": status.line, "share": status.told["done"] / max(1, status.told["total"])}
    writer, ended = holder(folder), (folder / "summary.json").is_file()
    state = f"written by {writer}" if writer else "ended" if ended else "stopped"
    return {"line": f"{episodes} episodes, {state}"}
