"""Environments of recordings: a robot of no known state, alone and in lanes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tiny_worlds import save_world_of
from wcsim.agents.policies import PerLane, ReplayPolicy
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
    with pytest.raises(DataError, match=r"a\.npz (is no whole \.npz file|has no frames)"):
        make_task("recordings", path=str(tmp_path), convention="bridge", fps=4.0).start(0)
