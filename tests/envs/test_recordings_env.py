"""Environments of recordings: a robot of no known state, alone and in lanes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny_worlds import save_world_of
from wcsim.agents.policies import PerLane, ReplayPolicy
from wcsim.data.recordings import open_recordings
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.paired import PairedTruth
from wcsim.envs.recordings import RecordingsTask
from wcsim.envs.tasks import episode_of, make_task
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.errors import DataError

FIDELITY = {"steps": 2, "cache": "none"}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Three recordings that begin alike and go on differently."""
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    first = rng.integers(0, 256, (32, 48, 3)).astype(np.uint8)
    for number in range(3):
        frames = rng.integers(0, 256, (5, 32, 48, 3)).astype(np.uint8)
        frames[0] = first
        np.savez(folder / f"{number}.npz", frames=frames, actions=rng.uniform(0, 0.1, (4, 7)))
    return {"path": str(folder), "convention": "bridge", "frame_size": (32, 48), "fps": 4.0}


@pytest.fixture(scope="module")
def world(options, tmp_path_factory):
    return save_world_of(RecordingsTask(**options), tmp_path_factory.mktemp("worlds") / "world")


def test_a_robot_of_no_known_state_is_stepped(options, world):
    settings = {"task": "recordings", "world": world, "task_options": options, "fidelity": FIDELITY}
    env, lanes = ImaginedEnv(**settings), ImaginedVectorEnv(2, **settings)
    paired = PairedTruth(env)
    observation, info = paired.reset(seed=1)
    assert observation["agent_pos"].shape == (0,)
    assert env.observation_space.contains(observation)
    assert info["psnr_db"] > 40
    together = lanes.reset(seed=0)[0]
    assert lanes.observation_space.contains(together)
    for action in env.start.recorded[:2]:
        seen = paired.step(action)[0]
        together = lanes.step(np.stack([action, action]))[0]
        np.testing.assert_array_equal(seen["pixels"], together["pixels"][1])
    assert together["agent_pos"].shape == (2, 0)
    assert not env.last_estimate.success[0]
    assert paired.strip_metric is None


def test_recordings_that_begin_alike_play_their_own_actions(options):
    task = RecordingsTask(**options)
    starts = [task.start(seed) for seed in range(3)]
    assert all((start.frames == starts[0].frames).all() for start in starts)
    lanes = PerLane([ReplayPolicy(task.action) for _ in starts])
    lanes.reset(np.ones(3, bool), tuple(episode_of(task, start, number=0, seed=7) for start in starts))
    played = lanes.act({"pixels": np.stack([start.frames[-1] for start in starts])}, None)
    np.testing.assert_array_equal(played, np.stack([task.episode(number).actions[0] for number in range(3)]))
    assert len({tuple(row) for row in np.asarray(played).tolist()}) == 3


GOOD = {"frames": np.zeros((4, 8, 8, 3), np.uint8), "actions": np.zeros((3, 7)), "state": np.zeros((4, 2))}


def read(path: Path) -> None:
    """What is known of all recordings, and the numbers of the first."""
    recordings = open_recordings(path)
    assert recordings.spec.action.dim
    recordings.episode(0)


@pytest.mark.parametrize(("change", "words"), [
    ({"frames": None}, "has no frames; it has actions, state"),
    ({"frames": np.zeros((4, 8, 8, 3))}, "has frames float64"),
    ({"frames": np.zeros((4, 8, 8, 4), np.uint8)}, r"has frames uint8 \[4, 8, 8, 4\]"),
    ({"frames": np.zeros((4, 0, 8, 3), np.uint8)}, r"has frames uint8 \[4, 0, 8, 3\]"),
    ({"frames": np.zeros((1, 8, 8, 3), np.uint8), "actions": np.zeros((0, 7))}, r"has actions float64 \[0, 7\]"),
    ({"actions": np.array([["a"], ["b"], ["c"]])}, "has actions <U1"),
    ({"actions": np.array([[None], [1], [2]], object)}, "has actions object"),
    ({"actions": np.zeros((3, 0))}, r"has actions float64 \[3, 0\]; needed is numbers \[T >= 1, A >= 1\]"),
    ({"actions": np.zeros((4, 7))}, "has 4 frames and actions"),
    ({"state": np.zeros((3, 2))}, "has 4 frames and state"),
    ({"fps": "x"}, "has fps <U1"), ({"fps": np.zeros(2)}, r"has fps float64 \[2\]; needed is a number"),
    ({"fps": 0.0}, "has fps 0.0; needed is a number above 0"), ({"fps": np.nan}, "has fps nan"),
    ({"seed": np.zeros(2, int)}, "needed is an integer"), ({"success": np.zeros(2, bool)}, "needed is true or false"),
    ({"instruction": np.array(["a", "b"])}, "needed is a text"), ({"action_names": np.array(3)}, "needed is texts"),
])
def test_an_array_that_is_no_recording_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    arrays = {name: value for name, value in (GOOD | change).items() if value is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=rf"a\.npz .*{words}"):
        read(tmp_path)


@pytest.mark.parametrize("damage", [lambda content: content[:300], lambda content: b"no", lambda content: b""])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"a\.npz is no whole \.npz file"):
        make_task("recordings", path=str(tmp_path), convention="bridge", fps=4.0).start(0)
