"""The frame codec equals `AutoencoderKLWan` on clips of one frame."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from wcsim.backbones.cosmos2.tiny import tiny_parts
from wcsim.world.codec import Codec, to_frames, to_pixels


@pytest.fixture
def codec():
    _, _, codec = tiny_parts()
    for parameter in codec.parameters():  # taps that one frame cannot reach must not matter
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return codec


def stock_of(codec):
    stock = AutoencoderKLWan.from_config(codec.vae.config).eval()
    stock.load_state_dict(codec.vae.state_dict())
    return stock


@torch.no_grad()
def test_equals_the_stock_autoencoder_on_single_frames(codec):
    stock = stock_of(codec)
    pixels = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(2)) * 2 - 1
    mean, _ = codec.posterior(pixels)
    theirs = stock.encode(pixels.unsqueeze(2)).latent_dist.mean.squeeze(2)
    torch.testing.assert_close(mean, theirs, atol=1e-5, rtol=1e-4)
    again = stock.decode(mean.unsqueeze(2)).sample.squeeze(2)
    torch.testing.assert_close(codec.reconstruct(mean).clamp(-1, 1), again, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_look_adds_what_the_encoder_misses_in_the_reconstruction(codec):
    frames = torch.randint(0, 256, (2, 96, 96, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    first, _ = codec.posterior(to_pixels(frames))
    latents = first
    for refine_steps in (1, 2):
        latents = latents + first - codec.posterior(codec.reconstruct(latents).clamp(-1, 1))[0]
        assert torch.equal(codec.encode(frames.numpy(), refine_steps), (latents - codec.mean) / codec.std)
        codec.refine_steps = refine_steps
        assert torch.equal(codec.encode(frames.numpy()), (latents - codec.mean) / codec.std)
    assert torch.equal(codec.encode(frames.numpy(), 0), (first - codec.mean) / codec.std)
    assert not torch.equal(latents, first)
    with pytest.raises(ValueError, match="refine_steps is -1; it must be 0 or more"):
        codec.encode(frames.numpy(), -1)


def test_pixels_round_trip_exactly():
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(to_frames(to_pixels(frames)), frames)
    assert torch.equal(to_frames(torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2))[0, 0, :, 0],
                       torch.tensor([0, 255], dtype=torch.uint8))


def test_leading_axes_are_kept(codec):
    frames = np.zeros((2, 3, 96, 96, 3), np.uint8)
    latents = codec.encode(frames)
    assert latents.shape == (2, 3, 4, 12, 12)
    assert codec.decode(latents).shape == frames.shape


def test_refuses_what_is_not_a_frame(codec):
    with pytest.raises(ValueError, match=r"uint8 .* got float32"):
        codec.encode(np.zeros((96, 96, 3), np.float32))
    with pytest.raises(ValueError, match="clips of one frame, got 2"):
        codec.vae.encoder(torch.zeros(1, 12, 2, 48, 48))
    with pytest.raises(ValueError, match="temporal compression"):
        Codec.new({"base_dim": 4, "dim_mult": [1, 1], "z_dim": 4, "num_res_blocks": 1, "temperal_downsample": [True]})


@pytest.mark.parametrize("threads", [1, 2])
def test_a_frame_does_not_see_its_batch(codec, threads):
    before, codec.refine_steps = torch.get_num_threads(), 1
    torch.set_num_threads(threads)
    try:
        generator = torch.Generator().manual_seed(3)
        latents = torch.randn(19, 4, 12, 12, generator=generator)
        frames = torch.randint(0, 256, (19, 96, 96, 3), generator=generator, dtype=torch.uint8).numpy()
        with torch.no_grad():
            decoded, encoded = codec.reconstruct(latents), codec.encode(frames)
            for count in (1, 2, 3, 16):
                assert torch.equal(codec.reconstruct(latents[2 : 2 + count]), decoded[2 : 2 + count])
                assert torch.equal(codec.encode(frames[2 : 2 + count]), encoded[2 : 2 + count])
    finally:
        torch.set_num_threads(before)
