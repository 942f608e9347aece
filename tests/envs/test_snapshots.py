"""Snapshots on disk: whole, across processes, and refused where they do not belong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.snapshots import checksum, load_snapshots, save_snapshots
from wcsim.errors import SnapshotError

CACHE = {"preset": "worldcache", "threshold": 0.3}


@pytest.fixture
def env(folder: Any) -> Any:
    env = ImaginedEnv("pusht", folder, fidelity={"steps": 6, "cache": CACHE})
    env.reset(seed=3)
    env.step(np.array([100.0, 200.0]))
    return env


def actions(count: Any, seed: Any = 0) -> Any:
    return np.random.default_rng(seed).uniform(0, 512, (count, 2)).astype(np.float32)


def futures(env: Any, moves: Any) -> Any:
    return b"".join(env.step(move)[0]["pixels"].tobytes() for move in moves) + env.reset()[0]["pixels"].tobytes()


FUTURE = """
import sys, numpy as np
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.snapshots import load_snapshots
world, folder = sys.argv[1:]
env = ImaginedEnv("pusht", world, fidelity={"steps": 6, "cache": {"preset": "worldcache", "threshold": 0.3}})
for snapshot in load_snapshots(folder):
    env.restore(snapshot)
    for move in np.load(folder + "/moves.npy"):
        sys.stdout.buffer.write(env.step(move)[0]["pixels"].tobytes())
    sys.stdout.buffer.write(env.reset()[0]["pixels"].tobytes())
"""


def test_another_process_has_the_same_future(env: Any, folder: Any, tmp_path: Any) -> None:
    chunk = actions(3, seed=1)
    plain = env.snapshot()
    env.expect(chunk)
    env.step(chunk[0])
    save_snapshots(tmp_path, [plain, env.snapshot()])  # the second within a chunk
    assert {path.name for path in tmp_path.iterdir()} == {"snapshot.json", "snapshot.safetensors"}
    np.save(tmp_path / "moves.npy", chunk[1:])
    told = subprocess.run([sys.executable, "-c", FUTURE, folder, str(tmp_path)], capture_output=True, check=True)
    inside = futures(env, chunk[1:])
    env.restore(plain)
    assert told.stdout == futures(env, chunk[1:]) + inside


def test_what_is_written_is_read(env: Any, tmp_path: Any) -> None:
    env.expect(actions(4))
    env.step(actions(4)[0])
    snapshot: Any = env.snapshot()
    save_snapshots(tmp_path, [snapshot] * 2)
    read: Any
    for read in load_snapshots(tmp_path):
        assert replace(read, lane=snapshot.lane) == snapshot
        for name, value in read.lane.state.tensors().items():
            assert torch.equal(value, getattr(snapshot.lane.state, name))
        np.testing.assert_array_equal(read.pixels, snapshot.pixels)
        np.testing.assert_array_equal(read.lane.ahead.frames, snapshot.lane.ahead.frames)
        np.testing.assert_array_equal(read.lane.ahead.trace.hit, snapshot.lane.ahead.trace.hit)
        assert read.lane.ahead.shown == 1


def test_branching_copies_no_history(env: Any) -> None:
    branches = env.branch(64)
    for branch in branches:
        assert branch.lane is env.lane
        assert branch.lane.state.latents.data_ptr() == env.lane.state.latents.data_ptr()
    kept = env.lane
    branches[0].step(actions(1)[0])
    assert env.lane is kept
    assert all(branch.lane is kept for branch in branches[1:])


def test_another_world_or_version_is_refused(env: Any, folder: Any, tmp_path: Any) -> None:
    snapshot = env.snapshot()
    before = env.lane
    with pytest.raises(SnapshotError, match="of world 'mars'; this one is 'tiny'"):
        env.restore(replace(snapshot, world="mars"))
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    described = json.loads((other / "world.json").read_text())
    described["source"] = "a later training"
    (other / "world.json").write_text(json.dumps(described))
    with pytest.raises(SnapshotError, match="another version of world 'tiny'"):
        ImaginedEnv("pusht", str(other), fidelity={"steps": 6, "cache": CACHE}).restore(snapshot)
    assert env.lane is before


def test_broken_files_are_refused(env: Any, tmp_path: Any) -> None:
    with pytest.raises(SnapshotError, match="does not hold whole snapshots"):
        load_snapshots(tmp_path)
    save_snapshots(tmp_path, [env.snapshot()])
    text = (tmp_path / "snapshot.json").read_text()
    (tmp_path / "snapshot.json").write_text(text.replace('"format": 4', '"format": 5'))
    with pytest.raises(SnapshotError, match="snapshot format 5; this wcsim reads 4"):
        load_snapshots(tmp_path)
    (tmp_path / "snapshot.json").write_text(text)
    (tmp_path / "snapshot.safetensors").write_bytes(b"no")
    with pytest.raises(SnapshotError, match="damaged snapshots: they do not match their checksum"):
        load_snapshots(tmp_path)


@pytest.mark.parametrize("within_a_chunk", [False, True])
def test_damaged_snapshots_leave_the_environment_as_it_was(env: Any, tmp_path: Any, within_a_chunk: Any) -> None:
    """Tensors of other shapes and numbers of other kinds, three hundred times: restored whole or refused."""
    if within_a_chunk:
        moves = np.full((3, 2), 256.0)
        env.expect(moves)
        env.step(moves[0])
    save_snapshots(tmp_path, [env.snapshot()])
    text, tensors = (tmp_path / "snapshot.json").read_text(), load((tmp_path / "snapshot.safetensors").read_bytes())
    refused = 0
    for number in range(300):
        rng = np.random.default_rng([3, number])
        described, changed = json.loads(text), dict(tensors)
        row = described["snapshots"][0]
        if number % 2:
            holder = [row, row["generator"], row["generator"]["state"]][rng.integers(3)]
            key = sorted(holder)[rng.integers(len(holder))]
            holder[key] = [None, -1, "x", [], {}, 2**200, 0.5][rng.integers(7)]
        else:
            name = sorted(changed)[rng.integers(len(changed))]
            value = changed[name]
            changed[name] = [value[:0], value.flatten(), value.double() * float("nan"), value[None]][rng.integers(4)]
        arrays = save({name: value.contiguous().clone() for name, value in changed.items()})
        (tmp_path / "snapshot.safetensors").write_bytes(arrays)
        described["sha256"] = checksum(arrays, described["snapshots"])
        (tmp_path / "snapshot.json").write_text(json.dumps(described))
        before = env.lane, env.elapsed, env.over, env.np_random.bit_generator.state
        try:
            env.restore(load_snapshots(tmp_path)[0])
        except SnapshotError:
            refused += 1
            assert (env.lane, env.elapsed, env.over, env.np_random.bit_generator.state) == before
    assert refused > 250


def test_any_changed_byte_is_told_by_the_checksum(env: Any, tmp_path: Any) -> None:
    save_snapshots(tmp_path, [env.snapshot()])
    for name, old, new in (("snapshot.json", b'"elapsed": 1', b'"elapsed": 2'), ("snapshot.safetensors", b"", b"")):
        content = (tmp_path / name).read_bytes()
        changed = content.replace(old, new) if old else content[:-1] + bytes([content[-1] ^ 1])
        assert changed != content
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(SnapshotError, match="damaged snapshots: they do not match their checksum"):
            load_snapshots(tmp_path)
        (tmp_path / name).write_bytes(content)
    assert len(load_snapshots(tmp_path)) == 1
