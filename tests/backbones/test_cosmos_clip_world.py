"""What must always hold of a world of clips, on random weights of the real classes."""

import numpy as np
import pytest
import torch

from wcsim.backbones.cosmos2.tiny import tiny_clip_world
from wcsim.cache import NoCache, parse_cache
from wcsim.cache.drift import mean_size, relative_drift
from wcsim.errors import ConfigError, WcsimError
from wcsim.types import Fidelity
from wcsim.world.clips import Sampling, sample_clip
from wcsim.world.noise import chunk_noise
from wcsim.world.world import World

TOLERANCE = {"atol": 2e-2, "rtol": 1e-3}  # pictures are rounded to 1/127.5, which may fall either way
PLAIN = Fidelity(3, NoCache(), "unipc")
CACHED = Fidelity(6, parse_cache({"preset": "worldcache", "threshold": 0.3}).build(), "unipc")


@pytest.fixture(scope="module")
def world():
    return tiny_clip_world()


def begin(world, lanes=2, frames=1, seed=5):
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (lanes, frames, 32, 32, 3), dtype=np.uint8)
    return world.init(pictures, np.zeros((lanes, frames - 1, 7), np.float32), np.arange(lanes)), pictures


def draw_actions(world, lanes, ticks, seed=1):
    spec = world.spec.action
    return np.random.default_rng(seed).uniform(spec.low, spec.high, (lanes, ticks, spec.dim)).astype(np.float32)


@torch.no_grad()
def test_a_chunk_is_the_official_loop_by_hand(world):
    """Clean first latent, UniPC at shift 5, one sigma for all, four actions per latent; then decode, encode again."""
    state, pictures = begin(world)
    actions = draw_actions(world, 2, 24)
    _, shown, trace = world.advance(state, actions, PLAIN)
    frame, frames = pictures, []
    for start in (0, 12):
        read = torch.from_numpy(actions[:, start : start + 12]) * torch.tensor([20.0] * 6 + [1.0])
        read = torch.cat([torch.zeros(2, 1, 28), read.reshape(2, 3, 28)], dim=1)
        noise = chunk_noise(torch.arange(2), torch.full((2,), start), 4, (16, 4, 4))
        latents, *_ = sample_clip(
            world.transformer, world.codec.encode(frame), noise, torch.zeros(1, 1, 32),
            Sampling(3, "unipc", 5.0, -1.0), NoCache(), actions=read,
            known=torch.tensor([[False, True, True, True]] * 2),
        )
        clip = world.codec.decode(latents)
        assert clip.shape[1] == 13
        frames.append(clip[:, 1:])
        frame = clip[:, -1:]
    np.testing.assert_array_equal(world.decode(shown), np.concatenate(frames, axis=1))
    assert trace.hit.shape == (2, 3, 2)


def test_single_steps_end_where_the_chunk_ends(world):
    """The twelfth single step knows all that the chunk knew; before it, what is not known yet is rest."""
    state, _ = begin(world)
    actions = draw_actions(world, 2, 14)
    whole_state, whole, _ = world.advance(state, actions[:, :12], PLAIN)
    shown = []
    for tick in range(14):
        state, new, trace = world.advance(state, actions[:, tick : tick + 1], PLAIN)
        shown.append(new[:, 0])
        assert trace.hit.shape == (1, 3, 2)
        if tick == 11:
            for name, value in whole_state.tensors().items():
                assert torch.equal(value, getattr(state, name)), name
    assert torch.equal(shown[11], whole[:, 11])
    assert state.frame.tolist() == [14, 14]
    assert state.known.sum(1).tolist() == [2, 2]
    ended, last, _ = world.advance(whole_state, actions[:, 12:], PLAIN)
    assert torch.equal(last[:, 1], shown[13])
    assert torch.equal(ended.latents, state.latents)


def test_actions_not_known_yet_hold_what_is_absolute(world):
    state, _ = begin(world)
    actions = draw_actions(world, 2, 1)
    _, one, _ = world.advance(state, actions, PLAIN)
    rest = np.zeros((2, 11, 7), np.float32)
    rest[..., 6] = actions[:, :, 6]
    _, many, _ = world.advance(state, np.concatenate([actions, rest], axis=1), PLAIN)
    assert torch.equal(one[:, 0], many[:, 0])


@pytest.mark.parametrize("fidelity", [PLAIN, CACHED])
def test_a_batch_is_its_singles(world, fidelity):
    (state, _), actions = begin(world, lanes=3), draw_actions(world, 3, 12)
    _, together, trace = world.advance(state, actions, fidelity)
    for lane in range(3):
        _, alone, single = world.advance(state.select([lane]), actions[lane : lane + 1], fidelity)
        torch.testing.assert_close(together[lane], alone[0], **TOLERANCE)
        np.testing.assert_array_equal(trace.hit[..., lane], single.hit[..., 0])


def test_lanes_at_different_places_share_a_step(world):
    (young, _), (old, _) = begin(world, lanes=1), begin(world, lanes=1, seed=6)
    old, _, _ = world.advance(old, draw_actions(world, 1, 5), PLAIN)
    mixed = young.branch(2).scatter([1], old)
    actions = draw_actions(world, 2, 2)
    after, together, _ = world.advance(mixed, actions[:, :1], PLAIN)
    for lane, state in enumerate((young, old)):
        _, alone, _ = world.advance(state, actions[lane : lane + 1, :1], PLAIN)
        torch.testing.assert_close(together[lane], alone[0], **TOLERANCE)
    assert after.known.sum(1).tolist() == [1, 6]
    with pytest.raises(WcsimError, match=r"taken \[0, 5\] actions of their chunks of 12; advance them by one action"):
        world.advance(mixed, actions, PLAIN)


def test_what_is_carried(world):
    latents = tiny_clip_world(carry="latents", max_context=2, context_sigma=1e-4)
    state, _ = begin(latents, frames=7)
    assert state.length.tolist() == [2, 2]
    assert state.frame.tolist() == [6, 6]
    after, shown, _ = latents.advance(state, draw_actions(latents, 2, 24), PLAIN)
    assert shown.shape == (2, 24, 3, 32, 32)
    assert after.length.tolist() == [2, 2]
    pixels, _ = begin(world)
    after, shown, _ = world.advance(pixels, draw_actions(world, 2, 12), PLAIN)
    assert torch.equal(after.latents, world.codec.encode(world.decode(shown[:, -1:])))


def test_the_flattened_form_reads_the_whole_chunk_everywhere():
    world = tiny_clip_world(reads="chunk")
    assert world.transformer.config.action_features == 84
    (state, _), actions = begin(world), draw_actions(world, 2, 12)
    _, one, _ = world.advance(state, actions, PLAIN)
    other = actions.copy()
    other[:, 11, 0] *= -1
    _, two, _ = world.advance(state, other, PLAIN)
    assert not torch.equal(one[:, 0], two[:, 0])


def test_advancing_is_pure_and_actions_matter_with_the_cache_on(world):
    (state, _), actions = begin(world), draw_actions(world, 2, 12)
    before = {name: value.clone() for name, value in state.tensors().items()}
    _, first, trace = world.advance(state, actions, CACHED)
    _, second, _ = world.advance(state, actions, CACHED)
    _, other, _ = world.advance(state, draw_actions(world, 2, 12, seed=9), CACHED)
    assert trace.hit_rate > 0
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert all(torch.equal(value, before[name]) for name, value in state.tensors().items())


def test_frames_stand_for_themselves_and_a_seen_one_begins_a_chunk(world):
    state, pictures = begin(world)
    assert np.array_equal(world.decode(world.encode(pictures)), pictures)
    moved, _, _ = world.advance(state, draw_actions(world, 2, 5), PLAIN)
    seen = world.observe(moved, world.encode(pictures[:, 0]), draw_actions(world, 2, 1)[:, 0])
    assert torch.equal(seen.latents, state.latents)
    assert not seen.known.any()
    assert seen.frame.tolist() == [6, 6]


@torch.no_grad()
def test_in_bfloat16_norms_noise_levels_and_actions_stay_in_float32(world):
    full, half = world.transformer, tiny_clip_world().transformer
    half.set_precision(torch.bfloat16)
    block = half.transformer_blocks[0]
    assert block.attn1.to_q.weight.dtype == block.ff.net[2].weight.dtype == torch.bfloat16
    for kept in ("norm1.linear_1.weight", "norm3.linear_2.weight"):
        assert torch.equal(block.get_parameter(kept), full.transformer_blocks[0].get_parameter(kept))
    assert torch.equal(half.action_embedder_B_D.fc1.weight, full.action_embedder_B_D.fc1.weight)
    generator = torch.Generator().manual_seed(0)
    given = {
        "latents_NCThw": torch.randn(2, 16, 4, 4, 4, generator=generator), "sigma_NT": torch.full((2, 4), 0.6),
        "actions_NTF": torch.randn(2, 4, 28, generator=generator), "known_NT": torch.ones(2, 4, dtype=torch.bool),
        "text_NSE": torch.randn(1, 5, 32, generator=generator), "clean_T": torch.tensor([1.0, 0.0, 0.0, 0.0]),
    }
    one, other = full(**given), half(**given)
    assert other.dtype == torch.bfloat16
    assert 0 < (one - other).norm() / one.norm() < 0.02
    told = World(world.spec, half, world.codec)
    _, shown, _ = told.advance(begin(told)[0], draw_actions(told, 2, 12), PLAIN)
    assert torch.isfinite(shown).all()


def test_the_gate_measures_in_float32():
    """A change of 2^-7 is one unit in the last place of bfloat16 at 1; a sum in that type would stop growing."""
    before = torch.ones(1, 4096, 64, dtype=torch.bfloat16)
    now = before + 2**-7
    assert relative_drift(now, before).dtype == torch.float32
    assert relative_drift(now, before).item() == pytest.approx(2**-7, rel=1e-5)
    assert mean_size(now).item() == pytest.approx(1 + 2**-7, rel=1e-6)


def test_what_it_cannot_do_is_refused(world):
    (state, _), actions = begin(world), draw_actions(world, 2, 1)
    with pytest.raises(ConfigError, match="makes chunks of 12"):
        world.advance(state, actions, Fidelity(3, NoCache(), "unipc", chunk=4))
    with pytest.raises(ConfigError, match="has no unconditional text and allows only 0"):
        world.advance(state, actions, Fidelity(3, NoCache(), "unipc", guidance=7.0))
    with pytest.raises(ConfigError, match="it must be 0 or more"):
        world.advance(state, actions, Fidelity(3, NoCache(), "unipc", guidance=-1.0))
    with pytest.raises(WcsimError, match=r"world 'tiny-clips' takes \[32, 32\]"):
        world.encode(np.zeros((1, 64, 64, 3), np.uint8))
