"""What must always hold of a world, on random weights of the real classes."""

import numpy as np
import pytest
import torch

from wcsim.backbones.cosmos2.tiny import tiny_clip_world, tiny_world
from wcsim.cache import NoCache, parse_cache
from wcsim.errors import ActionError, ConfigError, WcsimError
from wcsim.types import Fidelity
from wcsim.world.sampler import make_scheduler
from wcsim.world.world import World

# A lane computed in another batch size may round differently in its matrix products; noise and decisions do not.
TOLERANCE = {"atol": 2e-4, "rtol": 1e-3}
PLAIN = Fidelity(4, NoCache())
CACHED = Fidelity(8, parse_cache({"preset": "worldcache", "threshold": 0.3}).build())


@pytest.fixture(scope="module")
def world():
    return tiny_world()


def begin(world, lanes=3, frames=1, seed=5):
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (lanes, frames, 96, 96, 3), dtype=np.uint8)
    actions = rng.uniform(0, 512, (lanes, frames - 1, 2)).astype(np.float32)
    return world.init(pictures, actions, np.arange(lanes))


def draw_actions(lanes, ticks, seed=1):
    return np.random.default_rng(seed).uniform(0, 512, (lanes, ticks, 2)).astype(np.float32)


@pytest.mark.parametrize("fidelity", [PLAIN, CACHED])
def test_a_batch_is_its_singles(world, fidelity):
    state, actions = begin(world), draw_actions(3, 4)
    _, together, trace = world.advance(state, actions, fidelity)
    for lane in range(3):
        _, alone, single = world.advance(state.select([lane]), actions[lane : lane + 1], fidelity)
        torch.testing.assert_close(together[lane], alone[0], **TOLERANCE)
        np.testing.assert_array_equal(trace.hit[..., lane], single.hit[..., 0])
        np.testing.assert_array_equal(trace.blocks[..., lane], single.blocks[..., 0])


def test_a_lane_does_not_depend_on_its_slot(world):
    state, actions = begin(world), draw_actions(3, 2)
    order = [2, 0, 1]
    _, straight, _ = world.advance(state, actions, PLAIN)
    _, permuted, _ = world.advance(state.select(order), actions[order], PLAIN)
    torch.testing.assert_close(straight[order], permuted, **TOLERANCE)


def test_lanes_of_different_age_share_a_batch(world):
    young, old = begin(world, lanes=1), begin(world, lanes=1, frames=4)
    mixed = young.branch(2).scatter([1], old)
    actions = draw_actions(2, 2)
    _, together, trace = world.advance(mixed, actions, CACHED)
    for lane, state in enumerate((young, old)):
        _, alone, single = world.advance(state, actions[lane : lane + 1], CACHED)
        torch.testing.assert_close(together[lane], alone[0], **TOLERANCE)
        np.testing.assert_array_equal(trace.hit[..., lane], single.hit[..., 0])


def test_threshold_zero_is_the_plain_world_bit_for_bit(world):
    state, actions = begin(world), draw_actions(3, 3)
    for name in ("wcsim", "paper", "authors_cosmos", "dicache"):
        zero = Fidelity(6, parse_cache({"preset": name, "threshold": 0.0}).build())
        _, cached, trace = world.advance(state, actions, zero)
        _, plain, _ = world.advance(state, actions, Fidelity(6, NoCache()))
        assert torch.equal(cached, plain)
        assert trace.hit_rate == 0.0


def test_advancing_is_pure_and_repeatable(world):
    state, actions = begin(world), draw_actions(3, 4)
    before = {name: value.clone() for name, value in state.tensors().items()}
    first_state, first, _ = world.advance(state, actions, CACHED)
    second_state, second, _ = world.advance(state, actions, CACHED)
    assert torch.equal(first, second)
    for name, value in first_state.tensors().items():
        assert torch.equal(value, getattr(second_state, name))
    for name, value in state.tensors().items():
        assert torch.equal(value, before[name])


def test_a_chunked_advance_is_its_chunks_one_after_the_other(world):
    state, actions = begin(world, frames=2), draw_actions(3, 6)
    fidelity = Fidelity(4, NoCache(), chunk=2)
    whole_state, whole, _ = world.advance(state, actions, fidelity)
    parts = []
    for first in range(0, 6, 2):
        state, new, _ = world.advance(state, actions[:, first : first + 2], fidelity)
        parts.append(new)
    assert torch.equal(whole, torch.cat(parts, dim=1))
    assert torch.equal(whole_state.latents, state.latents)


def test_caching_leaves_the_noise_alone_and_actions_still_matter(world):
    state = begin(world)
    _, one, trace = world.advance(state, draw_actions(3, 1, seed=1), CACHED)
    _, other, _ = world.advance(state, draw_actions(3, 1, seed=2), CACHED)
    assert trace.hit_rate > 0
    assert not torch.allclose(one, other)


def test_the_trace_counts_what_ran(world):
    _, _, trace = world.advance(begin(world), draw_actions(3, 5), CACHED)
    assert trace.hit.shape == trace.blocks.shape == (2, 8, 3)
    np.testing.assert_array_equal(trace.blocks, np.where(trace.hit, 1, trace.depth))
    assert 0 <= trace.skipped < 1
    assert {"embed", "probe", "deep", "head", "policy"} <= trace.spans_ms.keys()


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_the_solvers_integrate_a_straight_flow_exactly(solver):
    """Rectified flow towards one point is a straight line: any number of steps ends there."""
    noise, target = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, -2.0, 3.0])
    for steps in (2, 5, 35):
        scheduler, x = make_scheduler(solver, steps, 3.0), noise
        for timestep in scheduler.timesteps:
            x = scheduler.step(noise - target, timestep, x, return_dict=False)[0]
        torch.testing.assert_close(x, target.expand(2, 3), atol=1e-3, rtol=1e-3)


def test_bad_input_is_refused_before_any_call(world):
    state = begin(world)
    for bad, words in ((np.full((3, 1, 2), np.nan), "not finite"), (np.full((3, 1, 2), 513.0), "out of range"),
                       (np.zeros((3, 1, 3)), "last axis")):
        with pytest.raises(ActionError, match=words):
            world.advance(state, bad, PLAIN)
    with pytest.raises(WcsimError, match="3 lanes need"):
        world.advance(state, draw_actions(2, 1), PLAIN)
    with pytest.raises(ConfigError, match="context is 9; world 'tiny' allows 1 to 4"):
        world.advance(state, draw_actions(3, 1), Fidelity(4, NoCache(), context=9))
    with pytest.raises(ConfigError, match="known: euler, unipc"):
        world.advance(state, draw_actions(3, 1), Fidelity(4, NoCache(), solver="heun"))
    with pytest.raises(WcsimError, match=r"world 'tiny' takes \[96, 96\]"):
        world.encode(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(WcsimError, match="must not be negative"):
        world.init(np.zeros((1, 1, 96, 96, 3), np.uint8), np.zeros((1, 0, 2)), [-1])


def test_an_observed_frame_continues_a_rollout(world):
    state = begin(world)
    seen = world.encode(np.zeros((3, 96, 96, 3), np.uint8))
    after = world.observe(state, seen, draw_actions(3, 1)[:, 0])
    assert torch.equal(after.latents[:, -1], seen)
    assert (after.frame == state.frame + 1).all()
    assert after.known[:, -1].all()
    assert not after.known[:, -2].any()


@pytest.mark.parametrize("tiny", [tiny_world, tiny_clip_world])
@pytest.mark.parametrize("change", [
    lambda frames: frames / np.float32(255), lambda frames: frames.astype(np.int8), lambda frames: frames.tolist(),
    lambda frames: np.concatenate([frames, frames[..., :1]], axis=-1), lambda frames: frames[..., 0]])
def test_frames_of_other_kinds_are_refused(tiny, change):
    world = tiny()
    frames = np.full((1, *world.spec.frame_size, 3), 200, np.uint8)
    assert world.encode(frames).abs().max() > 0
    with pytest.raises(ConfigError, match="frames must be uint8"):
        world.encode(change(frames))


@pytest.mark.parametrize(("device", "words"), [
    ("cuda:99", r"'cuda:99' is not on this machine; here are: cpu"), ("abacus", "'abacus' is unknown; give cpu, cuda"),
    ("", "unknown"), ("meta", "is not on this machine")])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(device, words):
    with pytest.raises(ConfigError, match=words):
        World.load("no world at all", device=device)
