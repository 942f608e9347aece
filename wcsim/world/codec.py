"""Frames to latents and back, by `AutoencoderKLWan`: frame by frame (`Codec`), or clip by clip (`ClipCodec`).

This is the only file that converts between uint8 `HWC` frames and floats.  A clip of one frame sees only the last
temporal tap of each causal convolution (the others meet zero padding), so in `Codec` the taps that count run as 2-D
convolutions: the same numbers as `AutoencoderKLWan.encode` and `decode`, at a third of the arithmetic (tested).  A
frame comes out the same to the last bit whatever its batch (`wcsim.world.batch_invariant`).  Easy to get wrong: the
first latent of a clip holds one frame, every other one four.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify
from torch import Tensor

from wcsim.errors import NotFiniteError
from wcsim.world.batch_invariant import BatchInvariantConv2d, convolve
from wcsim.world.canvas import Size, fitted_size, place

FRAMES_PER_BATCH, FRAMES_PER_CPU_BATCH = 256, 16
"""Frames that go through the autoencoder together; bounds memory, changes no number.  On a CPU more of them leave its
caches, and a frame takes almost twice the time."""


class SingleFrameConv(WanCausalConv3d):  # type: ignore[misc]  # diffusers is untyped
    """A causal convolution that meets one frame at a time, with empty history."""

    def forward(self, x_BCTHW: Tensor, cache_x: Tensor | None = None) -> Tensor:
        """`[B, C, 1, H, W]` to `[B, C', 1, H, W]`."""
        if x_BCTHW.shape[2] != 1 or cache_x is not None:
            raise ValueError(f"a frame codec takes clips of one frame, got {x_BCTHW.shape[2]}")
        taps, padding = self.weight[:, :, -1], (self._padding[0],) * 2
        return convolve(x_BCTHW.squeeze(2), taps, self.bias, padding=padding).unsqueeze(2)


class WanCodec(torch.nn.Module):
    """What both codecs share; latents are normalised to zero mean and unit variance per channel."""

    autoencoder = AutoencoderKLWan
    frames_per_latent = 1
    mean: Tensor
    std: Tensor

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = vae
        shape = (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor(vae.config.latents_mean[: vae.config.z_dim]).view(shape), False)
        self.register_buffer("std", torch.tensor(vae.config.latents_std[: vae.config.z_dim]).view(shape), False)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent frame."""
        return int(self.vae.config.z_dim)

    @property
    def compression(self) -> int:
        """Frame pixels per latent pixel, along a side."""
        return int(self.vae.config.scale_factor_spatial)


class Codec(WanCodec):
    """Encodes and decodes single frames.

    refine_steps: how often `encode` refines the latents: it decodes them, encodes the result, and adds the difference.
    One pass of an encoder leaves things out that the decoder could have drawn (an amortisation gap).  Each step costs
    one decoding and one encoding.
    """

    def __init__(self, vae: AutoencoderKLWan, refine_steps: int = 0) -> None:
        if any(vae.config.temperal_downsample):
            raise ValueError("a frame codec needs an autoencoder without temporal compression")
        for module in vae.modules():
            if isinstance(module, WanCausalConv3d):
                module.__class__ = SingleFrameConv
            elif type(module) is torch.nn.Conv2d:
                module.__class__ = BatchInvariantConv2d
        super().__init__(vae)
        self.refine_steps = refine_steps

    @classmethod
    def new(cls, config: dict[str, Any]) -> Self:
        """A codec with random weights; the temporal taps that a single frame cannot reach are zero."""
        z_dim = config["z_dim"]
        vae = AutoencoderKLWan(**{"latents_mean": [0.0] * z_dim, "latents_std": [1.0] * z_dim, **config})
        for module in vae.modules():
            if isinstance(module, WanCausalConv3d):
                module.weight.data[:, :, :-1] = 0.0
        return cls(vae)

    @classmethod
    def load(cls, folder: Path, refine_steps: int = 0) -> Self:
        """Read diffusers' `save_pretrained` layout, in float32."""
        return cls(AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch.float32), refine_steps)

    def posterior(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance `[B, C, h, w]`, not normalised, of pixels in [-1, 1]."""
        x = pixels_BCHW.unsqueeze(2)
        if self.vae.config.patch_size is not None:
            x = patchify(x, self.vae.config.patch_size)
        mean, log_var = self.vae.quant_conv(self.vae.encoder(x)).squeeze(2).chunk(2, dim=1)
        return mean, log_var.clamp(-30.0, 20.0)

    def reconstruct(self, latents_BCHW: Tensor) -> Tensor:
        """Pixels `[B, 3, H, W]`, not clamped, of latents as `posterior` gives them."""
        x = self.vae.decoder(self.vae.post_quant_conv(latents_BCHW.unsqueeze(2)))
        if self.vae.config.patch_size is not None:
            x = unpatchify(x, self.vae.config.patch_size)
        pixels: Tensor = x.squeeze(2)
        return pixels

    def refine(self, latents_BCHW: Tensor, first_BCHW: Tensor) -> Tensor:
        """Latents, as `posterior` gives them, corrected once by how the encoder's answer to their own decoded frame
        differs from `first`, its answer to the frame."""
        shown = self.reconstruct(latents_BCHW).clamp(-1.0, 1.0)
        return latents_BCHW + first_BCHW - self.posterior(shown)[0]

    @torch.no_grad()
    def encode(self, frames: np.ndarray, refine_steps: int | None = None) -> Tensor:
        """Latents `[..., C, h, w]` of uint8 frames `[..., H, W, 3]`; no noise.  refine_steps: None: its own."""
        if frames.dtype != np.uint8 or frames.shape[-1] != 3:
            raise ValueError(f"frames must be uint8 [..., H, W, 3], got {frames.dtype} {list(frames.shape)}")
        refine_steps = self.refine_steps if refine_steps is None else refine_steps
        if refine_steps < 0:
            raise ValueError(f"refine_steps is {refine_steps}; it must be 0 or more")
        parts = []
        for some in torch.from_numpy(frames.reshape(-1, *frames.shape[-3:])).split(self._together):
            pixels = to_pixels(some.to(self.mean.device))
            latents = first = self.posterior(pixels.to(self.mean.dtype))[0]
            for _ in range(refine_steps):
                latents = self.refine(latents, first)
            parts.append((latents - self.mean) / self.std)
        latents = torch.cat(parts)
        return latents.view(*frames.shape[:-3], *latents.shape[1:])

    @property
    def _together(self) -> int:
        return FRAMES_PER_CPU_BATCH if self.mean.device.type == "cpu" else FRAMES_PER_BATCH

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames uint8 `[..., H, W, 3]` of latents `[..., C, h, w]`."""
        flat = latents.reshape(-1, *latents.shape[-3:]).to(self.mean.dtype)
        parts = [to_frames(self.reconstruct(some * self.std + self.mean)) for some in flat.split(self._together)]
        frames: np.ndarray = torch.cat(parts).cpu().numpy()
        return frames.reshape(*latents.shape[:-3], *frames.shape[1:])


class ClipCodec(WanCodec):
    """Encodes and decodes clips of 1 + 4 n frames as 1 + n latents; the stock autoencoder, causal in time."""

    frames_per_latent = 4

    def __init__(
        self, vae: AutoencoderKLWan, canvas: Size | None = None, eight_bits: Literal["rounded", "cut"] = "rounded"
    ) -> None:
        """canvas: what clips are placed on to be encoded; see `wcsim.world.canvas`.  eight_bits: how decoded pixels
        become bytes."""
        if 2 ** sum(vae.config.temperal_downsample) != self.frames_per_latent:
            raise ValueError(f"a clip codec compresses time by {self.frames_per_latent}; temperal_downsample is "
                             f"{list(vae.config.temperal_downsample)}")
        super().__init__(vae)
        self.canvas, self.eight_bits = canvas, eight_bits

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> Tensor:
        """Latents `[N, 1 + n, C, h, w]` of uint8 clips `[N, 1 + 4 n, H, W, 3]`; the posterior's mean, no noise."""
        if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3 or frames.shape[1] % 4 != 1:
            raise ValueError(f"clips must be uint8 [N, 1 + 4 n, H, W, 3], got {frames.dtype} {list(frames.shape)}")
        parts = []
        for clip in torch.from_numpy(frames):  # one by one: the autoencoder needs far more memory than the transformer
            pixels = to_pixels(clip.to(self.mean.device)).to(self.mean.dtype)
            placed = pixels if self.canvas is None else place(pixels, self.canvas)
            latents = self.vae.encode(placed.transpose(0, 1).unsqueeze(0)).latent_dist.mean.transpose(1, 2)
            parts.append(latents if self.canvas is None else self._of_frame(latents, fitted_size(
                (pixels.shape[2], pixels.shape[3]), self.canvas)))
        return ((torch.cat(parts) - self.mean) / self.std).float()

    def _of_frame(self, latents: Tensor, frame: Size) -> Tensor:
        """Latents of the canvas without those beyond the frame."""
        height, width = (max(side // self.compression, 1) for side in frame)
        return latents[..., :height, :width]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames uint8 `[N, 1 + 4 n, H, W, 3]` of latents `[N, 1 + n, C, h, w]`."""
        parts = []
        for clip in latents.to(self.mean.dtype) * self.std + self.mean:
            pixels = self.vae.decode(clip.transpose(0, 1).unsqueeze(0)).sample[0]
            parts.append(to_frames(pixels.transpose(0, 1), cut=self.eight_bits == "cut"))
        frames: np.ndarray = torch.stack(parts).cpu().numpy()
        return frames


def to_pixels(frames_BHWC: Tensor) -> Tensor:
    """Uint8 `[B, H, W, 3]` to float `[B, 3, H, W]` in [-1, 1]."""
    return frames_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_frames(pixels_BCHW: Tensor, *, cut: bool = False) -> Tensor:
    """Float `[B, 3, H, W]` in [-1, 1] to uint8 `[B, H, W, 3]`, rounded and clamped; NotFiniteError for NaN.  cut: round
    down, as NVIDIA's loop does."""
    pixels_BCHW = pixels_BCHW.float()
    if not torch.isfinite(pixels_BCHW).all():
        raise NotFiniteError("decoded pixels that are not finite")
    if cut:
        return (((pixels_BCHW + 1.0) / 2.0).clamp(0, 1) * 255.0).to(torch.uint8).permute(0, 2, 3, 1)
    return ((pixels_BCHW + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
