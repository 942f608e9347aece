"""The arm's shipped starts: those of the simulator, and enough to play a world where MuJoCo is not installed."""

from __future__ import annotations

import ast
import sys
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from gl import need_gl
from tiny_worlds import save_world_of
from wcsim.envs import cube_truth
from wcsim.envs.cube import Cube
from wcsim.envs.cube_starts import COUNT, FIRST_SEED, STARTS, shipped
from wcsim.envs.cube_truth import GOAL_CM, LEAST_WAY_CM, CubeTruth
from wcsim.envs.tasks import Start, make_task
from wcsim.errors import ConfigError

SETTINGS = {"task": "cube", "task_options": {"starts": "shipped"}, "fidelity": {"steps": 2, "cache": "none"}}


@pytest.fixture
def no_mujoco(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without the extra `arm`."""
    for name in ("mujoco", "ogbench", "dm_control"):
        for module in [known for known in sys.modules if known.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(cube_truth, "_idle", threading.local())


def test_seeds_in_a_row_begin_at_different_starts_and_repeat() -> None:
    task = make_task("cube", starts="shipped")
    starts = [task.start(seed) for seed in range(COUNT + 1)]
    assert len(np.unique([start.truth.state for start in starts[:-1]], axis=0)) == COUNT
    np.testing.assert_array_equal(starts[0].frames, starts[-1].frames)
    for start in starts:
        assert start.frames.shape == (1, *task.frame_size, 3)
        assert start.frames.dtype == np.uint8
        assert start.actions.shape == (0, 5)


def test_what_ships_is_not_changed_by_who_reads_it() -> None:
    task = make_task("cube", starts="shipped")
    frame = task.goal_frame()
    frame[:] = 0
    assert task.goal_frame().any()
    with pytest.raises(ValueError, match="read-only"):
        task.start(0).frames[:] = 0


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "starts.npz"
    with pytest.raises(ConfigError, match="missing or damaged"):
        shipped(broken)
    broken.write_bytes(STARTS.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="missing or damaged"):
        shipped(broken)


def test_other_starts_are_refused() -> None:
    with pytest.raises(ConfigError, match="starts is 'mine'; allowed: drawn, shipped"):
        make_task("cube", starts="mine")


def test_they_are_the_simulators_own() -> None:
    """Not to the last bit: another processor rounds otherwise."""
    pytest.importorskip("ogbench")
    truth, task = CubeTruth(render=False), make_task("cube", starts="shipped")
    for number in (0, COUNT - 1):
        drawn = truth.reset(FIRST_SEED + number).state
        snapshot = truth.snapshot()
        given = task.start(number).truth
        np.testing.assert_allclose(given.state, snapshot.state, atol=1e-6)
        truth.restore(given)
        np.testing.assert_allclose(truth.state, drawn, atol=1e-5)
        assert np.linalg.norm(drawn[5:8] - np.array(GOAL_CM)) >= LEAST_WAY_CM
    truth.close()


def test_their_frames_show_their_snapshots() -> None:
    need_gl()
    task = make_task("cube", starts="shipped")
    truth = task.make_truth()
    for number in (3, 40):
        start: Start = task.start(number)
        drawn = truth.restore(start.truth).pixels.astype(float)
        assert np.abs(drawn - start.frames[0]).mean() < 1.0
    truth.close()


def test_a_world_is_played_without_mujoco(no_mujoco: None, tmp_path: Path) -> None:
    world = save_world_of(Cube(), tmp_path / "world")
    env = gym.make("wcsim/World-v0", world=world, disable_env_checker=True, **SETTINGS)
    lanes = gym.make_vec("wcsim/World-v0", num_envs=2, vectorization_mode="vector_entry_point", world=world, **SETTINGS)
    seen, _ = env.reset(seed=5)
    both, _ = lanes.reset(seed=[5, 6])
    np.testing.assert_array_equal(seen["pixels"], both["pixels"][0])
    assert (both["pixels"][0] != both["pixels"][1]).any()
    action = np.array([0.5, 0.0, -1.0, 0.2, 1.0], np.float32)
    seen, *_, info = env.step(action)
    both, *_ = lanes.step(np.stack([action, -action]))
    assert seen["agent_pos"].shape == (5,)
    assert {"cube_found", "cube_yaw", "gripper", "is_success"} <= info.keys()
    np.testing.assert_array_equal(seen["pixels"], both["pixels"][0])
    env.close()
    lanes.close()


def test_the_arm_is_imported_without_mujoco() -> None:
    """So that `MUJOCO_GL` is chosen first, and worlds need none of it."""
    for path in STARTS.parent.glob("cube*.py"):
        top = ast.parse(path.read_text("utf-8")).body
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
        assert not {name.partition(".")[0] for name in names} & {"mujoco", "ogbench", "OpenGL"}, path.name


def test_what_needs_mujoco_says_so(no_mujoco: None) -> None:
    task = make_task("cube")
    for call in (lambda: task.start(0), task.make_truth):
        with pytest.raises(ConfigError, match=r"pip install 'wcsim\[arm\]'.*starts: shipped"):
            call()
