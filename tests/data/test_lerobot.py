"""LeRobotDatasets of others, as they are: versions, codecs, and what real sets break of the format."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arm_recordings import taken, write
from old_sets import CAMERA, change_table, write_old
from wcsim.data.recordings import open_recordings
from wcsim.errors import ConfigError, DataError


def episodes(count: int = 2) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Frames, actions and states, all of equal length."""
    made = []
    for number in range(count):
        episode, frames = taken(number)
        assert episode.state is not None
        made.append((frames["top"], np.vstack([episode.actions, episode.actions[-1:]]).astype(np.float64),
                     episode.state.astype(np.float64)))
    return made


def edit_info(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("version", "options"), [
    ("v2.1", {}), ("v2.0", {}), ("v2.1", {"first_s": 0.1}), ("v2.1", {"frame_index": False}),
    ("v2.0", {"action": {"shape": [], "names": {"motors": ["a", "b", "c"]}}}),
    ("v2.1", {"action": {"names": {"a": 0, "b": 1, "c": 2}}}), ("v2.1", {"action": {"names": ["a", "b", "c"]}}),
    ("v2.0", {"info": {"data_path": "data/chunk-{episode_index:03d}/episode_{episode_index:06d}.parquet",
                       "video_path": "videos/chunk-{episode_index:03d}/{video_key}/episode_{episode_index:06d}.mp4"}}),
    ("v2.1", {"info": {"data_path": "data/chunk-{chunk_index:03d}/episode_{episode_file:06d}.parquet"}}),
])
def test_old_versions_and_their_oddities(tmp_path: Path, version: str, options: dict[str, Any]) -> None:
    made = episodes()
    write_old(tmp_path / "set", made, version=version, **options)
    read = open_recordings(tmp_path / "set")
    assert [row.name for row in read.episodes] == ["0", "1"]
    named = isinstance(options.get("action", {}).get("names"), dict | list)
    assert read.spec.action.names == (("a", "b", "c") if named else ("action_0", "action_1", "action_2"))
    assert read.spec.action.told == named
    assert [camera.name for camera in read.spec.cameras.cameras] == ["top"]
    for number, (frames, actions, states) in enumerate(made):
        episode = read.episode(number)
        np.testing.assert_array_equal(episode.actions, actions[:-1].astype(np.float32))
        np.testing.assert_array_equal(episode.state, states.astype(np.float32))
        assert episode.instruction == "push"
        np.testing.assert_array_equal(read.frames(number, "top", [0, 17, 40]), frames[[0, 17, 40]])


@pytest.mark.parametrize(("codec", "group"), [("libx264", 2), ("libx264", 250), ("libsvtav1", 2)])
def test_codecs_give_the_frame_that_was_asked_for(tmp_path: Path, codec: str, group: int) -> None:
    """Every frame has another brightness, so that a neighbour would be told."""
    frames = np.repeat(np.arange(41, dtype=np.uint8)[:, None, None, None] * 5 + 20, 64, 1).repeat(64, 2).repeat(3, 3)
    _, actions, states = episodes(1)[0]
    write_old(tmp_path / "set", [(frames, actions, states)], codec=codec)
    path = tmp_path / f"set/videos/chunk-000/{CAMERA}/episode_000000.mp4"
    if group != 2:
        from old_sets import film

        film(path, frames, 10.0, codec, group)
    read = open_recordings(tmp_path / "set")
    order = [40, 0, 23, 22, 24, 7]
    shown = read.frames(0, "top", order).mean((1, 2, 3))
    np.testing.assert_allclose(shown, frames[order].mean((1, 2, 3)), atol=2.0)


def test_pictures_in_the_table(tmp_path: Path) -> None:
    frames, actions, states = episodes(1)[0]
    write_old(tmp_path / "set", [(frames, actions, states)])
    features = json.loads((tmp_path / "set/meta/info.json").read_text())["features"]
    edit_info(tmp_path / "set", features=features | {CAMERA: {"dtype": "image", "shape": [32, 40, 3], "names": None}})
    path = tmp_path / "set/data/chunk-000/episode_000000.parquet"
    cells = [{"bytes": cv2.imencode(".png", frame[..., ::-1])[1].tobytes(), "path": None} for frame in frames]
    pq.write_table(pq.read_table(path).append_column(CAMERA, pa.array(cells)), path)
    read = open_recordings(tmp_path / "set")
    np.testing.assert_array_equal(read.frames(0, "top", [5, 40, 0]), frames[[5, 40, 0]])


def test_v3_without_places_is_one_file_from_its_beginning(tmp_path: Path) -> None:
    written = write(tmp_path / "set", frames_per_file=1000)
    path = tmp_path / "set/meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([name for name in table.column_names
                                       if name.startswith(("data/", "videos/", "meta/", "dataset_"))]), path)
    read = open_recordings(tmp_path / "set")
    for number, (episode, frames) in enumerate(written):
        np.testing.assert_array_equal(read.episode(number).actions, episode.actions)
        np.testing.assert_array_equal(read.frames(number, "wrist", [1, 40]), frames["wrist"][[1, 40]])


@pytest.mark.parametrize("places", [True, False])
def test_templates_with_other_names(tmp_path: Path, places: bool) -> None:
    """A Cosmos 3 domain calls the fields so, and need not say in which file an episode is."""
    written = write(tmp_path / "set", frames_per_file=1000 if not places else 50)
    edit_info(tmp_path / "set", data_path="data/chunk-{episode_chunk:03d}/file-{episode_file:03d}.parquet",
              video_path="videos/{video_key}/chunk-{episode_chunk:03d}/file-{episode_file:03d}.mp4")
    if not places:
        path = tmp_path / "set/meta/episodes/chunk-000/file-000.parquet"
        table = pq.read_table(path)
        pq.write_table(table.select(["episode_index", "tasks", "length"]), path)
    read = open_recordings(tmp_path / "set")
    for number, (episode, frames) in enumerate(written):
        np.testing.assert_array_equal(read.episode(number).actions, episode.actions)
        np.testing.assert_array_equal(read.frames(number, "top", [0, 40]), frames["top"][[0, 40]])


def test_what_is_announced_and_not_there_is_named(tmp_path: Path) -> None:
    write_old(tmp_path / "set", episodes(3))
    (tmp_path / "set/data/chunk-000/episode_000001.parquet").unlink()
    features = json.loads((tmp_path / "set/meta/info.json").read_text())["features"]
    edit_info(tmp_path / "set", features=features | {"observation.images.side": features[CAMERA]})
    read = open_recordings(tmp_path / "set")
    assert [row.name for row in read.episodes] == ["0", "2"]
    assert [(error.kind, error.episode) for error in read.left_out] == [("missing", "1"), ("missing", "")]
    assert "no files of camera 'observation.images.side'" in str(read.left_out[1])
    with pytest.raises(DataError, match="has no camera 'side'; it has top"):
        read.frames(0, "side", [0])


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda root: edit_info(root, codebase_version="v1.6"),
     r"codebase_version 'v1.6'; v3.0, v2.1 and v2.0 can be read"),
    (lambda root: (root / "meta/info.json").write_text("{"), r"info.json is not JSON .*damaged"),
    (lambda root: edit_info(root, features={}), "has no feature 'action'"),
    (lambda root: edit_info(root, fps=0), "has fps 0; a number above 0"),
    (lambda root: edit_info(root, data_path="{nothing}.parquet"),
     "template '{nothing}.parquet'; fields that are known"),
    (lambda root: (root / "meta/episodes.jsonl").unlink(), "episodes.jsonl cannot be read"),
    (lambda root: (root / "meta/episodes.jsonl").write_text("no\n"), "line 1 is no JSON object"),
    (lambda root: shutil.rmtree(root / "data"), "no episode whose files are there"),
    (lambda root: shutil.rmtree(root / "videos"), "has no camera with files"),
    (lambda root: (root / "data/chunk-000/episode_000000.parquet").write_bytes(b"PAR1 no"),
     r"episode_000000.parquet is no whole Parquet file"),
    (lambda root: change_table(root / "data/chunk-000/episode_000000.parquet", {}, ["action"]),
     r"episode_000000.parquet has no column 'action', needed for episode 0"),
    (lambda root: change_table(root / "data/chunk-000/episode_000000.parquet",
                               {"action": lambda rows: [row[: 2 + (number > 3)] for number, row in enumerate(rows)]}),
     r"episode_000000.parquet episode 0 has rows of 2 to 3 numbers in 'action'"),
])
def test_bad_sets_are_refused_in_one_line(tmp_path: Path, spoil: Any, words: str) -> None:
    write_old(tmp_path / "set", episodes(1))
    spoil(tmp_path / "set")
    with pytest.raises(DataError, match=words) as caught:
        open_recordings(tmp_path / "set").spec  # noqa: B018
    assert "\n" not in str(caught.value)


def test_bad_videos_are_named_with_their_episode(tmp_path: Path) -> None:
    write_old(tmp_path / "set", episodes(3))
    folder = tmp_path / f"set/videos/chunk-000/{CAMERA}"
    whole = (folder / "episode_000001.mp4").read_bytes()
    (folder / "episode_000001.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "episode_000002.mp4").unlink()
    read = open_recordings(tmp_path / "set")
    for number, words in ((1, "episode 1: .*cannot be opened as a video"), (2, "no video of camera .* for episode 2")):
        with pytest.raises(DataError, match=words):
            read.frames(number, "top", [0])
    with pytest.raises(DataError, match="episode 0 has frames 0 to 40, asked for 41"):
        read.frames(0, "top", [41])


def test_reading_decodes_a_few_frames(tmp_path: Path) -> None:
    """Counted where frames are decoded: a key frame every second one makes a frame cost two at most."""
    frames, actions, states = episodes(1)[0]
    long = [np.concatenate([part] * 20) for part in (frames, actions, states)]
    write_old(tmp_path / "set", [(long[0], long[1], long[2])])
    read: Any = open_recordings(tmp_path / "set")
    video, _ = read.video(0, "top")
    decoded = 0
    with av.open(str(video.path)) as file:
        stream = file.streams.video[0]
        file.seek(round(600 / 10 / stream.time_base), stream=stream)
        for frame in file.decode(stream):
            decoded += 1
            if round(frame.time * 10) == 600:
                break
    assert decoded <= 2
    np.testing.assert_array_equal(read.frames(0, "top", [600, 3]), long[0][[600, 3]])


def test_a_copy_for_another_process_opens_its_own_files(tmp_path: Path) -> None:
    written = write(tmp_path / "set", episodes=1)
    read = open_recordings(tmp_path / "set")
    read.frames(0, "top", [1])
    again = pickle.loads(pickle.dumps(read))
    np.testing.assert_array_equal(again.frames(0, "top", [3]), written[0][1]["top"][[3]])


def test_where_nothing_is_to_be_had_the_message_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset someone/push at revision v3.0 is not to be had .*hf download "
                                        r"--repo-type dataset someone/push --revision v3.0"):
        open_recordings("someone/push@v3.0")
    with pytest.raises(DataError, match=r"nowhere does not exist; give a folder, or repo_id@revision"):
        open_recordings(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no recordings; needed are meta/info.json"):
        open_recordings(tmp_path)
    with pytest.raises(ConfigError, match="recordings format 'hdf5' is unknown; known: cosmos, lerobot, npz"):
        open_recordings(tmp_path, form="hdf5")
    with pytest.raises(ConfigError, match="fps is -1"):
        open_recordings(tmp_path, fps=-1.0)


def test_a_dataset_of_the_hub_is_found_in_its_cache(tmp_path: Path) -> None:
    """Offline, by its revision; the Hub's client reads its settings at import, hence another process."""
    repo = tmp_path / "hub/datasets--someone--push"
    write(repo / "snapshots" / ("a" * 40), episodes=1)
    (repo / "refs").mkdir()
    (repo / "refs/v3.0").write_text("a" * 40)
    code = """
from wcsim.data.recordings import open_recordings
from wcsim.errors import DataError
print(len(open_recordings("someone/push@v3.0").episodes))
try:
    open_recordings("someone/push@v2.1")
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    first, second = done.stdout.strip().splitlines()
    assert first == "1"
    assert "dataset someone/push at revision v2.1 is not to be had" in second
