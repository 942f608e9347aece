"""Recordings as a task: a start carries its actions, and the truth plays back what belongs to its number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tiny_worlds import save_world_of
from wcsim.envs.footage import Footage
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.paired import PairedTruth
from wcsim.envs.tasks import episode_of, make_task, play_exploration
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.errors import ConfigError

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
    return {"folder": str(folder), "frame_size": (32, 48)}


@pytest.fixture(scope="module")
def world(options, tmp_path_factory):
    return save_world_of(Footage(**options), tmp_path_factory.mktemp("worlds") / "footage")


def test_a_recording_is_found_by_its_number(options):
    task = Footage(**options)
    assert [path.name for path in task.files()] == ["0.npz", "1.npz", "2.npz"]
    for seed in (0, 1, 2, 4):
        start = task.start(seed)
        frames, actions = task.recording(seed % 3)
        np.testing.assert_array_equal(episode_of(task, start, number=0, seed=seed).actions, actions)
        truth = task.make_truth()
        np.testing.assert_array_equal(truth.restore(start.truth).pixels, start.frames[-1])
        for tick, action in enumerate(start.recorded):
            np.testing.assert_array_equal(truth.step(action).pixels, frames[tick + 1])
        with pytest.raises(ConfigError, match=f"recording {seed % 3}.npz ends after 4 actions"):
            truth.advance(start.recorded[0])
        start.frames[...] = 0
        assert task.recording(seed % 3)[0][0].any(), "a start has frames of its own"
    looks, actions = play_exploration(task, 1, 4)
    np.testing.assert_array_equal(actions, task.recording(1)[1])
    assert looks[-1].estimate.values == {}


def test_a_robot_of_no_known_state_is_stepped(options, world):
    settings = {"task": "footage", "world": world, "task_options": options, "fidelity": FIDELITY}
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


def empty_npz(path: Path) -> None:
    np.savez(path, pictures=np.zeros(3))


def array_npz(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").rename(path)


def text_npz(path: Path) -> None:
    path.write_text("no")


def cut_npz(path: Path) -> None:
    np.savez(path, frames=np.zeros((4, 8, 8, 3), np.uint8), actions=np.zeros((3, 7)))
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize("write", [empty_npz, array_npz, text_npz, cut_npz])
def test_a_file_that_is_no_recording_is_named(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "a.npz")
    with pytest.raises(ConfigError, match=r"a\.npz is no recording: .*it needs `frames` and `actions`"):
        make_task("footage", folder=str(tmp_path)).start(0)
