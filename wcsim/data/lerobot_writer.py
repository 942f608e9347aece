"""Writes a LeRobotDataset v3.0 that is whole or not there; a stopped one goes on after its last whole file.

Episodes gather in `.NAME.partial` beside the folder, several to a file, and the folder appears at the end.  Easy to get
wrong: LeRobot has a row per frame, so an episode of T actions has T + 1 rows, and the last says the last action again.

Shapes: T actions, H W frame, A action.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from wcsim.data import lerobot_layout as layout
from wcsim.data.packages import package
from wcsim.data.recordings import RecordedEpisode, RecordingsSpec
from wcsim.data.video import VideoWriter
from wcsim.errors import DataError
from wcsim.runs import files

FRAMES_PER_FILE = 4000
FILES_PER_CHUNK = 1000
PICTURES = 16
"""Frames of an episode that its picture statistics are made of."""


SOURCE = "source.json"
"""What a partial dataset is made of; it goes when the dataset is whole."""


def begin_partial(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Begin a partial dataset, or go on with one of the same source.  DataError where it is of another."""
    told = json.loads(json.dumps(wanted))
    if (folder / SOURCE).is_file():
        if files.read_object(folder / SOURCE) != told:
            raise DataError(f"{folder} is of another conversion that was stopped; delete it, or name another folder")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files.replace(folder / SOURCE, json.dumps(told).encode())


class LeRobotWriter:
    """Episodes one after the other; `close` makes the dataset, leaving a `with` block by an error does not.

    source: what identifies the episodes that come, as plain values; only a partial dataset of the same source goes on.
    rewards, success: whether rewards `[T]` and an outcome come with every episode.
    """

    def __init__(self, folder: Path, spec: RecordingsSpec, *, source: Mapping[str, Any] | None = None,
                 rewards: bool = False, success: bool = False, frames_per_file: int = FRAMES_PER_FILE) -> None:
        if folder.exists():
            raise DataError(f"{folder} exists; name a folder that does not")
        self._folder, self._partial = folder, folder.with_name(f".{folder.name}.partial")
        self._spec, self._limit, self._source = spec, frames_per_file, dict(source or {})
        self._features = layout.features_of(spec, rewards=rewards, success=success)
        self._schema = layout.schema_of(self._features)
        self._rows: list[dict[str, Any]] = []
        self._open: _File | None = None
        self._begin()

    @property
    def done(self) -> int:
        """Episodes that are written, in an earlier attempt or this one; the next to `add` is this number."""
        return len(self._rows) + (len(self._open.rows) if self._open is not None else 0)

    def add(self, episode: RecordedEpisode, frames: Mapping[str, Iterable[np.ndarray]], *,
            rewards: np.ndarray | None = None) -> None:
        """Write an episode: `T + 1` frames `[H, W, 3]` uint8 of every camera, in batches or one by one.

        DataError where something is missing, or the disk is full; the dataset then goes on from its last whole file.
        """
        self._check(episode, frames)
        try:
            if self._open is None:
                self._open = _File(self._partial, len(self._files), self._spec, self._schema, self._features)
            self._open.add(self.done, self._first_row, episode, frames, rewards, self._tasks)
            if self._open.frames >= self._limit:
                self._finish_file()
        except (OSError, package("av").error.FFmpegError) as error:
            self._abandon()
            raise DataError(f"{self._folder}: writing episode {episode.name} failed ({error}); {len(self._rows)} "
                            "episodes are whole; make room and run it again, it goes on", episode=episode.name
                            ) from error
        except BaseException:
            self._abandon()
            raise

    def close(self) -> None:
        """Write meta/ and give the dataset its name."""
        if self.done == 0:
            raise DataError(f"{self._folder}: no episode was written; a dataset needs one")
        self._finish_file()
        names = [name for name in self._features if name in self._rows[0]["stats"]]
        stats = {name: layout.merge_stats([row["stats"][name] for row in self._rows]) for name in names}
        for name in names:
            if self._features[name]["dtype"] == "video":
                stats[name] = {key: value if key == "count" else [[[one]] for one in value]
                               for key, value in stats[name].items()}
        signals = {"action": self._spec.action.to_json()}
        if self._spec.state is not None:
            signals["observation.state"] = self._spec.state.to_json()
        told = {str(number): row["told"] for number, row in enumerate(self._rows)}
        notes = {"signals": signals, "conversion": dict(self._spec.notes), "episodes": told}
        layout.write_meta(self._partial, self._spec, self._features, self._rows, stats, notes)
        for name in ("files.jsonl", SOURCE):
            (self._partial / name).unlink()
        self._partial.rename(self._folder)
        files.sync_folder(self._folder.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    def _begin(self) -> None:
        spec = self._spec
        wanted = {"source": self._source, "features": self._features, "notes": dict(spec.notes), "fps": spec.rate,
                  "frames_per_file": self._limit}
        begin_partial(self._partial, wanted)
        whole = self._partial / "files.jsonl"
        rows: list[dict[str, Any]] = []
        if whole.is_file():
            rows, _ = files.from_lines(whole.read_bytes(), whole.name)
            files.replace(whole, files.to_lines(rows))
        self._files = [row["rows"] for row in rows]
        self._rows = [one for row in self._files for one in row]
        for left in self._partial.rglob("*.part.*"):
            left.unlink()

    @property
    def _first_row(self) -> int:
        open_rows = self._open.rows if self._open is not None else []
        return sum(row["length"] for row in [*self._rows, *open_rows])

    @property
    def _tasks(self) -> list[str]:
        open_rows = self._open.rows if self._open is not None else []
        return list(dict.fromkeys(row["task"] for row in [*self._rows, *open_rows]))

    def _check(self, episode: RecordedEpisode, frames: Mapping[str, Iterable[np.ndarray]]) -> None:
        wanted = {camera.name for camera in self._spec.cameras.cameras}
        if set(frames) != wanted:
            raise DataError(f"episode {episode.name} has frames of {', '.join(frames)}; needed are those of "
                            f"{', '.join(sorted(wanted))}", episode=episode.name)
        if not len(episode.actions) or episode.actions.shape[1] != self._spec.action.dim:
            raise DataError(f"episode {episode.name} has actions {list(episode.actions.shape)}; needed are [T >= 1, "
                            f"{self._spec.action.dim}]", episode=episode.name)
        if self._spec.state is not None and (episode.state is None or
                                             episode.state.shape != (episode.frames, self._spec.state.dim)):
            given = "none" if episode.state is None else list(episode.state.shape)
            raise DataError(f"episode {episode.name} has state {given}; needed is [{episode.frames}, "
                            f"{self._spec.state.dim}]", episode=episode.name)

    def _finish_file(self) -> None:
        if self._open is None:
            return
        rows = self._open.finish()
        self._open = None
        path = self._partial / "files.jsonl"
        path.touch()
        files.append(path, files.to_lines([{"rows": rows}]))
        self._files.append(rows)
        self._rows += rows

    def _abandon(self) -> None:
        if self._open is not None:
            self._open.abandon()
            self._open = None


class _File:
    """One data file and one video per camera, under temporary names until they are whole."""

    def __init__(self, root: Path, number: int, spec: RecordingsSpec, schema: Any, features: Mapping[str, Any]) -> None:
        self.rows: list[dict[str, Any]] = []
        self.frames = 0
        self._spec, self._schema, self._features = spec, schema, features
        self._chunk, self._file = divmod(number, FILES_PER_CHUNK)
        place = f"chunk-{self._chunk:03d}/file-{self._file:03d}"
        self._names: dict[Path, Path] = {}
        self._table = package("pyarrow.parquet").ParquetWriter(self._temporary(root / f"data/{place}.parquet"), schema)
        self._videos = {
            camera.name: VideoWriter(self._temporary(root / f"videos/{layout.video_key(camera.name)}/{place}.mp4"),
                                     fps=spec.rate, size=(camera.height, camera.width))
            for camera in spec.cameras.cameras}

    def add(self, number: int, first_row: int, episode: RecordedEpisode, frames: Mapping[str, Iterable[np.ndarray]],
            rewards: np.ndarray | None, tasks: list[str]) -> None:
        """One episode's rows and frames."""
        columns = self._columns(number, first_row, episode, rewards, tasks)
        stats = {name: layout.stats_of(np.asarray(columns[name], np.float64).reshape(episode.frames, -1))
                 for name in self._schema.names}
        for camera in self._spec.cameras.cameras:
            stats[layout.video_key(camera.name)] = self._film(camera.name, episode, frames[camera.name])
        self._table.write_table(layout.to_table(self._schema, columns))
        rate = self._spec.rate
        self.rows.append({
            "length": episode.frames, "task": episode.instruction, "chunk": self._chunk, "file": self._file,
            "from_s": self.frames / rate, "to_s": (self.frames + episode.frames) / rate, "stats": stats,
            "told": {"id": episode.name, "seed": episode.seed, "success": episode.success}})
        self.frames += episode.frames

    def finish(self) -> list[dict[str, Any]]:
        """Close all, give them their names, and return the rows of the episodes."""
        self._table.close()
        for video in self._videos.values():
            video.close()
        for temporary, path in self._names.items():
            temporary.replace(path)
        return self.rows

    def abandon(self) -> None:
        """Leave nothing."""
        for part in (self._table, *self._videos.values()):
            try:
                part.close()
            except (OSError, ValueError, package("pyarrow").ArrowException, package("av").error.FFmpegError):
                continue
        for temporary in self._names:
            temporary.unlink(missing_ok=True)

    def _temporary(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.part{path.suffix}")
        self._names[temporary] = path
        return temporary

    def _columns(self, number: int, first_row: int, episode: RecordedEpisode, rewards: np.ndarray | None,
                 tasks: list[str]) -> dict[str, np.ndarray]:
        count = episode.frames
        ticks, known = np.arange(count), [*tasks, episode.instruction]
        last = ticks == count - 1
        columns = {"action": episode.actions[[*range(count - 1), count - 2]], "next.done": last,
                   "next.success": last & bool(episode.success), "timestamp": (ticks / self._spec.rate),
                   "frame_index": ticks, "episode_index": np.full(count, number), "index": first_row + ticks,
                   "task_index": np.full(count, known.index(episode.instruction))}
        if episode.state is not None:
            columns["observation.state"] = episode.state
        if "next.reward" in self._schema.names:
            if rewards is None or len(rewards) != count - 1:
                raise DataError(f"episode {episode.name} needs {count - 1} rewards", episode=episode.name)
            columns["next.reward"] = np.append(rewards, 0.0)
        return columns

    def _film(self, camera: str, episode: RecordedEpisode, frames: Iterable[np.ndarray]) -> dict[str, list[Any]]:
        """Encode the frames of a camera; statistics of the colours of some of them, in [0, 1]."""
        step, seen, colours = max(episode.frames // PICTURES, 1), 0, []
        for batch in frames:
            for frame in batch if batch.ndim == 4 else batch[None]:
                if seen % step == 0:
                    colours.append(frame[::4, ::4].reshape(-1, 3) / 255.0)
                self._videos[camera].add([frame])
                seen += 1
        if seen != episode.frames:
            raise DataError(f"episode {episode.name} has {seen} frames of {camera}; needed are {episode.frames}",
                            kind="action_count", episode=episode.name)
        told = layout.stats_of(np.concatenate(colours))
        return told | {"count": [len(colours)]}
