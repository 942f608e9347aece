"""Our sampler makes the latents of diffusers' `Cosmos3OmniPipeline`, on random weights of the real classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from official3 import official_chunk, official_pipeline  # type: ignore[import-not-found]  # beside this file
from wcsim.backbones.cosmos3.tiers import TIERS, canvas_of, imagined_size, squashed_size
from wcsim.backbones.cosmos3.tiny import tiny_omni, tiny_parts, tiny_vae
from wcsim.cache import NoCache
from wcsim.world.clips import Sampling, sample_clip
from wcsim.world.codec import ClipCodec
from wcsim.world.guidance import CONDITIONAL, UNCONDITIONAL, Guidance

STEPS, FPS = 4, 10.0
# Float32 rounding: values are of order 4, and guidance at scale 3 multiplies differences by up to 5.
TOLERANCE = 2e-5


def picture_of(size: tuple[int, int], seed: int = 3) -> np.ndarray:
    """A smooth picture, uint8 `[H, W, 3]`."""
    coarse = np.random.default_rng(seed).random((3, 6, 6))
    fine = torch.nn.functional.interpolate(torch.from_numpy(coarse)[None], size, mode="bicubic", antialias=False)
    return (fine[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def actions_of(chunk: int, lanes: int = 1) -> Tensor:
    return torch.rand(lanes, chunk, 2, generator=torch.Generator().manual_seed(5)) * 2 - 1


def squashed(picture: np.ndarray) -> np.ndarray:
    """To whole latents, as the pipeline does it to a tensor: by the nearest pixel."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    nearest = torch.nn.functional.interpolate(pixels, squashed_size(picture.shape[:2]))
    return nearest[0].to(torch.uint8).permute(1, 2, 0).numpy()


class Both:
    """One set of weights in both hands."""

    def __init__(self, form: str, size: tuple[int, int], *, tier: int = 256, chunk: int = 4, **scheduler: Any) -> None:
        omni, vae = tiny_omni(form=form), tiny_vae()
        self.pipeline = official_pipeline(omni, vae, **scheduler)
        self.generator, self.texts = tiny_parts(omni, fps=FPS)
        self.codec, self.picture = ClipCodec(vae, canvas_of(squashed_size(size), tier)), picture_of(size)
        self.tier, self.chunk = tier, chunk
        height, width = imagined_size(size, tier)
        self.shape = (4, 1 + chunk // 4, height // 16, width // 16)

    def noise(self, lanes: int = 1) -> Tensor:
        """`[N, C, T, h, w]`, drawn as the pipeline draws it."""
        return torch.cat([torch.randn(1, *self.shape, generator=torch.Generator().manual_seed(seed))
                          for seed in range(lanes)])

    def theirs(self, scale: float = 1.0, output: str = "latent") -> Any:
        picture = torch.from_numpy(self.picture).permute(2, 0, 1) / 255.0
        return official_chunk(
            self.pipeline, picture, actions_of(self.chunk)[0], domain="pusht", tier=self.tier, fps=FPS, steps=STEPS,
            scale=scale, chunk=self.chunk, output=output, generator=torch.Generator().manual_seed(0)).video

    @torch.no_grad()
    def ours(self, scale: float = 1.0, *, solver: str = "unipc", lanes: int = 1, batched: bool = True) -> Tensor:
        context = self.codec.encode(squashed(self.picture)[None, None]).expand(lanes, -1, -1, -1, -1)
        guidance = None if scale == 1.0 else Guidance(scale - 1, self.texts[UNCONDITIONAL], batched)
        sampling = Sampling(STEPS, solver, 10.0, 0.0, guidance, walk=False, timesteps="whole")
        latents, _, blocks = sample_clip(
            self.generator, context, self.noise(lanes).transpose(1, 2), self.texts[CONDITIONAL], sampling, NoCache(),
            actions=actions_of(self.chunk, lanes))
        assert (blocks == 3).all()
        return latents.transpose(1, 2)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("form", ["nano", "edge"])
def test_equals_the_official_pipeline(form: str, scale: float) -> None:
    both = Both(form, (192, 320))
    torch.testing.assert_close(both.ours(scale), both.theirs(scale), atol=TOLERANCE, rtol=1e-5)


SIZES = [
    pytest.param((144, 176), 256, id="the border mirrored"),
    pytest.param((100, 130), 256, id="100x130 squashed to 96x128"),
    pytest.param((96, 96), 256, id="the border repeated, as wide as the frame and more", marks=pytest.mark.slow),
    pytest.param((80, 112), 256, id="latents that end within a patch", marks=pytest.mark.slow),
    pytest.param((300, 500), 256, id="shrunk", marks=pytest.mark.slow),
    pytest.param((320, 256), 256, id="upright", marks=pytest.mark.slow),
    pytest.param((480, 640), 480, id="tier 480", marks=pytest.mark.slow),
    pytest.param((360, 640), 480, id="tier 480, wide", marks=pytest.mark.slow),
    pytest.param((256, 256), 720, id="tier 720", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("size", "tier"), SIZES)
def test_pictures_of_any_size_are_placed_and_cut_as_there(size: tuple[int, int], tier: int) -> None:
    both = Both("nano", size, tier=tier)
    theirs = both.theirs()
    assert theirs.shape[1:] == both.shape
    torch.testing.assert_close(both.ours(), theirs, atol=TOLERANCE, rtol=1e-5)


@pytest.mark.slow
def test_a_chunk_of_sixteen_decodes_to_the_official_frames() -> None:
    both = Both("nano", (256, 256), chunk=16)
    frames = both.codec.decode(both.ours().transpose(1, 2))[0]
    expected = (both.theirs(output="np") * 255).round().astype(np.uint8)
    assert frames.shape == expected.shape == (17, 256, 256, 3)
    assert np.abs(frames.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_lanes_of_a_batch_are_the_lanes_alone(scale: float) -> None:
    both = Both("nano", (96, 96))
    together = both.ours(scale, lanes=3)
    torch.testing.assert_close(together[:1], both.ours(scale), atol=TOLERANCE, rtol=1e-5)
    torch.testing.assert_close(both.ours(scale, lanes=2), together[:2], atol=TOLERANCE, rtol=1e-5)


def test_branches_in_one_batch_or_one_after_the_other() -> None:
    """Though their texts differ in length, and so in where the frames are."""
    both = Both("edge", (96, 96))
    torch.testing.assert_close(both.ours(3.0), both.ours(3.0, batched=False), atol=TOLERANCE, rtol=1e-5)


@pytest.mark.parametrize("tier", TIERS)
def test_the_canvas_is_the_official_one(tier: int) -> None:
    from diffusers.pipelines.cosmos.pipeline_cosmos3_omni import _ACTION_RESOLUTION_BINS
    from diffusers.video_processor import VideoProcessor

    rng = np.random.default_rng(0)
    for height, width in rng.integers(16, 1400, (200, 2)).tolist():
        expected = VideoProcessor.classify_height_width_bin(height, width, ratios=_ACTION_RESOLUTION_BINS[str(tier)])
        assert canvas_of((height, width), tier) == tuple(expected)
