"""Recordings as a task: starts by episode, a truth that plays back, goals, and what disagrees refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arm_recordings import taken, write
from wcsim.data.cosmos import ACTION, STATE
from wcsim.envs.lanes import check_world
from wcsim.envs.recordings import Playback, RecordingsTask
from wcsim.envs.tasks import episode_of, make_task, play_exploration
from wcsim.errors import ConfigError, DataError
from wcsim.types import ActionSpec, WorldSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recordings") / "set"
    write(path)
    return str(path)


def test_starts_truth_and_goals_are_those_of_an_episode(folder: str) -> None:
    task = make_task("recordings", path=folder, cameras=["top"], episodes=[2, 0])
    assert (task.name, task.fps, task.frame_size) == ("recordings", 10.0, (32, 40))
    assert task.action.names == ("dx", "dy", "gripper")
    for seed, number in ((0, 2), (1, 0), (5, 0)):
        episode, frames = taken(number)
        start = task.start(seed)
        np.testing.assert_array_equal(start.frames, frames["top"][:1])
        np.testing.assert_array_equal(start.recorded, episode.actions)
        assert start.goal is not None
        np.testing.assert_array_equal(start.goal.frame, frames["top"][-1])
        told = episode_of(task, start, number=0, seed=seed)
        assert (told.instruction, told.actions is start.recorded) == (episode.instruction, True)
    looks, actions = play_exploration(task, 0, 40)
    episode, frames = taken(2)
    np.testing.assert_array_equal(np.stack([look.pixels for look in looks]), frames["top"])
    np.testing.assert_array_equal(actions, episode.actions)


def test_a_playback_goes_back_and_ends_in_words(folder: str) -> None:
    task = RecordingsTask(path=folder, cameras=["wrist"])
    truth = Playback(task)
    truth.reset(1)
    for _ in range(17):
        truth.advance(np.zeros(3))
    snapshot, shown = truth.snapshot(), truth.look().pixels
    truth.step(np.zeros(3))
    np.testing.assert_array_equal(truth.restore(snapshot).pixels, shown)
    np.testing.assert_array_equal(shown, taken(1)[1]["wrist"][17])
    truth.restore((1, 40))
    with pytest.raises(ConfigError, match="recording 1 ends after 40 actions; ask for fewer max_steps"):
        truth.step(np.zeros(3))


def test_all_cameras_make_one_mosaic(folder: str) -> None:
    task = RecordingsTask(path=folder)
    frames = taken(0)[1]
    assert task.frame_size == (32, 64)
    views: Any = task.cameras.split(task.start(0).frames)
    for name in ("top", "wrist"):
        np.testing.assert_array_equal(views[name], frames[name][:1])


def test_bounds_hold_what_is_recorded(folder: str) -> None:
    task = RecordingsTask(path=folder)
    for number in range(3):
        assert task.action_space.contains(task.start(number).recorded[0])  # type: ignore[index]
    assert np.isfinite(task.hold_action(task.goal_frame())).all()


@pytest.mark.parametrize(("options", "words"), [
    ({"fps": 4.0}, "has 10 fps, asked for are 4; say resample: true"),
    ({"fps": 4.0, "resample": True}, "no whole multiple of 4"),
    ({"frame_size": (32, 40)}, "has the cameras top, wrist; choose with the option cameras"),
    ({"frame_size": (16, 16), "cameras": ["top"]}, "camera 'top' has frames of 32x40, asked for are 16x16; say fit"),
    ({"convention": "bridge"}, "has the actions dx, dy, gripper; the convention has dx, dy, dz, droll"),
    ({"convention": "kitchen"}, "known: bridge, and worlds"),
    ({"episodes": ["9"]}, "has no episode '9'"),
    ({"cameras": ["side"]}, "has no camera 'side'"),
])
def test_what_disagrees_is_refused_by_name(folder: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        make_task("recordings", path=folder, **options).start(0)


def test_what_was_asked_for_is_resampled_and_squashed(folder: str) -> None:
    task = RecordingsTask(path=folder, cameras=["top"], fps=5.0, resample=True, frame_size=(16, 16), fit="squash")
    start = task.start(0)
    assert (start.frames.shape, task.fps) == ((1, 16, 16, 3), 5.0)
    assert start.recorded is not None
    assert len(start.recorded) == 20
    assumed = RecordingsTask(path=folder, cameras=["top"], fps=4.0, assume_fps=4.0)
    assert len(assumed.start(0).recorded) == 40  # type: ignore[arg-type]


def test_npz_needs_what_it_does_not_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(2):
        frames = rng.integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{number}.npz", frames=frames, actions=rng.uniform(0, 0.1, (3, 7)))
    task = RecordingsTask(path=str(tmp_path), convention="bridge", frame_size=(96, 96), fps=4.0)
    assert task.start(3).truth == (1, 0)
    first = next(iter(task.explore(np.random.default_rng(), task.make_truth())))
    np.testing.assert_array_equal(first, task.episode(0).actions[0])
    assert task.hold_action(task.goal_frame())[6] == 0.5
    assert [path.name for path in task.files()] == ["0.npz", "1.npz"]
    with pytest.raises(ConfigError, match="does not say its fps; give the option fps"):
        RecordingsTask(path=str(tmp_path)).start(0)
    with pytest.raises(ConfigError, match="camera 'pixels' has frames of 96x96, asked for are 64x64"):
        RecordingsTask(path=str(tmp_path), frame_size=(64, 64), fps=4.0).start(0)
    with pytest.raises(DataError, match="nowhere does not exist"):
        RecordingsTask(path=str(tmp_path / "nowhere")).start(0)
    np.savez(tmp_path / "1.npz", frames=frames, actions=np.ones((3, 7)))
    again = RecordingsTask(path=str(tmp_path), convention="bridge", frame_size=(96, 96), fps=4.0)
    with pytest.raises(DataError, match=r"episode 1: dx at \(0,\) = 1.0 is out of range"):
        again.start(1)


@pytest.mark.parametrize(("change", "words"), [
    ({}, None), ({"fps": 5.0}, "imagines 5 frames a second; task 'recordings' has 10"),
    ({"frame_size": (64, 64)}, r"at \[64, 64\]; asked for 'recordings' at \[32, 40\]"),
    ({"names": ("dx", "dy", "jaw")}, "takes the actions dx, dy, jaw"), ({"units": "cm"}, "in 'cm'"),
])
def test_a_world_that_disagrees_is_refused(folder: str, change: dict[str, Any], words: str | None) -> None:
    task = RecordingsTask(path=folder, cameras=["top"])
    told = task.action
    action = ActionSpec(told.low, told.high, change.get("names", told.names), change.get("units", told.units))
    spec = WorldSpec("w", "recordings", change.get("frame_size", (32, 40)), (4, 4, 5), change.get("fps", 10.0), action,
                     4, 4, 1.0, 0.0, 4)
    if words is None:
        check_world(task, spec)
        check_world(task, replace(spec, task="wcsim.envs.recordings:RecordingsTask"))  # trained by module:Class
        with pytest.raises(ConfigError, match="imagines task 'other'"):
            check_world(task, replace(spec, task="other"))
    else:
        with pytest.raises(ConfigError, match=words):
            check_world(task, spec)


def test_annotations_are_of_the_bridge_convention() -> None:
    assert ACTION.dim == STATE.dim == 7
