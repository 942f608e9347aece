"""How far the making of a run directory came: half made, or whole with nothing recorded, which costs nobody anything.

Easy to get wrong: what is not known to be wcsim's own is never removed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from wcsim.runs.lock import LOCK

MADE = {"steps.jsonl", "episodes.jsonl", "manifest.json"}
"""Files of a new run before its config.yaml, which is written last."""
HALF_MADE = MADE | {LOCK, *(f".{name}.tmp" for name in {*MADE, "config.yaml"})}
FOLDERS = ("episodes", "logs")
EMPTY = HALF_MADE | {"config.yaml", "progress.json", ".progress.json.tmp", *FOLDERS}


def is_half_made(path: Path) -> bool:
    """Whether `path` is a directory with nothing in it but what a kill leaves of a run that is being created."""
    return path.is_dir() and {file.name for file in path.iterdir()} <= HALF_MADE


def nothing_recorded(path: Path) -> bool:
    """Whether `path` is a run of which no episode, and nothing of one, was kept."""
    if not (path / "config.yaml").is_file() or not {file.name for file in path.iterdir()} <= EMPTY:
        return False
    rows = [path / name for name in ("steps.jsonl", "episodes.jsonl")]
    return all(file.is_file() and not file.stat().st_size for file in rows) and not any(path.glob("episodes/*.npz"))


def clear(path: Path) -> None:
    """Leave of a run with nothing recorded what a kill leaves of one that is half made.  A kill meanwhile leaves either
    of the two."""
    for folder in FOLDERS:
        shutil.rmtree(path / folder, ignore_errors=True)
    for name in ("progress.json", ".progress.json.tmp", "config.yaml"):
        (path / name).unlink(missing_ok=True)
