"""Every check finds the fault that was planted, and nothing in the clean set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from arm_recordings import SPEC, Taken, same, taken, with_actions, with_frames, write
from old_sets import change_table
from wcsim.cli import app
from wcsim.data.check import check
from wcsim.data.faults import KINDS, Numbers
from wcsim.data.lags import compare_lags, find_lag
from wcsim.data.likeness import Like
from wcsim.data.npz import write_npz
from wcsim.data.recordings import RecordedEpisode, Signal, open_recordings
from wcsim.data.video import VideoWriter

DATA = "data/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean") / "set"
    write(folder)
    return folder


def like(folder: Path) -> Like:
    read = open_recordings(folder)
    return Like("clean", read.spec.fps, read.spec.action,
                Numbers.gather([read.episode(number) for number in range(3)], read.spec.action, read.spec.state))


def test_the_clean_set_has_no_fault(clean: Path, tmp_path: Path) -> None:
    assert check(open_recordings(clean), like(clean)) == []
    for number in range(3):
        episode, frames = taken(number)
        write_npz(tmp_path / f"{number}.npz", frames["top"], episode, SPEC)
    assert check(open_recordings(tmp_path), like(clean)) == []


def jump(actions: np.ndarray) -> np.ndarray:
    actions[9, 1] = 7.0
    return actions


def not_a_number(actions: np.ndarray) -> np.ndarray:
    actions[4, 0] = np.nan
    return actions


def freeze(frames: np.ndarray) -> np.ndarray:
    frames[10:24] = frames[10]
    return frames


def darken(frames: np.ndarray) -> np.ndarray:
    frames[5] = 0
    return frames


@pytest.mark.parametrize(("spoil", "kind", "episode", "words"), [
    (with_actions(lambda a: np.roll(a, 3, axis=0)), "action_lag", "", "3 ticks too late"),
    (with_actions(lambda a: np.roll(a, -2, axis=0)), "action_lag", "", "2 ticks too early"),
    (with_actions(lambda a: a * [1 / 55, 1 / 55, 1]), "action_scale", "", "55 times too small"),
    (with_actions(lambda a: a * [1, 1, -1] + [0, 0, 1]), "gripper_sign", "", "open and closed are exchanged"),
    (with_actions(jump, only=[1]), "outliers", "1", "action dy is 7"),
    (with_actions(not_a_number, only=[2]), "nan", "2", "action dx is nan at tick 4"),
    (with_frames(freeze, only=1), "frozen_frames", "1", "top shows the same frame from 10 to 23"),
    (with_frames(darken, only=2), "black_frames", "2", "top is black in 1 frames, the first is 5"),
])
def test_a_planted_fault_is_found_and_no_other(clean: Path, tmp_path: Path, spoil: Callable[..., Taken], kind: str,
                                               episode: str, words: str) -> None:
    write(tmp_path / "set", spoil=spoil)
    found = check(open_recordings(tmp_path / "set"), like(clean))
    assert {fault.kind for fault in found} == {kind}
    assert found[0].episode == episode
    assert words in found[0].detail


@pytest.mark.parametrize(("spoil", "kind"), [
    (with_actions(lambda a: a * [1 / 55, 1 / 55, 1]), "action_scale"),
    (with_actions(lambda a: a * [55, 55, 1]), "action_scale"),
    (with_actions(lambda a: a * [1, 1, -1] + [0, 0, 1]), "gripper_sign"),
])
def test_scale_and_sign_show_against_the_state_where_units_are_the_same(
    tmp_path: Path, spoil: Callable[..., Taken], kind: str
) -> None:
    write(tmp_path / "told", spoil=spoil)
    assert [fault.kind for fault in check(open_recordings(tmp_path / "told"), look=False)] == [kind]
    untold = replace(SPEC, action=replace(SPEC.action, units=""))
    write(tmp_path / "untold", spoil=spoil, spec=untold)
    assert check(open_recordings(tmp_path / "untold"), look=False) == []


def repeat(rows: list[float]) -> list[float]:
    rows[50] = rows[49]
    return rows


@pytest.mark.parametrize(("change", "kind", "words"), [
    ({"timestamp": repeat}, "timestamps", "repeats or goes back"),
    ({"timestamp": lambda rows: [row + 0.4 * (number > 60) for number, row in enumerate(rows)]}, "timestamps",
     "lie between timestamps"),
    ({"timestamp": lambda rows: [row * 1.1 for row in rows]}, "drift", "9.091 frames a second"),
    ({"episode_index": lambda rows: [min(row, 1) for row in rows]}, "action_count", "rows of episode 1, meta says 41"),
    ({"action": lambda rows: [[1.0, *row[1:]] if number == 60 else row for number, row in enumerate(rows)]}, "outliers",
     "'action' number 0 reaches"),
])
def test_a_spoiled_table_is_found(tmp_path: Path, change: dict[str, Callable[..., object]], kind: str, words: str
                                  ) -> None:
    write(tmp_path / "set", frames_per_file=1000)
    change_table(tmp_path / "set" / DATA, change)
    found = check(open_recordings(tmp_path / "set"))
    assert kind in {fault.kind for fault in found}
    assert any(words in fault.detail for fault in found)


def test_a_video_shorter_than_its_table_is_found(tmp_path: Path) -> None:
    written = write(tmp_path / "set", frames_per_file=1)
    path = tmp_path / "set/videos/observation.images.top/chunk-000/file-001.mp4"
    film = VideoWriter(path, fps=10.0, size=(32, 40))
    film.add(written[1][1]["top"][:30])
    film.close()
    found = check(open_recordings(tmp_path / "set"))
    assert [(fault.kind, fault.episode) for fault in found] == [("drift", "1")]
    assert "has 30 frames; the table needs 41" in found[0].detail


def test_missing_files_and_columns_are_found(tmp_path: Path) -> None:
    write(tmp_path / "set", frames_per_file=1)
    (tmp_path / "set/videos/observation.images.top/chunk-000/file-001.mp4").unlink()
    change_table(tmp_path / "set/data/chunk-000/file-002.parquet", {}, ["observation.state"])
    found = check(open_recordings(tmp_path / "set"))
    assert [(fault.kind, fault.episode) for fault in found] == [("missing", "1"), ("missing", "2")]


def test_what_no_episode_has_is_a_fault_too(tmp_path: Path) -> None:
    """The first episode cannot be read, so nobody knows what the others should be: one fault, and not an error."""
    write(tmp_path / "set")
    change_table(tmp_path / "set" / DATA, {}, ["observation.state"])
    found = check(open_recordings(tmp_path / "set"))
    assert [(fault.kind, fault.episode) for fault in found] == [("missing", "")]
    assert "has no column 'observation.state', which meta/info.json announces" in found[0].detail
    change_table(tmp_path / "set" / DATA, {}, ["action"])
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "set"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1, done.output
    faults = json.loads((tmp_path / "out/check.json").read_text())["faults"]
    assert [fault["kind"] for fault in faults] == ["missing"]
    assert "has no column 'action'" in faults[0]["detail"]


def test_as_many_frames_as_actions_are_found(tmp_path: Path) -> None:
    episode, frames = taken(0)
    write_npz(tmp_path / "0.npz", frames["top"][:-1], replace(episode, state=None), SPEC)
    found = check(open_recordings(tmp_path))
    assert [(fault.kind, fault.episode) for fault in found] == [("action_count", "0")]
    assert "has 40 frames and actions [40, 3]" in found[0].detail


def test_fps_that_is_not_told_or_does_not_divide_is_found(clean: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", frames=taken(0)[1]["top"], actions=taken(0)[0].actions)
    assert [fault.kind for fault in check(open_recordings(tmp_path))] == ["fps"]
    read = open_recordings(clean)
    world = Like("a world", 4.0, Signal(("dx", "dy", "gripper"), low=(-1, -1, 0), high=(1, 1, 1)))
    found = check(read, world, look=False)
    assert [(fault.kind, fault.detail) for fault in found] == [
        ("fps", "10 fps is no whole multiple of the 4 of a world")]
    narrow = Like("a world", 5.0, Signal(("dx", "dy", "gripper"), low=(-0.01, -1, 0), high=(0.01, 1, 1)))
    assert [fault.kind for fault in check(read, narrow, look=False)] == ["action_scale"]
    wide = Like("a world", 5.0, Signal(("dx", "dy", "gripper"), low=(-0.5, -0.5, 0), high=(0.5, 0.5, 1)))
    assert [fault.kind for fault in check(read, wide, look=False)] == []
    other = Like("a world", 5.0, Signal(("dx", "dy", "jaw")))
    assert "actions are dx, dy, gripper; those of a world are dx, dy, jaw" in check(read, other, look=False)[0].detail


def followed(shift: int, *, ticks: int = 60) -> list[RecordedEpisode]:
    """Actions are places to go to, and the state goes a third of the way each tick."""
    episodes = []
    for seed in range(3):
        goals = np.repeat(np.random.default_rng([3, seed]).uniform(0, 500, (ticks // 6, 2)), 6, axis=0)
        state = [np.zeros(2)]
        for goal in goals:
            state.append(state[-1] + (goal - state[-1]) / 3)
        episodes.append(RecordedEpisode(str(seed), np.roll(goals, shift, axis=0).astype(np.float32),
                                        np.array(state, np.float32)))
    return episodes


@pytest.mark.parametrize(("shift", "words"), [(0, None), (3, "3 ticks too late"), (-3, "3 ticks too early")])
def test_places_to_go_to_have_no_lag_where_the_state_only_follows(shift: int, words: str | None) -> None:
    signal = Signal(("x", "y"))
    found = find_lag(Numbers.gather(followed(shift), signal, signal))
    assert [fault.kind for fault in found] == ([] if words is None else ["action_lag"])
    assert words is None or words in found[0].detail


def test_a_lag_of_one_tick_shows_against_other_recordings() -> None:
    signal = Signal(("x", "y"))
    clean = Numbers.gather(followed(0), signal, signal)
    late = Numbers.gather(followed(-1), signal, signal)
    assert compare_lags(clean, clean, "clean") == []
    found = [*find_lag(late), *compare_lags(late, clean, "clean")]
    assert [fault.kind for fault in found] == ["action_lag"]


@pytest.mark.parametrize("shift", [0, 2])
def test_without_a_state_the_picture_tells_the_lag(shift: int) -> None:
    rng = np.random.default_rng(5)
    bursts = [np.repeat(rng.uniform(0, 1, 20) > 0.5, 3)[:, None] * rng.normal(size=(60, 2)) for _ in range(3)]
    episodes = [RecordedEpisode(str(number), np.roll(burst, shift, axis=0).astype(np.float32), None)
                for number, burst in enumerate(bursts)]
    motion = [np.linalg.norm(burst, axis=1) for burst in bursts]
    found = find_lag(Numbers.gather(episodes, Signal(("dx", "dy")), None, motion))
    assert [fault.kind for fault in found] == (["action_lag"] if shift else [])


def test_the_command_writes_check_json_and_ends_with_one(clean: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "check", str(clean), "--like", str(clean), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "check.json").read_text()) == {"faults": []}
    write(tmp_path / "set", spoil=with_frames(darken, only=0))
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "set"), "--out", str(tmp_path)])
    assert done.exit_code == 1
    faults = json.loads((tmp_path / "check.json").read_text())["faults"]
    assert [set(fault) for fault in faults] == [{"kind", "episode", "detail"}]
    assert faults[0]["kind"] in KINDS
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "nowhere"), "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr.count("error:") == 1


def test_a_world_by_name_can_be_compared_with(clean: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "check", str(clean), "--like", "pusht-96", "--no-frames", "--out",
                                    str(tmp_path)])
    assert done.exit_code == 1, done.output
    faults = json.loads((tmp_path / "check.json").read_text())["faults"]
    assert [fault["kind"] for fault in faults] == ["action_count"]


def test_inspect_prints_what_there_is(clean: Path) -> None:
    done = CliRunner().invoke(app, ["data", "inspect", str(clean)])
    assert done.exit_code == 0
    for words in ("lerobot", "top 32x40, wrist 24x24", "gripper", "of 41 to 41 frames", "go 0"):
        assert words in done.output


def test_inspect_writes_a_page_that_stands_alone(clean: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "inspect", str(clean), "--out", str(tmp_path / "page")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page/recordings.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 6
    assert page.count("<svg") == 1 + 6
    assert "episode 2, wrist: go 0" in page
    assert 'src="http' not in page


def test_same_is_what_was_taken() -> None:
    episode, frames = taken(1)
    assert same(1, episode, frames) == (episode, frames)
