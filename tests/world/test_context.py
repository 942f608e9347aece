"""Context that is kept: exact where it can be, close where it must be, and each lane by itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wcsim.backbones.cosmos2.tiny import tiny_clip_world, tiny_world
from wcsim.cache import NoCache, parse_cache, presets
from wcsim.errors import ConfigError
from wcsim.types import Fidelity
from wcsim.world.context import refresh_steps, rows_of
from wcsim.world.world import World

pytestmark = pytest.mark.filterwarnings("ignore:cache '.*' (skipped nothing|has no effect)")

EVERY = 1e-6
"""A hold that any step exceeds: the context is kept, and read anew in every pass."""
CLOSE = {"atol": 2e-4, "rtol": 1e-3}


def begin(world, lanes=3, frames=2, ticks=2):
    spec, rng = world.spec, np.random.default_rng(5)
    pictures = rng.integers(0, 256, (lanes, frames, *spec.frame_size, 3), dtype=np.uint8)
    actions = rng.uniform(spec.action.low, spec.action.high, (lanes, frames - 1 + ticks, spec.action.dim))
    actions = actions.astype(np.float32)
    return world.init(pictures, actions[:, : frames - 1], np.arange(lanes)), actions[:, frames - 1 :]


def guided():
    """A world with a prompt of three tokens and one to guide away from."""
    world = tiny_world()
    texts = torch.randn(2, 1, 3, 8, generator=torch.Generator().manual_seed(0))
    return World(world.spec, world.transformer, world.codec, {"conditional": texts[0], "unconditional": texts[1]})


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=40), st.floats(0, 1))
def test_refresh_steps_are_as_far_apart_as_told(levels, hold):
    levels.sort(reverse=True)
    steps = range(0, len(levels), 2)
    found = sorted(refresh_steps(levels, steps, hold))
    assert found[0] == 0
    assert set(found) <= set(steps)
    roots = [level**0.5 for level in levels]
    for step in steps:
        fallen = roots[max(one for one in found if one <= step)] - roots[step]
        assert fallen == 0 or fallen < hold


def test_refresh_steps_of_a_straight_root():
    levels = [(1 - step / 10) ** 2 for step in range(10)]
    assert refresh_steps(levels, range(10), 0.0) == set(range(10))
    assert refresh_steps(levels, range(10), 0.25) == {0, 3, 6, 9}
    assert refresh_steps(levels, [1, 2, 7, 9], 0.25) == {1, 7}
    assert refresh_steps(levels, range(10), 1.0) == {0}


def test_rows_of_branches():
    assert rows_of(None, 1, 2, 5) == slice(5, 15)
    assert rows_of(torch.tensor([0, 3]), 1, 2, 5).tolist() == [5, 8, 10, 13]


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_one_block_reads_the_same_at_every_step(solver):
    """What the first block reads of clean frames depends on them alone, so keeping it changes nothing."""
    world = tiny_world(layers=1)
    state, actions = begin(world)
    exact = Fidelity(6, NoCache(), solver, chunk=1)
    _, latents, _ = world.advance(state, actions, exact)
    _, kept, _ = world.advance(state, actions, replace(exact, context_refresh=1.0))
    torch.testing.assert_close(kept, latents, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cache", ["none", "wcsim"])
def test_read_anew_in_every_pass_it_changes_nothing(cache):
    world = tiny_world()
    state, actions = begin(world)
    exact = Fidelity(10, parse_cache(cache).build(), "unipc")
    _, latents, trace = world.advance(state, actions, exact)
    _, kept, told = world.advance(state, actions, replace(exact, context_refresh=EVERY))
    torch.testing.assert_close(kept, latents, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(told.blocks, trace.blocks)


def test_held_it_moves_little_and_less_the_oftener_it_is_read():
    world = tiny_world()
    state, actions = begin(world)
    exact = Fidelity(12, NoCache())
    _, latents, _ = world.advance(state, actions, exact)
    errors = []
    for hold in (1.0, 0.5, 0.1, EVERY):
        _, kept, trace = world.advance(state, actions, replace(exact, context_refresh=hold))
        errors.append(float((kept - latents).norm() / latents.norm()))
        assert trace.blocks.sum() == 12 * 3 * world.transformer.depth
    assert 0 < errors[0] < 0.3
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("name", presets())
def test_a_lane_of_any_cache_does_not_notice_its_neighbours(name):
    world = tiny_world(layers=4)
    state, actions = begin(world)
    policy = parse_cache({"preset": name, **({"threshold": 0.1} if name == "worldcache" else {})}).build()
    fidelity = Fidelity(10, policy, "unipc", context_refresh=0.3)
    _, together, trace = world.advance(state, actions, fidelity)
    assert together.isfinite().all()
    for lane in range(3):
        _, alone, single = world.advance(state.select([lane]), actions[lane : lane + 1], fidelity)
        torch.testing.assert_close(alone[0], together[lane], **CLOSE)
        np.testing.assert_array_equal(single.blocks[..., 0], trace.blocks[..., lane])


def test_lanes_that_decide_apart_keep_their_own():
    world = tiny_world()
    state, actions = begin(world, lanes=6)
    policy = parse_cache({"preset": "worldcache", "threshold": 0.02, "max_skips": 2}).build()
    fidelity = Fidelity(12, policy, context_refresh=0.2)
    _, together, trace = world.advance(state, actions, fidelity)
    assert 0 < trace.hit.mean() < 1
    assert (trace.hit != trace.hit[..., :1]).any(), "no step at which lanes differ"
    for lane in range(6):
        _, alone, _ = world.advance(state.select([lane]), actions[lane : lane + 1], fidelity)
        torch.testing.assert_close(alone[0], together[lane], **CLOSE)


@pytest.mark.parametrize("cache", ["none", "worldcache", "wcsim"])
def test_branches_keep_their_own(cache):
    """Together in one batch, one after the other, and (with the same decisions) apart: the same latents."""
    world = guided()
    state, actions = begin(world, lanes=2)
    plain = Fidelity(12, parse_cache(cache).build(), guidance=2.0)
    held = replace(plain, context_refresh=0.3)
    _, together, _ = world.advance(state, actions, held)
    _, in_turn, _ = world.advance(state, actions, replace(held, batched=False))
    torch.testing.assert_close(in_turn, together, rtol=1e-3, atol=1e-3)
    if cache in ("none", "wcsim"):
        _, apart, _ = world.advance(state, actions, replace(held, decide="apart"))
        torch.testing.assert_close(apart, together, rtol=1e-3, atol=1e-3)
    _, cut, _ = world.advance(state, actions, replace(held, guidance_until=0.4))
    _, exact, _ = world.advance(state, actions, replace(plain, guidance_until=0.4))
    assert float((cut - exact).norm() / exact.norm()) < 0.1


def test_clips_keep_their_context_too():
    world = tiny_clip_world()
    state, actions = begin(world, lanes=2, frames=1, ticks=12)
    exact = Fidelity(6, NoCache(), "unipc")
    _, latents, _ = world.advance(state, actions, exact)
    _, kept, _ = world.advance(state, actions, replace(exact, context_refresh=0.2))
    assert 0 < float((kept - latents).norm() / latents.norm()) < 0.2


def test_a_hold_out_of_range_is_refused():
    world = tiny_world()
    state, actions = begin(world)
    for wrong in (-0.1, 1.5):
        with pytest.raises(ConfigError, match=r"fidelity.context_refresh is .*; it must be from 0 to 1"):
            world.advance(state, actions, Fidelity(4, NoCache(), context_refresh=wrong))
