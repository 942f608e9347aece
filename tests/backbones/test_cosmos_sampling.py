"""Our sampler against diffusers' `Cosmos2_5_PredictBasePipeline`, on tiny random parts of the real classes."""

import numpy as np
import pytest
import torch

from official import official_pipeline
from wcsim.backbones.cosmos2.tiny import tiny_cosmos
from wcsim.cache import NoCache, parse_cache
from wcsim.errors import ConfigError
from wcsim.world.clips import Sampling, sample_clip
from wcsim.world.codec import to_pixels
from wcsim.world.guidance import Guidance, apart, beside
from wcsim.world.sampler import make_scheduler

# numpy 2 about torch's arrays, where diffusers makes the Karras grid.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS, HEIGHT, WIDTH, FRAMES = 6, 32, 48, 13
# Float32 rounding over six steps: values are of order 1, and guidance at scale 7 multiplies differences by up to 15.
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
MODES = {"text": 0, "image": 1, "video": 2}
"""Mode to latent frames that are given."""


@pytest.fixture(scope="module")
def parts():
    return tiny_cosmos()


def draw(mode, lanes=1):
    """Noise, prompt and negative features, and the pictures that a mode is given."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(lanes, 16, 4, HEIGHT // 8, WIDTH // 8, generator=generator)
    prompt, negative = torch.randn(2, lanes, 7, 32, generator=generator).unbind(0)
    pictures = np.random.default_rng(4).integers(0, 256, (lanes, 5, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return noise, prompt, negative, pictures[:, : {"text": 0, "image": 1, "video": 5}[mode]]


def ours(parts, mode, scale, *, batched=True, context_sigma=1e-4, solver="unipc-karras", policy=None):
    transformer, codec = parts
    noise, prompt, negative, pictures = draw(mode)
    noise = noise.transpose(1, 2)
    context = codec.encode(pictures) if mode != "text" else noise[:, :0]
    guidance = Guidance(scale, negative, batched) if scale else None
    sampling = Sampling(STEPS, solver, 5.0, context_sigma, guidance)
    return sample_clip(transformer, context, noise, prompt, sampling, policy or NoCache())


def theirs(parts, mode, scale, *, context_sigma=1e-4, output="latent", **scheduler):
    noise, prompt, negative, pictures = draw(mode)
    given = {}
    if mode == "image":
        given["image"] = pictures[0, 0]
    elif mode == "video":
        given["video"] = to_pixels(torch.from_numpy(pictures[0])).transpose(0, 1)[None]
    return official_pipeline(*parts, **scheduler)(
        **given, prompt_embeds=prompt, negative_prompt_embeds=negative, height=HEIGHT, width=WIDTH, num_frames=FRAMES,
        num_inference_steps=STEPS, guidance_scale=scale, latents=noise, output_type=output,
        conditional_frame_timestep=context_sigma,
    ).frames


@pytest.mark.parametrize("scale", [0.0, 7.0])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_equals_the_official_pipeline(parts, mode, scale):
    latents, _, blocks = ours(parts, mode, scale)
    torch.testing.assert_close(latents.transpose(1, 2), theirs(parts, mode, scale), **TOLERANCE)
    assert (blocks == 3).all()


@torch.no_grad()
def test_equals_it_in_the_setting_of_the_robot_checkpoint(parts):
    """UniPC at flow shift 5, and one noise level for all frames: without it the given frame reads 1e-4."""
    scheduler = {"flow_shift": 5.0}
    latents, *_ = ours(parts, "image", 0.0, context_sigma=-1.0, solver="unipc")
    torch.testing.assert_close(latents.transpose(1, 2), theirs(parts, "image", 0.0, context_sigma=-1.0, **scheduler),
                               **TOLERANCE)
    other, *_ = ours(parts, "image", 0.0, context_sigma=1e-4, solver="unipc")
    assert not torch.allclose(latents, other, **TOLERANCE)


@torch.no_grad()
def test_decoded_frames_are_the_official_ones(parts):
    latents, *_ = ours(parts, "video", 0.0)
    frames = parts[1].decode(latents)
    expected = (theirs(parts, "video", 0.0, output="np") * 255).round().astype(np.uint8)
    assert frames.shape == expected.shape == (1, FRAMES, HEIGHT, WIDTH, 3)
    assert np.abs(frames.astype(int) - expected).max() <= 1


@torch.no_grad()
def test_branches_in_one_batch_or_one_after_the_other(parts):
    together, *_ = ours(parts, "image", 3.0)
    apart_, *_ = ours(parts, "image", 3.0, batched=False)
    torch.testing.assert_close(together, apart_, **TOLERANCE)


@torch.no_grad()
def test_a_cache_decides_for_both_branches_and_threshold_zero_is_no_cache(parts):
    plain, _, blocks = ours(parts, "image", 3.0)
    zero, *_ = ours(parts, "image", 3.0, policy=parse_cache({"preset": "worldcache", "threshold": 0.0}).build())
    assert torch.equal(plain, zero)
    cached, decisions, fewer = ours(parts, "image", 3.0, policy=parse_cache({"preset": "worldcache", "threshold": 9.0,
                                                                             "max_skips": 1}).build())
    assert fewer.sum() < blocks.sum()
    assert all(len(decision.hit) == 1 for decision in decisions)
    assert not torch.equal(plain, cached)


EAGER = {"preset": "worldcache", "threshold": 0.5}
NEVER = {"preset": "worldcache", "threshold": 0.0}


@torch.no_grad()
def test_branches_that_decide_apart_have_a_cache_each(parts):
    """As in code that calls the model once per branch, each with a cache that knows of no other."""
    latents, decisions, blocks = guided(parts, decide="apart")
    assert all(set(decision.by_branch) == {"conditional", "unconditional"} for decision in decisions)
    assert any(decision.by_branch["conditional"].any() for decision in decisions)
    for decision, ran in zip(decisions, blocks, strict=True):
        skipped = sum(int(hit) for hit in decision.by_branch.values())
        assert ran.tolist() == [2 * 3 - skipped * 2]
        assert bool(decision.hit) == (skipped == 2)
    assert torch.isfinite(latents).all()
    plain, _, both = guided(parts, decide="apart", cache={"preset": "worldcache", "threshold": 0.0})
    joint, _, _ = guided(parts, decide="together", cache={"preset": "worldcache", "threshold": 0.0})
    torch.testing.assert_close(plain, joint, **TOLERANCE)
    assert both.tolist() == [[6]] * STEPS


@torch.no_grad()
def test_what_a_branch_remembers_is_its_own_in_either_order(parts):
    names = ("conditional", "unconditional")
    for cache in (EAGER, {"preset": "seacache", "threshold": 0.5}):
        one, told, ran = guided(parts, decide="apart", order=names, cache=cache)
        other, retold, reran = guided(parts, decide="apart", order=names[::-1], cache=cache)
        assert torch.equal(one, other)
        assert torch.equal(ran, reran)
        for a, b in zip(told, retold, strict=True):
            assert a.by_branch == b.by_branch
            assert torch.equal(a.drift.nan_to_num(), b.drift.nan_to_num()), "the numbers are the conditional branch's"
        joint, _, _ = guided(parts, order=names, cache=cache)
        turned, _, _ = guided(parts, order=names[::-1], cache=cache)
        torch.testing.assert_close(joint, turned, **TOLERANCE)
    with pytest.raises(ConfigError, match="the branches are conditional and unconditional, each once"):
        Guidance(1.0, torch.zeros(1, 1, 8), order=("conditional", "conditional"))


def guided(parts, cache=EAGER, **choices):
    """From an image at scale 3, under a cache."""
    transformer, codec = parts
    noise, prompt, negative, pictures = draw("image")
    sampling = Sampling(STEPS, "unipc-karras", 5.0, 1e-4, Guidance(3.0, negative, **choices))
    return sample_clip(transformer, codec.encode(pictures), noise.transpose(1, 2), prompt, sampling,
                       parse_cache(cache).build())


@torch.no_grad()
@pytest.mark.parametrize("decide", ["together", "apart"])
def test_guidance_ends_at_a_noise_level(parts, decide):
    whole, *_ = guided(parts, cache=NEVER, decide=decide)
    never, _, blocks = guided(parts, cache=NEVER, decide=decide, until=1.0 + 1e-9)
    alone, *_ = ours(parts, "image", 0.0)
    assert torch.equal(never, alone)
    assert (blocks == 3).all()
    assert torch.equal(guided(parts, cache=NEVER, decide=decide, until=0.0)[0], whole)
    ladder = make_scheduler("unipc-karras", STEPS, 5.0).sigmas
    cut, told, blocks = guided(parts, cache=NEVER, decide=decide, until=float(ladder[2]) + 1e-6)
    both = 3 if decide == "together" else 6  # branches that decide together count once
    assert blocks.flatten().tolist() == [both] * 2 + [3] * (STEPS - 2)
    assert not torch.allclose(cut, whole, **TOLERANCE)
    assert not torch.allclose(cut, alone, **TOLERANCE)
    assert len({tuple(sorted(decision.by_branch)) for decision in told}) == 1


@torch.no_grad()
def test_a_cache_goes_on_where_its_branch_does(parts):
    """Apart, the conditional branch's state is its own and stays; together, the cache begins anew."""
    until = float(make_scheduler("unipc-karras", STEPS, 5.0).sigmas[3]) + 1e-6
    every_other = {"kind": "interval", "interval": 2, "order": 0, "min_warmup": 1}
    _, told, _ = guided(parts, decide="apart", cache=every_other, until=until)
    assert [bool(decision.by_branch["conditional"]) for decision in told] == [bool(k % 2) for k in range(STEPS)]
    assert all(bool(decision.by_branch["unconditional"]) for decision in told[3:])
    _, told, _ = guided(parts, decide="together", cache=every_other, until=until)
    assert [bool(decision.hit) for decision in told] == [False, True, False, False, True, False]


def test_the_branches_of_a_lane_lie_frame_by_frame():
    tokens = [torch.arange(12.0).view(1, 6, 2), -torch.arange(12.0).view(1, 6, 2)]
    joined = beside(tokens, 3)
    assert torch.equal(joined[0, :4], torch.cat([tokens[0][0, :2], tokens[1][0, :2]]))
    assert all(torch.equal(a, b) for a, b in zip(apart(joined, 3, 2), tokens, strict=True))


def test_the_grids_are_the_official_ones():
    robot = make_scheduler("unipc", 10, 5.0).sigmas
    published = torch.tensor([1.0, 0.978, 0.952, 0.921, 0.883, 0.834, 0.770, 0.683, 0.557, 0.359, 0.0])
    torch.testing.assert_close(robot, published, atol=1.5e-3, rtol=0)
    base = make_scheduler("unipc-karras", 36, 1.0).sigmas
    ramp = torch.linspace(0, 1, 36)
    karras = (200.0 ** (1 / 7) + ramp * (0.01 ** (1 / 7) - 200.0 ** (1 / 7))) ** 7
    torch.testing.assert_close(base[:-1], karras / (karras + 1), atol=1e-5, rtol=1e-4)
    assert base[-1] == 0


def test_guidance_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="needs no second branch"):
        Guidance(0.0, torch.zeros(1, 1, 8))
