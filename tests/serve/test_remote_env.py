"""The remote environment equals the local one to the last bit, alone and in a vector, also after the line broke."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from sameness import assert_same
from served import served
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.remote import RemoteEnv, RemoteVectorEnv
from wcsim.envs.snapshots import load_snapshots, save_snapshots
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.envs.wrappers import ChunkAction
from wcsim.errors import ActionError, ConfigError, RemoteError, SnapshotError

FIDELITY = {"steps": 6, "cache": {"preset": "worldcache", "threshold": 0.3}}
SETTINGS = {"fidelity": FIDELITY, "truncate": True}


@pytest.fixture(scope="module")
def server(folder):
    with served(folder) as (address, service):
        yield address, service


@pytest.fixture
def pair(server, folder):
    remote = RemoteEnv(server[0], fidelity=FIDELITY)
    local = ImaginedEnv("pusht", folder, fidelity=FIDELITY)
    yield remote, local
    remote.close()


def moves(count, seed=0):
    return np.random.default_rng(seed).uniform(0, 512, (count, 2)).astype(np.float32)


def same_steps(remote, local, actions):
    for action in actions:
        assert_same(remote.step(action), local.step(action))


def test_an_episode_is_the_local_one(pair):
    remote, local = pair
    assert remote.observation_space == local.observation_space
    assert remote.action_space == local.action_space
    assert (remote.task, remote.task_description, remote.caption) == (local.task, local.task_description, local.caption)
    assert remote.metadata == local.metadata
    assert_same(remote.reset(seed=4), local.reset(seed=4))
    same_steps(remote, local, moves(3))
    assert torch.equal(remote.last_latents, local.last_latents)
    for name, value in local.state.tensors().items():
        assert torch.equal(remote.state.tensors()[name], value)
    assert_same(remote.last_trace.hit, local.last_trace.hit)
    assert {"network", "queue", "step", "remote", "deep"} <= set(remote.last_timing)
    assert_same(remote.reset(), local.reset())


def test_chunks_and_actions_other_than_announced(pair):
    remote, local = pair
    for env in pair:
        env.reset(seed=1)
        env.expect(moves(4))
    same_steps(remote, local, [*moves(2), *moves(2, seed=9), *moves(1)])
    for env in pair:
        env.expect(moves(3, seed=2), together=False)
    same_steps(remote, local, moves(3, seed=2))
    one, other = (ChunkAction(env, 3) for env in pair)
    chunk = moves(3, seed=3)
    assert_same(one.step(chunk), other.step(chunk))


def test_snapshots_travel_both_ways(pair, tmp_path):
    remote, local = pair
    for env in pair:
        env.reset(seed=1)
        env.expect(moves(3))
        env.step(moves(1)[0])
    save_snapshots(tmp_path, [remote.snapshot()])
    (there,), here = load_snapshots(tmp_path), local.snapshot()
    same_steps(remote, local, moves(3)[1:])
    assert_same(local.restore(there), remote.restore(here))
    same_steps(remote, local, [*moves(3)[1:], *moves(2, seed=5)])
    assert_same(remote.reset(), local.reset())


def test_branches_and_anchors(pair):
    remote, local = pair
    for env in pair:
        env.reset(seed=1)
        env.expect(moves(3))
        env.step(moves(1)[0])
    branches = list(zip(remote.branch(2), local.branch(2), strict=True))
    for number, (one, other) in enumerate(branches):
        same_steps(one, other, [*moves(3)[1:], *moves(2, seed=number)])
    frames = np.stack([local.lane.pixels] * 2)
    for env in pair:
        env.anchor(frames, moves(1, seed=7))
    same_steps(remote, local, moves(2, seed=8))
    for one, _ in branches:
        one.close()


@pytest.mark.parametrize("every", [1, 2, 32])
def test_a_broken_line_changes_nothing(server, folder, every):
    remote = RemoteEnv(server[0], fidelity=FIDELITY, snapshot_every=every)
    local = ImaginedEnv("pusht", folder, fidelity=FIDELITY)
    remote.reset(seed=2)
    local.reset(seed=2)
    remote.session.line._socket.close()
    same_steps(remote, local, moves(3))
    for env in (remote, local):
        env.expect(moves(4, seed=3))
        env.step(moves(1, seed=3)[0])
    remote.session.line._socket.close()
    same_steps(remote, local, [*moves(4, seed=3)[1:], *moves(2, seed=4)])
    remote.session.line.close()
    assert torch.equal(remote.last_latents, local.last_latents)
    assert remote.reconnects == 3
    remote.close()


def test_a_vector_is_the_local_one_in_one_forward_each(server, folder):
    address, service = server
    remote = RemoteVectorEnv(3, address=address, max_episode_steps=4, **SETTINGS)
    local = ImaginedVectorEnv(3, task="pusht", world=folder, max_episode_steps=4, **SETTINGS)
    assert_same(remote.reset(seed=5), local.reset(seed=5))
    before = service.meter.forwards
    for step in range(6):
        actions = np.stack([moves(3, seed=step)])[0]
        assert_same(remote.step(actions), local.step(actions))
    assert service.meter.forwards - before <= 8
    assert_same(remote.restore(remote.snapshot()), local.restore(local.snapshot()))
    remote.envs[0].session.line._socket.close()
    for env in (remote, local):
        env.expect(np.stack([moves(2, seed=n) for n in range(3)]))
    for step in range(2):
        actions = np.stack([moves(2, seed=n)[step] for n in range(3)])
        assert_same(remote.step(actions), local.step(actions))
    remote.close()
    wrapped = [env(3, lane_wrappers=[("wcsim.envs.wrappers:ChunkAction", {"ticks": 2})], **settings, **SETTINGS)
               for env, settings in ((RemoteVectorEnv, {"address": address}),
                                     (ImaginedVectorEnv, {"task": "pusht", "world": folder}))]
    assert_same(*(env.reset(seed=1) for env in wrapped))
    chunks = moves(6).reshape(3, 2, 2)
    assert_same(*(env.step(chunks) for env in wrapped))
    wrapped[0].close()


def test_what_is_wrong_is_said_before_anything_changes(pair, server, predicting_folder):
    remote, local = pair
    with pytest.raises(gym.error.ResetNeeded):
        remote.step(moves(1)[0])
    remote.reset(seed=1)
    local.reset(seed=1)
    for bad in (np.array([np.nan, 1]), np.array([1.0, 513]), np.zeros(3)):
        with pytest.raises(ActionError):
            remote.step(bad)
    with pytest.raises(gym.error.ResetNeeded):
        _ = remote.last_latents
    other = ImaginedEnv("pusht", predicting_folder, fidelity={"steps": 2})
    other.reset(seed=0)
    with pytest.raises(SnapshotError):
        remote.restore(other.snapshot())
    same_steps(remote, local, moves(2))
    with pytest.raises(ConfigError, match="allows 64"):
        RemoteEnv(server[0], fidelity={"steps": 65}).reset(seed=0)
    with pytest.raises(ConfigError, match="cache preset 'nope'"):
        RemoteEnv(server[0], fidelity={"cache": "nope"})
    with pytest.raises(ConfigError, match="ws://host:port"):
        RemoteEnv("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="has"):
        RemoteEnv(server[0], task="pendulum")


def test_a_server_that_is_gone_is_one_error(folder):
    with served(folder) as (address, _):
        env = RemoteEnv(address, fidelity=FIDELITY, retry_s=0.2)
        env.reset(seed=0)
    with pytest.raises(RemoteError, match="no connection to ws://127.0.0.1"):
        env.step(moves(1)[0])
    with pytest.raises(RemoteError, match="no connection"):
        RemoteEnv(address)
    env.close()


def test_a_server_that_comes_back_goes_on(folder):
    local = ImaginedEnv("pusht", folder, fidelity=FIDELITY)
    with served(folder) as (address, _):
        env = RemoteEnv(address, fidelity=FIDELITY)
        assert_same(env.reset(seed=0), local.reset(seed=0))
        same_steps(env, local, moves(2))
    with served(folder, port=int(address.rsplit(":", 1)[1])):
        same_steps(env, local, moves(2, seed=2))
        env.close()
