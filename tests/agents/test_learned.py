"""Learned policies: what they see, what they say, and the file that holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wcsim.agents.learned import (
    FORMAT,
    ChunkNetwork,
    LearnedPolicy,
    PolicySettings,
    load_policy,
    save_policy,
    shipped_policies,
)
from wcsim.agents.sights import SIGHTS, pose_features, sight_of
from wcsim.envs.tasks import make_task
from wcsim.errors import CheckpointError, ConfigError
from wcsim.estimate import Episode
from wcsim.types import ActionSpec

ACTION = ActionSpec(low=(0.0, 0.0), high=(512.0, 512.0), names=("x", "y"), units="px")
SETTINGS = PolicySettings("regression", 2, 4, 16, 1, ACTION.low, ACTION.high)
KINDS = ("regression", "flow")


def network(kind: Any = "regression", seed: int = 0) -> ChunkNetwork:
    torch.manual_seed(seed)
    return ChunkNetwork(replace(SETTINGS, kind=kind)).eval()


def seen(x: float = 100.0, block: Any = (200.0, 210.0, 0.5)) -> dict[str, np.ndarray]:
    return {"agent_pos": np.array([[x, 120.0]], np.float32), "environment_state": np.array([block])}


def acted(policy: LearnedPolicy, ticks: int, episode: int = 0) -> np.ndarray:
    begin(policy, episode)
    return np.array([policy.act(seen(100.0 + tick))[0] for tick in range(ticks)])


def begin(policy: LearnedPolicy, *numbers: int) -> None:
    policy.reset(np.ones(len(numbers), bool), [Episode(number, 0) for number in numbers])


def test_the_agent_is_shown_from_the_block_however_both_are_turned() -> None:
    low, high = np.zeros(2), np.full(2, 512.0)
    agent, block = np.array([300.0, 200.0]), np.array([250.0, 240.0, 0.3])
    turn = 0.7
    c, s = np.cos(turn), np.sin(turn)
    spin = np.array([[c, -s], [s, c]])
    turned_block = np.array([*(spin @ (block[:2] - 256) + 256), block[2] + turn])
    one = pose_features(agent, block, low, high)
    other = pose_features(spin @ (agent - 256) + 256, turned_block, low, high)
    assert one.shape == (8,)
    assert one[6:] == pytest.approx(other[6:], abs=1e-6)
    assert np.linalg.norm(one[6:]) * 256 == pytest.approx(np.linalg.norm(agent - block[:2]), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_are_played_and_repeat_by_episode(kind: str) -> None:
    policy = LearnedPolicy(network(kind), ACTION, 1, execute=3)
    first, again, other = acted(policy, 7), acted(policy, 7), acted(policy, 7, episode=1)
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (kind == "regression")
    assert first.shape == (7, 2)
    assert np.isfinite(first).all()


def test_a_chunk_is_offsets_from_where_the_agent_was() -> None:
    flat = network()
    torch.nn.init.zeros_(flat.leave[1].weight)
    torch.nn.init.zeros_(flat.leave[1].bias)
    flat.centre.copy_(torch.arange(8.0))
    assert acted(LearnedPolicy(flat, ACTION, 1, execute=2), 4).tolist() == [
        [100.0, 121.0], [102.0, 123.0], [102.0, 121.0], [104.0, 123.0]]


def test_a_block_out_of_sight_is_where_it_was() -> None:
    policy = LearnedPolicy(network(), ACTION, 1, execute=1)
    begin(policy, 0)
    known = policy.act(seen())
    hidden = policy.act(seen(block=(np.nan,) * 3))
    begin(policy, 0)
    assert np.array_equal(policy.act(seen()), known)
    assert np.array_equal(policy.act(seen()), hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_lanes_share_a_pass_and_say_what_they_say_alone(kind: str) -> None:
    rng = np.random.default_rng(0)
    places, blocks = rng.uniform(0, 512, (6, 3, 2)).astype(np.float32), rng.uniform(0, 512, (6, 3, 3))
    passes: list[int] = []
    made = network(kind)
    made.enter.register_forward_hook(lambda module, given, out: passes.append(len(out)))
    policy, rows = LearnedPolicy(made, ACTION, 3, execute=2), []
    begin(policy, 4, 5, 6)
    for tick in range(6):
        if tick == 3:
            policy.reset(np.array([False, True, False]), [Episode(9, 0)] * 3)
        active = np.array([True, True, tick < 5])
        rows.append(policy.act({"agent_pos": places[tick], "environment_state": blocks[tick], "active": active}))
    whole = np.array(rows)
    # Lane 1 begins anew at tick 3 and is then asked at odd ticks, the others at even ones.
    assert passes[:: made.settings.draws if kind == "flow" else 1] == [3, 3, 1, 2, 1]
    for lane, number, ticks in ((0, 4, range(6)), (1, 5, range(3)), (1, 9, range(3, 6)), (2, 6, range(5))):
        single = LearnedPolicy(network(kind), ACTION, 1, execute=2)
        begin(single, number)
        own = [single.act({"agent_pos": places[tick, lane : lane + 1],
                           "environment_state": blocks[tick, lane : lane + 1]})[0] for tick in ticks]
        assert whole[list(ticks), lane] == pytest.approx(np.array(own), abs=512 * 1e-6)
    assert (whole[5, 2] == 0.0).all()


def test_another_robot_than_the_learnt_one_and_a_lane_without_episode_are_refused() -> None:
    policy = LearnedPolicy(network(), ACTION, 1)
    with pytest.raises(ConfigError, match="no episode has begun in lane 0"):
        policy.act(seen())
    begin(policy, 0)
    with pytest.raises(ConfigError, match=r"a robot's state \[2\] and a scene's \[3\]; here they are \[4\]"):
        policy.act({"agent_pos": np.zeros((1, 4)), "environment_state": np.zeros((1, 3))})


@pytest.mark.parametrize("task", SIGHTS)
def test_what_a_policy_sees_of_a_task_fits_the_task(task: str) -> None:
    rng, spec, sight = np.random.default_rng(0), make_task(task).state, sight_of(task)
    action = make_task(task).action
    assert sight.robot == sum(quantity.size for quantity in spec.robot)
    assert len(sight.unseen) == sum(quantity.size for quantity in spec.scene)
    assert len(sight.shaken) == sight.robot + len(sight.unseen)
    low, high = np.asarray(action.low), np.asarray(action.high)
    robot, unseen = (rng.normal(0, 20, (4, 3, size)) for size in (sight.robot, len(sight.unseen)))
    features = sight.read(robot, unseen, low, high)
    assert (features.shape, features.dtype) == ((4, 3, sight.numbers), np.float32)
    made = ChunkNetwork(PolicySettings("regression", 2, 4, 16, 1, action.low, action.high, task=task)).eval()
    policy = LearnedPolicy(made, action, 1, execute=2)
    begin(policy, 0)
    blind = {"agent_pos": np.ones((1, sight.robot)), "environment_state": np.full((1, len(sight.unseen)), np.nan)}
    unseen = policy.act(blind)
    begin(policy, 0)
    assert np.array_equal(policy.act(blind | {"environment_state": np.array([sight.unseen])}), unseen)
    with pytest.raises(CheckpointError, match="was learnt on task 'chess'; known: pusht, cube"):
        ChunkNetwork(replace(SETTINGS, task="chess"))


def test_a_cube_looks_alike_four_times_a_turn_and_from_the_hand() -> None:
    rng = np.random.default_rng(1)
    robot, cube = rng.normal(0, 10, (5, 5)), rng.normal(0, 10, (5, 4))
    read, none = SIGHTS["cube"].read, np.zeros(0)
    seen = read(robot, cube, none, none)
    turned = read(robot, cube + np.array([0, 0, 0, np.pi / 2]), none, none)
    assert seen == pytest.approx(turned, abs=1e-5)
    assert seen[:, 9:12] * 10 == pytest.approx(cube[:, :3] - robot[:, :3], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_training_learns_what_was_shown(kind: str) -> None:
    """Chunks that depend on the features alone are learnt; a flow ends near them from any noise."""
    torch.manual_seed(0)
    made = ChunkNetwork(replace(SETTINGS, kind=kind, width=64))
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(made.parameters(), lr=4e-3)

    def shown(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.randn(count, 16, generator=generator)
        return features, features[:, :8].tanh()

    for _ in range(300):
        features, chunk = shown(128)
        noise, time = torch.randn(chunk.shape, generator=generator), torch.rand(128, generator=generator)
        optimizer.zero_grad()
        made.loss(features, chunk, noise, time).backward()
        optimizer.step()
    features, chunk = shown(256)
    said = made.draw(features, torch.randn(chunk.shape, generator=generator)).flatten(1)
    assert (said - chunk).abs().mean() < 0.15, "always 0 is .54 off"
    assert chunk.abs().mean() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_all_of_a_policy(kind: str, tmp_path: Path) -> None:
    made = network(kind)
    save_policy(tmp_path / "mine.safetensors", made)
    loaded = load_policy(tmp_path / "mine.safetensors")
    assert loaded.settings == made.settings
    assert np.array_equal(acted(LearnedPolicy(loaded, ACTION, 1), 4), acted(LearnedPolicy(made, ACTION, 1), 4))


def test_what_is_no_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'nobody' is neither a file nor shipped; shipped: "):
        load_policy("nobody")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=f"not a policy of format {FORMAT}"):
        load_policy(tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"1234")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_policy(tmp_path / "torn.safetensors")


def test_a_policy_of_another_robot_or_rhythm_is_refused() -> None:
    with pytest.raises(ConfigError, match="learnt actions from"):
        LearnedPolicy(network(), replace(ACTION, high=(1.0, 1.0)), 1)
    with pytest.raises(ConfigError, match="execute must be 1 to 4 actions of a chunk, got 5"):
        LearnedPolicy(network(), ACTION, 1, execute=5)


@pytest.mark.parametrize("path", shipped_policies().values(), ids=lambda path: path.stem)
def test_shipped_policies_load_and_act(path: Path) -> None:
    assert path.stat().st_size < 2 * 2**20
    made = load_policy(path)
    sight, action = sight_of(made.settings.task), make_task(made.settings.task).action
    policy = LearnedPolicy(made, action, 1)
    begin(policy, 0)
    told = policy.act({"agent_pos": np.zeros((1, sight.robot)), "environment_state": np.array([sight.unseen])})
    assert told.shape == (1, action.dim)
    assert np.isfinite(told).all()
