"""What the writer writes is read back bit for bit, is what LeRobot expects, and is whole or not there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from arm_recordings import SPEC, taken, write
from wcsim.cameras import Camera, Cameras
from wcsim.data.lerobot_writer import LeRobotWriter
from wcsim.data.recordings import open_recordings
from wcsim.errors import DataError

SCHEMA = json.loads((Path(__file__).parent / "lerobot_0_6_1_schema.json").read_text("utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("frames_per_file", [1, 50, 1000])
def test_a_round_trip_is_bit_equal(tmp_path: Path, frames_per_file: int) -> None:
    written = write(tmp_path / "set", frames_per_file=frames_per_file)
    read = open_recordings(tmp_path / "set")
    assert (read.spec.fps, read.spec.cameras, read.spec.action, read.spec.state, read.spec.robot) == (
        SPEC.fps, SPEC.cameras, SPEC.action, SPEC.state, SPEC.robot)
    assert [row.frames for row in read.episodes] == [41, 41, 41]
    assert not read.left_out
    for number, (episode, frames) in enumerate(written):
        back = read.episode(number)
        np.testing.assert_array_equal(back.actions, episode.actions)
        np.testing.assert_array_equal(back.state, episode.state)
        assert (back.seed, back.success, back.instruction) == (episode.seed, episode.success, episode.instruction)
        for camera, shown in frames.items():
            np.testing.assert_array_equal(read.frames(number, camera, range(41)), shown)
            np.testing.assert_array_equal(read.frames(number, camera, [40, 3, 3]), shown[[40, 3, 3]])


def test_the_last_action_is_said_twice(tmp_path: Path) -> None:
    written = write(tmp_path / "set", episodes=2)
    table = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet").to_pydict()
    assert len(table["action"]) == 82
    assert table["action"][39] == table["action"][40] == written[0][0].actions[-1].tolist()
    assert np.flatnonzero(table["next.done"]).tolist() == [40, 81]
    assert np.flatnonzero(table["next.success"]).tolist() == [40]
    assert table["index"] == list(range(82))
    np.testing.assert_allclose(table["timestamp"][:41], np.arange(41) / 10, atol=1e-6)


def test_columns_and_types_are_what_lerobot_expects(tmp_path: Path) -> None:
    write(tmp_path / "set", frames_per_file=50)
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert SCHEMA["info"].keys() <= info.keys() <= SCHEMA["info"].keys() | SCHEMA["info_optional"].keys()
    for key, kind in (SCHEMA["info"] | SCHEMA["info_optional"]).items():
        assert type(info[key]).__name__ in kind, key
    for path in (tmp_path / "set/data").rglob("*.parquet"):
        read = {field.name: str(field.type) for field in pq.read_schema(path)}
        expected = {}
        for name, told in info["features"].items():
            assert not set(name) & set("/"), name
            kind = SCHEMA["arrow"].get(told["dtype"])
            if told["dtype"] != "video":
                size = told["shape"][0]
                expected[name] = kind if told["shape"] == [1] else f"fixed_size_list<element: {kind}>[{size}]"
        assert {name: kind.replace("item:", "element:") for name, kind in read.items()} == expected
        assert SCHEMA["default_columns"].items() <= read.items()
        assert pq.ParquetFile(path).num_row_groups == len(set(pq.read_table(path)["episode_index"].to_pylist()))
    episodes = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet")
    kinds = {field.name: str(field.type).replace("item:", "element:") for field in episodes.schema}
    wanted = dict(SCHEMA["episodes"])
    for key in ("observation.images.top", "observation.images.wrist"):
        wanted |= {name.format(video_key=key): kind for name, kind in SCHEMA["episodes_video"].items()}
    assert kinds == wanted
    tasks = pq.read_schema(tmp_path / "set/meta/tasks.parquet")
    assert json.loads(tasks.metadata[b"pandas"])["index_columns"] == ["task"]
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    assert stats.keys() == info["features"].keys()
    assert np.shape(stats["observation.images.top"]["mean"]) == (3, 1, 1)
    assert all(set(told) == set(SCHEMA["stats"]) for told in stats.values())


def test_stats_are_those_of_the_numbers(tmp_path: Path) -> None:
    written = write(tmp_path / "set")
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())["observation.state"]
    states = np.concatenate([episode.state for episode, _ in written if episode.state is not None]).astype(np.float64)
    for name in ("mean", "std", "min", "max"):
        value = getattr(states, name)(0)
        np.testing.assert_allclose(stats[name], value, rtol=1e-6, atol=1e-9)
    assert stats["count"] == [123]


def interrupted(frames: np.ndarray) -> Iterator[np.ndarray]:
    yield frames[:7]
    raise KeyboardInterrupt


def write_four(folder: Path) -> None:
    """Three episodes and a part of the next."""
    with LeRobotWriter(folder, SPEC, success=True, frames_per_file=80) as one:
        for number in range(4):
            episode, frames = taken(number)
            shown = {name: [frames[name]] for name in frames}
            one.add(episode, shown | {"top": interrupted(frames["top"])} if number == 3 else shown)


def test_a_stopped_writer_leaves_nothing_and_goes_on(tmp_path: Path) -> None:
    """Stopped in the middle of the fourth episode, whose file also holds the third."""
    write(tmp_path / "unbroken", episodes=5, frames_per_file=80)
    with pytest.raises(KeyboardInterrupt):
        write_four(tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir() if "set" in path.name] == [".set.partial"]
    assert not list((tmp_path / ".set.partial").rglob("*.part.*"))
    with LeRobotWriter(tmp_path / "set", SPEC, success=True, frames_per_file=80) as one:
        assert one.done == 2
        for number in range(one.done, 5):
            episode, frames = taken(number)
            one.add(episode, {name: [frames[name]] for name in frames})
    assert contents(tmp_path / "set") == contents(tmp_path / "unbroken")
    assert not (tmp_path / ".set.partial").exists()


def test_another_source_does_not_go_on(tmp_path: Path) -> None:
    episode, frames = taken(0)
    with pytest.raises(DataError, match="wrist"), LeRobotWriter(tmp_path / "set", SPEC) as one:
        one.add(episode, {"top": [frames["top"]]})
    with pytest.raises(DataError, match=r"\.set\.partial is of another conversion that was stopped; delete it"):
        LeRobotWriter(tmp_path / "set", replace(SPEC, fps=5.0))


def test_a_full_disk_is_one_line_and_can_go_on(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk; it holds for the whole process, hence another one."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from arm_recordings import write
from pathlib import Path
from wcsim.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    write(Path({str(tmp_path / "set")!r}))
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "writing episode" in done.stdout, done.stdout + done.stderr
    assert "make room and run it again, it goes on" in done.stdout
    assert not (tmp_path / "set").exists()
    write(tmp_path / "set")
    assert len(open_recordings(tmp_path / "set").episodes) == 3


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    episode, frames = taken(0)
    shown = {name: [frames[name]] for name in frames}
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="there exists; name a folder that does not"):
        LeRobotWriter(tmp_path / "there", SPEC)
    for wrong, words in (
        (replace(episode, actions=episode.actions[:, :2]), r"actions \[40, 2\]; needed are \[T >= 1, 3\]"),
        (replace(episode, state=None), r"state none; needed is \[41, 3\]"),
    ):
        with pytest.raises(DataError, match=words), LeRobotWriter(tmp_path / "set", SPEC) as one:
            one.add(wrong, shown)
    with pytest.raises(DataError, match="episode 0 has 40 frames of top; needed are 41"), \
            LeRobotWriter(tmp_path / "set", SPEC) as one:
        one.add(episode, shown | {"top": [frames["top"][:40]]})
    odd = replace(SPEC, cameras=Cameras((Camera("top", 131, 160),)))
    with pytest.raises(DataError, match="131x160 cannot be written as yuv420p"), \
            LeRobotWriter(tmp_path / "odd", odd) as one:
        one.add(episode, {"top": [np.zeros((41, 131, 160, 3), np.uint8)]})
