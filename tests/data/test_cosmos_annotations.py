"""Cosmos-Predict2.5's annotations: actions by the rule of its inference code, and what is wrong named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from old_sets import film
from wcsim.backbones.cosmos2.releases import BRIDGE
from wcsim.data.check import check
from wcsim.data.cosmos import ACTION, derive_actions
from wcsim.data.recordings import open_recordings
from wcsim.data.views import View, ViewOptions
from wcsim.errors import DataError


def annotation(ticks: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    grip = (np.arange(ticks + 1) < 6).astype(float)
    place, turn = (size * rng.normal(size=(ticks + 1, 3)).cumsum(0) for size in (0.01, 0.1))
    state = np.hstack([place, turn, grip[:, None]])
    actions = derive_actions(state, 1.0 - grip)
    actions[:, 6] = grip[1:]
    return {"task": "robot_trajectory_prediction", "texts": ["put it down"], "episode_id": "1",
            "videos": [{"video_path": "videos/test/1/rgb.mp4"}], "state": state.tolist(), "action": actions.tolist(),
            "continuous_gripper_state": (1.0 - grip).tolist()}


def write(root: Path, told: dict[str, Any], fps: float = 3.0) -> np.ndarray:
    (root / "annotation/test").mkdir(parents=True)
    (root / "annotation/test/1.json").write_text(json.dumps(told))
    frames = np.random.default_rng(0).integers(30, 256, (13, 24, 32, 3), dtype=np.uint8)
    film(root / "videos/test/1/rgb.mp4", frames, fps)
    return frames


def test_actions_move_in_the_frame_of_the_gripper_before() -> None:
    """Closed form: turned by 90 degrees about z, a step along y of the room is one along x of the gripper."""
    state = np.array([[0, 0, 0, 0, 0, np.pi / 2, 1], [0, 0.1, 0, 0, 0, np.pi / 2, 1],
                      [0, 0.1, 0, 0, 0, 0.75 * np.pi, 0]])
    np.testing.assert_allclose(derive_actions(state, np.array([0.0, 0.0, 1.0])),
                               [[0.1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, np.pi / 4, 1]], atol=1e-12)


def test_the_convention_is_that_of_the_worlds() -> None:
    assert (ACTION.names, ACTION.units, ACTION.absolute) == (BRIDGE.names, BRIDGE.units, BRIDGE.absolute)


def test_an_annotation_is_read(tmp_path: Path) -> None:
    told = annotation()
    frames = write(tmp_path, told)
    read = open_recordings(tmp_path)
    assert (read.format, read.spec.fps, read.spec.cameras.frame_size) == ("cosmos", 3.0, (24, 32))
    episode = read.episode(0)
    np.testing.assert_allclose(episode.actions[:, :6], np.array(told["action"])[:, :6], atol=1e-6)
    np.testing.assert_allclose(episode.actions[:, 6], 1.0 - np.array(told["state"])[1:, 6])
    assert (episode.instruction, episode.name) == ("put it down", "1")
    np.testing.assert_array_equal(read.frames(0, "camera_0", [12, 0]), frames[[12, 0]])
    assert open_recordings(tmp_path, fps=4.0).spec.fps == 4.0
    assert [fault.kind for fault in check(read)] == []


def test_every_second_state_gives_its_own_actions(tmp_path: Path) -> None:
    told = annotation()
    frames = write(tmp_path, told, fps=4.0)
    view = View(open_recordings(tmp_path), ViewOptions(fps=2.0))
    state = np.array(told["state"])[::2]
    np.testing.assert_allclose(view.episode(0).actions, derive_actions(state, 1.0 - state[:, 6]), atol=1e-6)
    np.testing.assert_array_equal(view.frames(0, "camera_0", [6]), frames[[12]])


@pytest.mark.parametrize(("change", "kind", "words"), [
    (lambda told: told | {"action": (np.array(told["action"]) / 55).tolist()}, "action_scale",
     "differ from its states"),
    (lambda told: told | {"continuous_gripper_state": (1 - np.array(told["continuous_gripper_state"])).tolist()},
     "gripper_sign", "0 where open"),
    (lambda told: told | {"action": [*told["action"], told["action"][-1]]}, "action_count", "13 rows in 'action'"),
    (lambda told: {key: value for key, value in told.items() if key != "state"}, "missing", "has no 'state'"),
    (lambda told: told | {"videos": [{"video_path": "videos/test/9/rgb.mp4"}]}, "missing", "9/rgb.mp4 does not exist"),
    (lambda told: told | {key: told[key][:6] for key in ("state", "continuous_gripper_state")} |
     {"action": told["action"][:5]}, "drift", "has 13 frames; the table has 6"),
])
def test_planted_faults_are_found(tmp_path: Path, change: Any, kind: str, words: str) -> None:
    write(tmp_path, change(annotation()))
    try:
        found = [(fault.kind, fault.detail) for fault in check(open_recordings(tmp_path))]
    except DataError as error:
        found = [(error.kind, str(error))]
    assert kind in [one for one, _ in found]
    assert words in " ".join(detail for _, detail in found)
