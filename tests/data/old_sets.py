"""LeRobotDatasets of versions 2.0 and 2.1, written by hand as real sets have them, with their oddities."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CAMERA = "observation.images.top"


def film(path: Path, frames: np.ndarray, fps: float, codec: str = "libx264rgb", group: int = 2) -> None:
    """An mp4 of frames `[n, H, W, 3]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"libx264rgb": {"crf": "0"}, "libx264": {"crf": "12"}, "libsvtav1": {"crf": "20", "preset": "10"}}[codec]
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=int(fps), options={"g": str(group), **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24" if codec == "libx264rgb" else "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def write_old(root: Path, episodes: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], *, version: str = "v2.1",
              fps: float = 10.0, action: Mapping[str, Any] | None = None, info: Mapping[str, Any] | None = None,
              first_s: float = 0.0, frame_index: bool = True, codec: str = "libx264rgb") -> None:
    """Episodes of frames `[n, H, W, 3]`, actions `[n, A]` and states `[n, R]`."""
    (root / "meta").mkdir(parents=True)
    told = {"dtype": "float64", "shape": [episodes[0][1].shape[1]], "names": None} | dict(action or {})
    features = {CAMERA: {"dtype": "video", "shape": list(episodes[0][0].shape[1:]), "names": None, "video_info": {}},
                "action": told, "observation.state": {"dtype": "float64", "shape": [], "names": None}}
    (root / "meta/info.json").write_text(json.dumps({
        "codebase_version": version, "fps": fps, "features": features, "chunks_size": 1000, "total_chunks": 0,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        **(info or {})}))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "push"}\n')
    rows = [{"episode_index": number, "tasks": ["push", "valid"], "length": len(frames)}
            for number, (frames, _, _) in enumerate(episodes)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, (frames, actions, states) in enumerate(episodes):
        film(root / f"videos/chunk-000/{CAMERA}/episode_{number:06d}.mp4", frames, fps, codec)
        table = {"action": actions.tolist(), "observation.state": states.tolist(),
                 "timestamp": first_s + np.arange(len(frames)) / fps, "task_index": np.zeros(len(frames), np.int64),
                 "episode_index": np.full(len(frames), number)}
        if frame_index:
            table["frame_index"] = np.arange(len(frames))
        path = root / f"data/chunk-000/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path)


def change_table(path: Path, change: Mapping[str, Any], drop: Sequence[str] = ()) -> None:
    """Replace columns of a Parquet file; the values are given the rows as a mapping."""
    table = pq.read_table(path)
    for name, make in change.items():
        place = table.column_names.index(name)
        values = make(table.column(name).to_pylist())
        table = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    pq.write_table(table.drop_columns(list(drop)), path)
