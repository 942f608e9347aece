"""A world on several devices is the world on one: bit for bit where they are alike."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from wcsim.agents.objectives import LatentGoal, imagined_cost
from wcsim.cache.fidelity import FidelityConfig
from wcsim.envs.lanes import load_world
from wcsim.errors import ConfigError, WcsimError
from wcsim.runs.manifest import device_name
from wcsim.world.spread import SpreadWorld, load_spread
from wcsim.world.world import World


@pytest.fixture(scope="module")
def worlds(folder: str) -> tuple[World, SpreadWorld]:
    """Two cores stand for two devices."""
    several = load_spread(folder, ["cpu", "cpu"])
    assert isinstance(several, SpreadWorld)
    return load_world(folder), several


def start(world: World, lanes: int) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(lanes)
    frames = rng.integers(0, 256, (lanes, 1, *world.spec.frame_size, 3), dtype=np.uint8)
    low, high = world.spec.action.low, world.spec.action.high
    return world.init(frames, np.zeros((lanes, 0, len(low)), np.float32), list(range(lanes))), rng.uniform(
        low, high, (lanes, 2, len(low))).astype(np.float32)


@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
def test_shared_out_lanes_are_the_same_bit_for_bit(worlds: tuple[World, SpreadWorld], lanes: int) -> None:
    one, several = worlds
    state, actions = start(one, lanes)
    fidelity = FidelityConfig.model_validate(
        {"steps": 4, "cache": {"preset": "worldcache", "threshold": 0.5}}).build(one.spec)
    after, latents, trace = one.advance(state, actions, fidelity)
    again, shared, other = several.advance(state, actions, fidelity)
    assert torch.equal(latents, shared)
    for name, value in after.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name
    np.testing.assert_array_equal(one.decode(latents), several.decode(shared))
    for field in fields(trace):
        mine, theirs = getattr(trace, field.name), getattr(other, field.name)
        if field.name != "spans_ms" and isinstance(mine, np.ndarray | torch.Tensor):
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs), err_msg=field.name)


def test_a_planner_gets_the_same_costs(worlds: tuple[World, SpreadWorld]) -> None:
    state, actions = start(worlds[0], 1)
    candidates = np.repeat(actions, 7, axis=0) + np.arange(7, dtype=np.float32)[:, None, None]
    goal = LatentGoal(worlds[0].encode(np.zeros((1, *worlds[0].spec.frame_size, 3), np.uint8))[0])
    costs = [imagined_cost(world, state, fidelity=FidelityConfig(steps=3).build(world.spec), objective=goal,
                           max_lanes=4)(candidates) for world in worlds]
    np.testing.assert_array_equal(costs[0], costs[1])


def test_both_devices_work(worlds: tuple[World, SpreadWorld], monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[tuple[int, int]] = []
    advance = World.advance

    def counted(self: World, state: Any, *rest: Any) -> Any:
        counts.append((worlds[1]._worlds.index(self), state.num_lanes))
        return advance(self, state, *rest)

    monkeypatch.setattr(World, "advance", counted)
    state, actions = start(worlds[0], 5)
    worlds[1].advance(state, actions, FidelityConfig(steps=1).build(worlds[0].spec))
    assert sorted(counts) == [(0, 3), (1, 2)]
    with pytest.raises(WcsimError, match=r"5 lanes need \[5, k >= 1"):
        worlds[1].advance(state, actions[:3], FidelityConfig(steps=1).build(worlds[0].spec))


def test_cores_share_weights_and_nothing_else(worlds: tuple[World, SpreadWorld]) -> None:
    first, second = worlds[1]._worlds
    for one, other in ((first.transformer, second.transformer), (first.codec, second.codec)):
        assert one is not other
        pairs = list(zip(one.modules(), other.modules(), strict=True))
        assert all(mine is not theirs for mine, theirs in pairs)
        for mine, theirs in pairs:
            assert all(a is b for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
            assert all(a is b for a, b in zip(mine.buffers(), theirs.buffers(), strict=True))


def test_shares_have_the_threads_in_equal_parts(worlds: tuple[World, SpreadWorld]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert worlds[1]._map(lambda world, share: torch.get_num_threads(), [slice(0, 1), slice(1, 2)]) == [2, 2]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_devices_are_named_as_they_are(folder: str) -> None:
    assert isinstance(load_world(folder, device="cpu,cpu"), SpreadWorld)
    assert not isinstance(load_spread(folder, ["cpu"]), SpreadWorld)
    assert device_name("cpu,cpu") == device_name(torch.device("cpu")) == "cpu"
    with pytest.raises(ConfigError, match="device 'cuda:9' is not on this machine"):
        load_spread(folder, ["cpu", "cuda:9"])
