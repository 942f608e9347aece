"""The real package `lerobot` (0.6.1 and later) reads what is written here, and the other way round.

It needs another Python and another torch than this project, so these tests run where somebody has installed both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arm_recordings import write
from wcsim.data.recordings import open_recordings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset() -> Any:
    """The class LeRobotDataset."""
    return pytest.importorskip("lerobot.datasets.lerobot_dataset").LeRobotDataset


def to_frame(tensor: Any) -> np.ndarray:
    return np.round(tensor.numpy() * 255).astype(np.uint8).transpose(1, 2, 0)


def test_the_package_reads_what_is_written(tmp_path: Path, dataset: Any) -> None:
    written = write(tmp_path / "set", frames_per_file=50)
    read = dataset("someone/arm", root=tmp_path / "set", video_backend="pyav")
    assert len(read) == sum(episode.frames for episode, _ in written)
    row = 0
    for episode, frames in written:
        for tick in range(episode.frames):
            item = read[row]
            for camera, shown in frames.items():
                np.testing.assert_array_equal(to_frame(item[f"observation.images.{camera}"]), shown[tick])
            np.testing.assert_array_equal(item["action"].numpy(), episode.actions[min(tick, episode.frames - 2)])
            np.testing.assert_array_equal(item["observation.state"].numpy(), episode.state[tick])  # type: ignore[index]
            assert item["task"] == episode.instruction
            row += 1


def test_what_the_package_writes_is_read(tmp_path: Path, dataset: Any) -> None:
    features = {name: {"dtype": kind, "shape": (64, 96, 3), "names": ["height", "width", "channels"]}
                for name, kind in (("observation.images.top", "video"), ("observation.images.side", "image"))}
    features |= {name: {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
                 for name in ("observation.state", "action")}
    made = dataset.create("someone/new", fps=10, root=tmp_path / "set", features=features, use_videos=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(3):
        for _ in range(20 + number):
            frame = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            state, action = rng.normal(size=(2, 2)).astype(np.float32)
            rows.append((frame, state, action))
            made.add_frame({"observation.images.top": frame, "observation.images.side": frame,
                            "observation.state": state, "action": action, "task": f"do {number}"})
        made.save_episode()
    made.finalize()
    theirs = dataset("someone/new", root=tmp_path / "set", video_backend="pyav")
    ours, row = open_recordings(tmp_path / "set"), 0
    for number in range(3):
        episode = ours.episode(number)
        for camera in ("top", "side"):
            shown = ours.frames(number, camera, range(episode.frames))
            for tick in range(episode.frames):
                wanted = rows[row + tick][0] if camera == "side" else to_frame(
                    theirs[row + tick]["observation.images.top"])
                np.testing.assert_array_equal(shown[tick], wanted)
        np.testing.assert_array_equal(episode.state, [rows[row + tick][1] for tick in range(episode.frames)])
        np.testing.assert_array_equal(episode.actions, [rows[row + tick][2] for tick in range(episode.frames - 1)])
        assert episode.instruction == f"do {number}"
        row += episode.frames
