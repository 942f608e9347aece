"""The loop that ours is timed against is diffusers' own, and no saving changes a number."""

import json

import pytest
import torch

from official import official_pipeline
from wcsim.backbones.cosmos2.tiny import tiny_cosmos
from wcsim.errors import ConfigError, RunError
from wcsim.experiments.bench.forward import GUIDANCE, SAVINGS, _check, bench_forward, stock_loop, stock_of, table_of

# numpy 2 about torch's arrays, where diffusers makes the Karras grid.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("guided", [False, True])
@torch.no_grad()
def test_the_rival_is_the_official_loop(guided):
    transformer, codec = tiny_cosmos()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 16, 4, 4, 4, generator=generator)
    text, negative = torch.randn(2, 1, 7, 32, generator=generator).unbind(0)
    picture = torch.rand(1, 3, 1, 32, 32, generator=generator) * 2 - 1
    context = ((codec.vae.encode(picture).latent_dist.mean.transpose(1, 2) - codec.mean) / codec.std).transpose(1, 2)
    theirs = official_pipeline(transformer, codec)(
        video=picture, num_latent_conditional_frames=1, prompt_embeds=text, negative_prompt_embeds=negative, height=32,
        width=32, num_frames=13, num_inference_steps=4, guidance_scale=GUIDANCE if guided else 0.0, latents=noise,
        output_type="latent",
    ).frames
    ours = stock_loop(stock_of(transformer), context, noise, text, negative if guided else None, 4)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_the_quick_bench_runs_and_compares(tmp_path):
    summary = bench_forward("quick", out=tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert set(summary["ratios"]) > set(SAVINGS)
    assert summary["ratio_to_diffusers"] > 0
    assert max(summary["largest_difference"].values()) < 1e-4
    assert table_of(summary).row_count == 2 + len(summary["ratios"])
    with pytest.raises(ConfigError, match="known: quick, middle, 2b"):
        bench_forward("huge", out=tmp_path)


def test_a_result_that_differs_is_refused():
    with pytest.raises(RunError, match="ours differs from diffusers' loop by 1; allowed is 0.001"):
        _check({"ours": torch.zeros(2), "diffusers": torch.ones(2)}, 1e-3)
