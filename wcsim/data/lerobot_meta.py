"""What `meta/` of a LeRobotDataset says: v3.0, v2.1 and v2.0, and what real sets make of them.

Written by the text of LeRobot 0.6.1 (`lerobot.datasets`).  Easy to get wrong: a path template may be wrong or name its
fields otherwise, so a file that is not where the template says is looked for by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wcsim.data.tables import columns_of, read_json, read_json_lines, read_table
from wcsim.errors import DataError

NOTES = "meta/wcsim.json"
"""Where the writer keeps what LeRobot has no place for: units, bounds, seeds, conversions."""

DATA_PATH = {"v2": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
             "v3": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"}
VIDEO_PATH = {"v2": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
              "v3": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}


@dataclass(frozen=True, slots=True)
class Meta:
    """meta/info.json.  version: v2 or v3.  features: name to what is said of it.  notes: `NOTES`."""

    root: Path
    version: str
    fps: float | None
    features: Mapping[str, Mapping[str, Any]]
    data_path: str
    video_path: str
    chunks_size: int
    robot: str
    notes: Mapping[str, Any]

    @property
    def cameras(self) -> dict[str, str]:
        """Short name to feature of every camera."""
        keys = [key for key, told in self.features.items() if told.get("dtype") in ("video", "image")]
        short = [key.removeprefix("observation.images.").removeprefix("observation.") for key in keys]
        return dict(zip(short if len(set(short)) == len(short) else keys, keys, strict=True))


@dataclass(frozen=True, slots=True)
class Place:
    """Where an episode is.  index: its number in the set.  rows: its length as meta says, None where it does not.
    data, videos: chunk and file.  first: of its rows in the whole set.  start_s: in the video of each camera, None
    where nobody says.  end_s likewise."""

    index: int
    rows: int | None
    tasks: tuple[str, ...]
    data: tuple[int, int]
    videos: Mapping[str, tuple[int, int]]
    first: int
    start_s: Mapping[str, float]
    end_s: Mapping[str, float]


def read_meta(root: Path) -> Meta:
    """meta/info.json of a dataset.  DataError for a version that is not known."""
    path = root / "meta/info.json"
    info = read_json(path)
    told = str(info.get("codebase_version", ""))
    version = told[:2]
    if version not in ("v2", "v3"):
        raise DataError(f"{path} has codebase_version {told!r}; v3.0, v2.1 and v2.0 can be read")
    features = info.get("features")
    if not isinstance(features, dict):
        raise DataError(f"{path} has no features; they say which columns are what")
    fps = info.get("fps")
    if fps is not None and not (isinstance(fps, int | float) and fps > 0):
        raise DataError(f"{path} has fps {fps!r}; a number above 0 is needed", kind="fps")
    notes = read_json(root / NOTES) if (root / NOTES).is_file() else {}
    return Meta(root, version, None if fps is None else float(fps), features,
                info.get("data_path") or DATA_PATH[version], info.get("video_path") or VIDEO_PATH[version],
                int(info.get("chunks_size") or 1000), str(info.get("robot_type") or ""), notes)


def read_places(meta: Meta) -> list[Place]:
    """All episodes, in the order of their numbers."""
    rows = _rows_v3(meta) if meta.version == "v3" else read_json_lines(meta.root / "meta/episodes.jsonl")
    for row in rows:
        if not isinstance(row.get("episode_index"), int):
            raise DataError(f"{meta.root}/meta/episodes has a row without episode_index; it is damaged")
    rows.sort(key=lambda row: int(row["episode_index"]))
    places, first = [], 0
    for row in rows:
        places.append(_place(meta, row, first))
        first += places[-1].rows or 0
    return places


def _rows_v3(meta: Meta) -> list[dict[str, Any]]:
    paths = sorted((meta.root / "meta/episodes").glob("**/*.parquet"))
    if not paths:
        raise DataError(f"{meta.root}/meta/episodes holds no .parquet file; it says where the episodes are")
    rows: list[dict[str, Any]] = []
    for path in paths:
        columns = [name for name in columns_of(path) if not name.startswith(("stats/", "meta/"))]
        rows += read_table(path, columns).to_pylist()
    return rows


def _place(meta: Meta, row: Mapping[str, Any], counted: int) -> Place:
    index, chunk = int(row["episode_index"]), int(row["episode_index"]) // meta.chunks_size
    default = (0, 0) if meta.version == "v3" else (chunk, index)
    cameras = [key for key in meta.cameras.values() if meta.features[key].get("dtype") == "video"]

    def file_of(prefix: str) -> tuple[int, int]:
        told = row.get(f"{prefix}/chunk_index"), row.get(f"{prefix}/file_index")
        return default if None in told else (int(told[0] or 0), int(told[1] or 0))

    def seconds(name: str) -> dict[str, float]:
        told = {key: row.get(f"videos/{key}/{name}") for key in cameras}
        return {key: float(value) for key, value in told.items() if value is not None}

    tasks = row.get("tasks") or ()
    length, first = row.get("length"), row.get("dataset_from_index")
    return Place(index, None if length is None else int(length), (tasks,) if isinstance(tasks, str) else tuple(tasks),
                 file_of("data"), {key: file_of(f"videos/{key}") for key in cameras},
                 counted if first is None else int(first), seconds("from_timestamp"), seconds("to_timestamp"))


class FileIndex:
    """Files of a dataset by template; those that are elsewhere by their name."""

    def __init__(self, meta: Meta) -> None:
        self._meta = meta
        self._named: dict[str, dict[str, list[Path]]] = {}

    def data(self, place: Place) -> Path | None:
        """The table of an episode; None where there is none."""
        return self._find(self._meta.data_path, place, place.data)

    def video(self, place: Place, key: str) -> Path | None:
        """The video of an episode from a camera; None where there is none."""
        return self._find(self._meta.video_path, place, place.videos[key], key)

    def _find(self, template: str, place: Place, file: tuple[int, int], key: str = "") -> Path | None:
        fields = {"chunk_index": file[0], "file_index": file[1], "episode_chunk": file[0], "episode_file": file[1],
                  "episode_index": place.index, "video_key": key}
        try:
            path = self._meta.root / template.format(**fields)
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(f"{self._meta.root}/meta/info.json has the template {template!r}; fields that are known: "
                            f"{', '.join(fields)}") from error
        if path.is_file():
            return path
        found = [other for other in self._below(template.split("/")[0]).get(path.name, ())
                 if not key or key in other.parts]
        by_episode = "{episode_index" in template.split("/")[-1]
        return found[0] if len(found) == 1 and by_episode else None

    def _below(self, top: str) -> dict[str, list[Path]]:
        if top not in self._named:
            named: dict[str, list[Path]] = {}
            for path in sorted((self._meta.root / top).rglob("*.*")):
                named.setdefault(path.name, []).append(path)
            self._named[top] = named
        return self._named[top]


def read_tasks(meta: Meta) -> dict[int, str]:
    """Instructions by task_index; none where no file says them."""
    lines, table = meta.root / "meta/tasks.jsonl", meta.root / "meta/tasks.parquet"
    if meta.version == "v2" and lines.is_file():
        return {int(row["task_index"]): str(row["task"]) for row in read_json_lines(lines) if "task" in row}
    if not table.is_file():
        return {}
    names = [name for name in columns_of(table) if name != "task_index"]
    if len(names) != 1:
        return {}
    return {int(row["task_index"]): str(row[names[0]]) for row in read_table(table, ["task_index", *names]).to_pylist()}


def names_of(feature: Mapping[str, Any], dim: int, name: str) -> tuple[str, ...]:
    """Names of the numbers of a feature: its `names` where they are as many, else `name_0`, `name_1`, ..."""
    told = feature.get("names")
    if isinstance(told, Mapping):
        lists = [value for value in told.values() if isinstance(value, Sequence) and not isinstance(value, str)]
        if lists:
            told = [item for value in lists for item in value]
        elif all(isinstance(value, int) for value in told.values()):
            told = [name for name, _ in sorted(told.items(), key=lambda item: item[1])]
    if isinstance(told, Sequence) and not isinstance(told, str) and len(told) == dim:
        names = tuple(str(item) for item in told)
        if len(set(names)) == dim:
            return names
    return tuple(f"{name}_{number}" for number in range(dim))
