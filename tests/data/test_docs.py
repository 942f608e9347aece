"""The page about recordings: its code runs as it stands, and its table lists every fault."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from arm_recordings import SPEC, taken, write
from wcsim.cameras import Cameras
from wcsim.data.faults import KINDS
from wcsim.data.recordings import RECORDINGS, open_recordings
from wcsim.experiments.task_config import TaskConfig

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my_dataset")
    reading, writing = (text for kind, text in BLOCKS if kind == "python")
    names: dict[str, Any] = {}
    exec(reading, names)
    np.testing.assert_array_equal(names["frames"], taken(0)[1]["top"][10:13])
    episode, frames = taken(0)
    spec = replace(SPEC, cameras=Cameras(SPEC.cameras.cameras[:1]))
    exec(writing, {
        "folder": tmp_path / "new", "spec": spec, "episode": episode, "frames": frames["top"]})
    assert len(open_recordings(tmp_path / "new").episodes) == 1


def test_the_task_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my_dataset", episodes=8)
    told = yaml.safe_load(next(text for kind, text in BLOCKS if kind == "yaml"))
    start = TaskConfig(**told["task"]).build().start(1)
    assert start.frames.shape == (1, 96, 96, 3)
    np.testing.assert_array_equal(start.recorded, taken(7)[0].actions)


def test_the_page_lists_every_fault_and_format() -> None:
    named = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert set(named) == {*KINDS, *RECORDINGS.shipped}
