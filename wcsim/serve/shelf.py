"""Recordings of what people drove, by name, in a folder that the server was started with, or one that does not last.

`drives/NAME/` has every drive whole: arrays as they were, and a video.  `datasets/NAME/` is all of them as a
LeRobotDataset, made anew with each.  Easy to get wrong: a name is letters, digits, _ and -, so it is no path.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from wcsim.data.lerobot_writer import LeRobotWriter
from wcsim.data.recordings import RecordedEpisode
from wcsim.envs.tasks import Task
from wcsim.errors import ConfigError, RemoteError
from wcsim.rollout.dataset import recordings_spec
from wcsim.runs import files
from wcsim.serve.reel import Reel

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
NAMES, EPISODES = 64, 200
"""Most names on a shelf, and drives under one of them."""


@dataclass(frozen=True, slots=True)
class Shelved:
    """episodes: of the dataset, with this one.  zip: the dataset, bytes."""

    episodes: int
    zip: bytes


class Shelf:
    """folder: None keeps recordings until `close`.  ConfigError where the folder cannot be made."""

    def __init__(self, folder: Path | None) -> None:
        self._temporary = TemporaryDirectory(prefix="wcsim-serve-") if folder is None else None
        self._folder = Path(self._temporary.name) if folder is None and self._temporary else Path(str(folder))
        self._lock = Lock()
        try:
            for part in ("drives", "datasets"):
                (self._folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"recordings cannot be kept in {folder}: {error.strerror or error}") from error

    def close(self) -> None:
        """Remove what was to be kept only so long."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def add(self, name: str, task: Task, reel: Reel, video: bytes, about: Mapping[str, Any]) -> Shelved:
        """Put a drive with its video (mp4) under a name.  RemoteError for a bad name, a full shelf, nothing driven, or
        a name under which another task lies."""
        if not NAME.fullmatch(name):
            raise RemoteError("a recording's name is at most 40 letters, digits, _ and -, a letter or digit first")
        if not reel.actions:
            raise RemoteError("there is nothing to record yet: drive some steps")
        with self._lock:
            drives = self._folder / "drives" / name
            there = sorted(drives.glob("*.npz"))
            if len(there) >= EPISODES or (not there and sum(1 for _ in drives.parent.iterdir()) >= NAMES):
                raise RemoteError(f"no more room: {NAMES} names, {EPISODES} drives for each")
            if there and _about(there[0])["task"] != task.name:
                raise RemoteError(f"{name} holds drives of task {_about(there[0])['task']}; choose another name")
            drives.mkdir(exist_ok=True)
            number = int(there[-1].stem) + 1 if there else 0
            told = json.dumps({**about, "task": task.name, "instruction": task.description})
            written = io.BytesIO()
            np.savez_compressed(
                written, frames=np.stack(reel.frames), robots=np.stack(reel.robots), success=np.array(reel.success),
                actions=np.stack(reel.actions), rewards=np.array(reel.rewards, np.float32), about=np.array(told))
            files.replace(drives / f"{number:04d}.mp4", video)
            files.replace(drives / f"{number:04d}.npz", written.getvalue())
            every = [*there, drives / f"{number:04d}.npz"]
            return Shelved(len(every), _zipped(self._dataset(name, task, every), name))

    def _dataset(self, name: str, task: Task, drives: Sequence[Path]) -> Path:
        """Of all drives, in place of the one before."""
        folder, fresh = self._folder / "datasets" / name, self._folder / "datasets" / ".new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        with LeRobotWriter(fresh / name, recordings_spec(task), rewards=True, success=True) as writer:
            for path in drives:
                with np.load(path) as drive:
                    views = task.cameras.split(drive["frames"])
                    told = json.loads(str(drive["about"]))
                    episode = RecordedEpisode(
                        path.stem, drive["actions"], drive["robots"] if task.state.robot else None,
                        told["instruction"], seed=told["seed"], success=bool(drive["success"][-1]))
                    each = views if isinstance(views, dict) else {task.cameras.cameras[0].name: views}
                    writer.add(episode, {camera: [frames] for camera, frames in each.items()}, rewards=drive["rewards"])
        shutil.rmtree(folder, ignore_errors=True)
        (fresh / name).rename(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        return folder


def _about(drive: Path) -> Any:
    with np.load(drive) as told:
        return json.loads(str(told["about"]))


def _zipped(folder: Path, name: str) -> bytes:
    """A folder as a zip with itself inside."""
    written = io.BytesIO()
    with ZipFile(written, "w", ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{name}/{path.relative_to(folder)}")
    return written.getvalue()
