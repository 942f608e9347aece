"""Recordings as a task: starts by episode, a truth that plays back, goals, and what disagrees refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arm_recordings import SPEC, taken, with_actions, write
from tiny_worlds import save_world_of
from wcsim.data.cosmos import ACTION, STATE
from wcsim.data.fed import reach
from wcsim.envs.agreement import check_reports, check_world
from wcsim.envs.recordings import Playback, RecordingsTask
from wcsim.envs.tasks import episode_of, make_task, play_exploration
from wcsim.errors import ConfigError, DataError
from wcsim.spec import Quantity, StateSpec
from wcsim.types import ActionSpec, WorldSpec
from wcsim.world.robot_state import RobotState, RobotStateConfig


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
    ({"absolute": ()}, "takes none as values to hold; task 'recordings' gripper"),
    ({"low": (-1.0, -1.0, 0.0)}, "takes actions from"),
    ({"cameras": (("side", 32, 40),)}, "imagines the cameras side 32x40; task 'recordings' has top 32x40"),
])
def test_a_world_that_disagrees_is_refused(folder: str, change: dict[str, Any], words: str | None) -> None:
    task = RecordingsTask(path=folder, cameras=["top"])
    told = task.action
    theirs = {key: value for key, value in change.items() if key in ("names", "units", "absolute", "low")}
    spec = WorldSpec("w", "recordings", (32, 40), (4, 4, 5), 10.0, replace(told, **theirs), 4, 4, 1.0, 0.0, 4)
    spec = replace(spec, **{key: value for key, value in change.items() if key not in theirs})
    if words is None:
        check_world(task, spec)
        check_world(task, replace(spec, task="wcsim.envs.recordings:RecordingsTask"))  # trained by module:Class
        with pytest.raises(ConfigError, match="imagines task 'other'"):
            check_world(task, replace(spec, task="other"))
    else:
        with pytest.raises(ConfigError, match=words):
            check_world(task, spec)


@pytest.fixture(scope="module")
def world(folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A world of those recordings, whose action convention is theirs."""
    path = tmp_path_factory.mktemp("world") / "arm"
    return save_world_of(RecordingsTask(path=folder, cameras=["top"]), path)


@pytest.mark.parametrize(("factor", "units", "words"), [
    (1 / 55, "", r"use 1\.\d% of the world's bounds; .* say action_scale"),
    (1 / 55, "inch", "has actions in 'inch'; the convention's are in 'm; gripper .*'; say action_scale"),
    (5.0, "", "out of range")])
def test_actions_of_another_scale_are_refused_or_converted(
    world: str, tmp_path: Path, factor: float, units: str, words: str) -> None:
    factors = np.array([factor, factor, 1.0])
    told = replace(SPEC, action=replace(SPEC.action, units=units))
    clean = write(tmp_path / "other", spoil=with_actions(lambda actions: actions * factors), spec=told)
    options = {"path": str(tmp_path / "other"), "cameras": ["top"], "convention": world}
    with pytest.raises((ConfigError, DataError), match=words):
        make_task("recordings", **options).start(0)
    task = make_task("recordings", **options, action_scale=list(1 / factors))
    for number in range(3):
        given = clean[number][0].actions / factors
        np.testing.assert_allclose(task.start(number).recorded, given, rtol=1e-5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="action_scale is .*; allowed: one number that is finite and not 0, or 3"):
        make_task("recordings", **options, action_scale=[1.0, 2.0]).start(0)


def test_kinds_of_actions_that_differ_are_refused(world: str, tmp_path: Path) -> None:
    write(tmp_path / "set", spec=replace(SPEC, action=replace(SPEC.action, absolute=("dx", "gripper"))))
    with pytest.raises(ConfigError, match="has the values to hold dx, gripper, the convention gripper"):
        make_task("recordings", path=str(tmp_path / "set"), cameras=["top"], convention=world).start(0)


def test_what_rests_says_nothing_of_the_scale() -> None:
    spec = SPEC.action
    action = ActionSpec((-1.0, -1.0, 0.0), (1.0, 1.0, 1.0), spec.names, spec.units, absolute=spec.absolute)
    assert reach(action, np.array([[0.5, 0.0, 1.0], [-0.25, 0.0, 1.0]])) == 0.5
    assert reach(action, np.zeros((4, 3))) is None
    assert reach(action, np.array([[np.nan, 0.0, 0.0]])) is None


def test_a_robot_of_another_size_is_refused() -> None:
    model = RobotState(RobotStateConfig((("state", 2),), (False, False), (4, 4, 5), 3))
    task = RecordingsTask(path="unread")
    task.state = StateSpec((Quantity("state", 3, "m", "scalar", role="robot"),))
    with pytest.raises(ConfigError, match="predicts 'state' as 2 numbers; task 'recordings' has 3"):
        check_reports(task, "w", model)


def test_annotations_are_of_the_bridge_convention() -> None:
    assert ACTION.dim == STATE.dim == 7
