"""What a LeRobotDataset v3.0 is made of, as LeRobot 0.6.1 reads it: features, columns, files of `meta/`.

Easy to get wrong: a number of shape [1] is a plain column, and the tasks come back as words only because the table says
that `task` is pandas' index.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.cameras import Camera
from wcsim.data.lerobot_meta import DATA_PATH, VIDEO_PATH
from wcsim.data.packages import package
from wcsim.data.recordings import RecordingsSpec, Signal
from wcsim.data.video import is_lossless

FRAME = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
         "task_index": "int64"}
"""Columns that every dataset has, and their types."""

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def video_key(camera: str) -> str:
    """The feature of a camera."""
    return f"observation.images.{camera.replace('/', '_')}"


def features_of(spec: RecordingsSpec, *, rewards: bool, success: bool) -> dict[str, dict[str, Any]]:
    """The features of meta/info.json, in the order of the columns."""
    features = {video_key(camera.name): _video(camera, spec.rate) for camera in spec.cameras.cameras}
    if spec.state is not None:
        features["observation.state"] = _numbers(spec.state)
    features["action"] = _numbers(spec.action)
    outcome = [("next.reward", "float32")] * rewards + [("next.done", "bool")] + [("next.success", "bool")] * success
    return features | {name: {"dtype": dtype, "shape": [1], "names": None}
                       for name, dtype in [*outcome, *FRAME.items()]}


def _numbers(signal: Signal) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [signal.dim], "names": list(signal.names)}


def _video(camera: Camera, fps: float) -> dict[str, Any]:
    lossless = is_lossless(camera.height, camera.width)
    info = {"video.height": camera.height, "video.width": camera.width, "video.codec": "h264",
            "video.pix_fmt": "gbrp" if lossless else "yuv420p", "video.is_depth_map": False,
            "video.fps": whole(fps), "video.channels": 3, "has_audio": False}
    return {"dtype": "video", "shape": [camera.height, camera.width, 3], "names": ["height", "width", "channels"],
            "info": info}


def whole(fps: float) -> float | int:
    """An int where it is one, as LeRobot has it."""
    return int(fps) if float(fps).is_integer() else fps


def schema_of(features: Mapping[str, Mapping[str, Any]]) -> Any:
    """The pyarrow schema of the data files."""
    arrow = package("pyarrow")
    types = {"float32": arrow.float32(), "int64": arrow.int64(), "bool": arrow.bool_()}
    fields = []
    for name, told in features.items():
        if told["dtype"] != "video":
            kind = types[told["dtype"]]
            size = told["shape"][0]
            fields.append((name, kind if size == 1 else arrow.list_(kind, size)))
    return arrow.schema(fields)


def to_table(schema: Any, columns: Mapping[str, np.ndarray]) -> Any:
    """Columns `[rows]` or `[rows, D]` as a table of that schema."""
    arrow = package("pyarrow")
    arrays = []
    for field in schema:
        values = columns[field.name]
        if arrow.types.is_fixed_size_list(field.type):
            flat = arrow.array(np.ascontiguousarray(values).reshape(-1), field.type.value_type)
            arrays.append(arrow.FixedSizeListArray.from_arrays(flat, field.type.list_size))
        else:
            arrays.append(arrow.array(values.reshape(-1), field.type))
    return arrow.Table.from_arrays(arrays, schema=schema)


def write_meta(root: Path, spec: RecordingsSpec, features: Mapping[str, Any], rows: Sequence[Mapping[str, Any]],
               stats: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """All files of meta/ from the rows of all episodes, as the writer keeps them."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    info = {"codebase_version": "v3.0", "robot_type": spec.robot or None, "total_episodes": len(rows),
            "total_frames": sum(row["length"] for row in rows), "total_tasks": len(tasks), "chunks_size": 1000,
            "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": whole(spec.rate),
            "splits": {"train": f"0:{len(rows)}"}, "data_path": DATA_PATH["v3"], "video_path": VIDEO_PATH["v3"],
            "features": features}
    (root / "meta/episodes/chunk-000").mkdir(parents=True, exist_ok=True)
    for name, value in (("info", info), ("stats", stats), ("wcsim", notes)):
        (root / f"meta/{name}.json").write_text(json.dumps(value, indent=2), "utf-8")
    _write_tasks(root, tasks)
    _write_episodes(root, rows, [name for name, told in features.items() if told["dtype"] == "video"])


def _write_tasks(root: Path, tasks: Sequence[str]) -> None:
    arrow = package("pyarrow")
    columns = [{"name": name, "field_name": name, "pandas_type": kind, "numpy_type": kind, "metadata": None}
               for name, kind in (("task_index", "int64"), ("task", "unicode"))]
    pandas = json.dumps({"index_columns": ["task"], "column_indexes": [], "columns": columns})
    table = arrow.table({"task_index": np.arange(len(tasks)), "task": list(tasks)})
    package("pyarrow.parquet").write_table(table.replace_schema_metadata({"pandas": pandas}),
                                           root / "meta/tasks.parquet")


def _write_episodes(root: Path, rows: Sequence[Mapping[str, Any]], cameras: Sequence[str]) -> None:
    lengths = np.array([row["length"] for row in rows], np.int64)
    ends = np.cumsum(lengths)
    chunk, file = (np.array([row[name] for row in rows], np.int64) for name in ("chunk", "file"))
    columns: dict[str, Any] = {
        "episode_index": np.arange(len(rows)), "tasks": [[row["task"]] for row in rows], "length": lengths,
        "data/chunk_index": chunk, "data/file_index": file, "dataset_from_index": ends - lengths,
        "dataset_to_index": ends}
    for key in cameras:
        columns |= {f"videos/{key}/chunk_index": chunk, f"videos/{key}/file_index": file,
                    f"videos/{key}/from_timestamp": np.array([row["from_s"] for row in rows], np.float64),
                    f"videos/{key}/to_timestamp": np.array([row["to_s"] for row in rows], np.float64)}
    columns |= dict.fromkeys(("meta/episodes/chunk_index", "meta/episodes/file_index"), np.zeros(len(rows), np.int64))
    package("pyarrow.parquet").write_table(package("pyarrow").table(columns),
                                           root / "meta/episodes/chunk-000/file-000.parquet")


def stats_of(values: np.ndarray) -> dict[str, list[Any]]:
    """Statistics of `[rows, D]`, as lists of D; pictures `[n, 3]` of means in [0, 1] go in likewise."""
    whole_ones = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0),
                  **{name: np.quantile(values, share, axis=0) for name, share in QUANTILES.items()}}
    return {name: np.asarray(value, np.float64).tolist() for name, value in whole_ones.items()} | {
        "count": [len(values)]}


def merge_stats(parts: Sequence[Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    """Of several episodes together; quantiles are means weighted by length, as LeRobot merges them."""
    counts = np.array([part["count"][0] for part in parts], np.float64)
    weights = (counts / counts.sum())[:, None]
    table = {name: np.array([part[name] for part in parts]) for name in ("min", "max", "mean", "std", *QUANTILES)}
    mean = (table["mean"] * weights).sum(0)
    variance = ((table["std"] ** 2 + (table["mean"] - mean) ** 2) * weights).sum(0)
    merged = {"min": table["min"].min(0), "max": table["max"].max(0), "mean": mean, "std": np.sqrt(variance),
              **{name: (table[name] * weights).sum(0) for name in QUANTILES}}
    return {name: value.tolist() for name, value in merged.items()} | {"count": [int(counts.sum())]}
