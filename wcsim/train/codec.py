"""Training a frame codec: what moves weighs most, because everything after the codec depends on it.

First both halves learn on pairs of shifted crops, many of them around what moves, then on whole frames.  At last the
encoder, and with it the latents and their statistics, stays as it is, and the decoder learns alone.

Shapes: B views, S pixels along a view's side, H W frame, C latent channels, h w latent pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wcsim.errors import ConfigError
from wcsim.metrics.images import psnr_db
from wcsim.train.footage import FramePool
from wcsim.train.privileged import landmark_maps
from wcsim.train.privileged_recipe import Privileged
from wcsim.train.recipe import CodecRecipe
from wcsim.train.stage import Stage
from wcsim.world.codec import Codec, to_pixels

CHANGED = 24
"""Summed absolute RGB difference from which a pixel counts as moved."""

Phase = Literal["crops", "whole", "decoder"]

STATISTICS_FRAMES = 1024
"""Frames of which the latents' mean and deviation are taken."""


def phase_of(recipe: CodecRecipe, done: float) -> Phase:
    """What is trained when a share `done` of the stage is over."""
    if done >= 1 - recipe.decoder_fraction:
        return "decoder"
    return "whole" if done >= 1 - recipe.decoder_fraction - recipe.whole_frame_fraction else "crops"


def draw_pairs(pool: FramePool, recipe: CodecRecipe, count: int, whole: bool, rng: np.random.Generator
               ) -> dict[str, Tensor]:
    """Views of frames and views of the same frames up to `max_shift_px` away, or `whole` frames, twice.

    first, second: `[B, S, S, 3]` uint8.  weight: `[B, 1, S, S]` loss weight of the second, 0 where the first does not
    show what it shows.  offset: `[B, 2]` pixels y, x from first to second.  index: `[B]`, of which frame of the pool.
    corner: `[B, 2]` pixels y, x of the first within it.  What differs from another frame of the same episode has moved:
    it weighs more, and attracts crops.
    """
    size = pool.frames.shape[1:3]
    view = size if whole else (min(recipe.crop_px, size[0]), min(recipe.crop_px, size[1]))
    index = rng.integers(len(pool.frames), size=count)
    others = pool.other(index, rng)
    offsets = rng.integers(-recipe.max_shift_px, recipe.max_shift_px + 1, size=(count, 2))
    offsets[rng.random(count) < recipe.unshifted_share] = 0
    firsts, seconds, weights, corners = [], [], [], []
    for one, other, offset in zip(index, others, offsets, strict=True):
        frame = pool.frames[one]
        moved = np.abs(frame.astype(np.int16) - pool.frames[other]).sum(-1) > CHANGED
        centre = rng.integers(size)
        spots = np.argwhere(moved)
        if len(spots) and rng.random() < recipe.moving_crops:
            centre = spots[rng.integers(len(spots))]
        most = np.subtract(size, view)
        corner = np.clip(centre - np.array(view) // 2 + rng.integers(-8, 9, size=2), 0, most)
        offset[:] = np.clip(corner + offset, 0, most) - corner
        (y, x), (v, u) = corner, corner + offset
        corners.append(corner)
        firsts.append(frame[y : y + view[0], x : x + view[1]])
        seconds.append(frame[v : v + view[0], u : u + view[1]])
        rows, columns = (np.arange(length) + shift for length, shift in zip(view, offset, strict=True))
        seen = ((rows >= 0) & (rows < view[0]))[:, None] & ((columns >= 0) & (columns < view[1]))
        heavy = moved[v : v + view[0], u : u + view[1]]
        weights.append((1.0 + (recipe.moving_weight - 1.0) * heavy) * seen)
    weight = torch.from_numpy(np.array(weights, dtype=np.float32)).unsqueeze(1)
    return {"first": torch.from_numpy(np.array(firsts)), "second": torch.from_numpy(np.array(seconds)),
            "weight": weight / weight.mean(), "offset": torch.from_numpy(offsets).float(),
            "index": torch.from_numpy(index), "corner": torch.from_numpy(np.array(corners))}


def shift(latents: Tensor, offset: Tensor) -> Tensor:
    """Latents `[B, C, h, w]` seen from `offset` `[B, 2]` latent pixels (y, x) further on, interpolated bilinearly."""
    height, width = latents.shape[-2:]
    theta = torch.eye(2, 3, device=latents.device).repeat(len(latents), 1, 1)
    theta[:, 0, 2], theta[:, 1, 2] = 2 * offset[:, 1] / width, 2 * offset[:, 0] / height
    grid = F.affine_grid(theta, list(latents.shape), align_corners=False)
    return F.grid_sample(latents, grid, padding_mode="border", align_corners=False)


class CodecLearner(torch.nn.Module):
    """The losses of a codec.  map_weight: of the maps that its first channels are to say, where there are any."""

    def __init__(self, codec: Codec, recipe: CodecRecipe, map_weight: float = 0.0) -> None:
        super().__init__()
        self.codec, self.recipe, self.map_weight = codec, recipe, map_weight

    def forward(self, phase: Phase, first: Tensor, second: Tensor, weight: Tensor, offset: Tensor, noise: Tensor,
                maps: Tensor | None = None) -> dict[str, Tensor]:
        """Arguments of `draw_pairs`; noise: `[B, C, h, w]` standard normal.  maps: `[B, K, h, w]` of the first view."""
        first, second = (to_pixels(view.to(self.codec.mean.device)) for view in (first, second))
        weight, offset, noise = (part.to(first.device) for part in (weight, offset, noise))
        return self._decoder(first, second, weight, noise) if phase == "decoder" else self._both(
            first, second, weight, offset, noise, None if maps is None else maps.to(first.device))

    def _both(self, first: Tensor, second: Tensor, weight: Tensor, offset: Tensor, noise: Tensor, maps: Tensor | None
              ) -> dict[str, Tensor]:
        """Reconstruction of the second view from the shifted latents of the first, their distance from the latents of
        the second (both ask that latents move as the frame does, as in EQ-VAE, arXiv 2502.09509), a pull to a Gaussian,
        and the share of the maps' variance that the first channels miss."""
        mean, log_var = self.codec.posterior(first)
        mean_second = self.codec.posterior(second)[0] if offset.any() else mean
        moved = shift(mean, offset / self.codec.compression)
        error = self.codec.reconstruct(moved + noise * torch.exp(0.5 * log_var)) - second
        inside = F.interpolate((weight > 0).float(), mean.shape[-2:], mode="area").ge(1.0)
        apart = (inside * (moved - mean_second).square()).mean() / mean.detach().var()
        kl = 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).mean()
        reconstruction = (weight * (error.abs() + 5.0 * error.square())).mean()
        loss = reconstruction + self.recipe.shift_weight * apart + self.recipe.kl_weight * kl
        losses = {"reconstruction": reconstruction, "shift": apart}
        if maps is not None:
            losses["maps"] = (maps - mean[:, : maps.shape[1]]).square().mean() / maps.var()
            loss = loss + self.map_weight * losses["maps"]
        return {"loss": loss, **losses}

    def _decoder(self, first: Tensor, second: Tensor, weight: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Reconstruction alone, from latents as the transformer will know them: normalised, and not quite right."""
        codec = self.codec
        with torch.no_grad():
            latents = (codec.posterior(first)[0] - codec.mean) / codec.std + noise
        error = codec.reconstruct(latents * codec.std + codec.mean) - second
        loss = (weight * (error.abs() + 5.0 * error.square())).mean()
        return {"loss": loss, "reconstruction": loss}


@torch.no_grad()
def latent_statistics(codec: Codec, frames: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation of the latents per channel, under the names of the autoencoder's config."""
    latents = codec.encode(frames, 0) * codec.std + codec.mean
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    return {"latents_mean": mean.tolist(), "latents_std": std.tolist()}


def freeze_encoder(codec: Codec, statistics: Mapping[str, list[float]]) -> None:
    """From here on only the decoder learns, and the latents are normalised."""
    for module in (codec.vae.encoder, codec.vae.quant_conv):
        module.requires_grad_(False)
    codec.mean.copy_(torch.tensor(statistics["latents_mean"]).view_as(codec.mean))
    codec.std.copy_(torch.tensor(statistics["latents_std"]).view_as(codec.std))


def check_frames(codec: Codec, size: tuple[int, int]) -> None:
    """ConfigError unless frames of H, W are whole latent pixels."""
    if size[0] % codec.compression or size[1] % codec.compression:
        raise ConfigError(f"frames of {size[0]}x{size[1]} are no whole multiple of {codec.compression}, the codec's "
                          "compression; say data.frame_size")


def train_codec(stage: Stage, recipe: CodecRecipe, pool: FramePool, held_out: FramePool, folder: Path,
                privileged: Privileged | None = None) -> None:
    """Train, and export `AutoencoderKLWan` into a folder at the end and at every checkpoint of the last phase."""
    torch.manual_seed(stage.schedule.seed)
    codec = Codec.new(recipe.model)
    check_frames(codec, pool.frames.shape[1:3])
    landmarks = () if privileged is None else privileged.landmarks
    learner = CodecLearner(codec, recipe, 0.0 if privileged is None else privileged.landmark_weight)
    shown = np.array(held_out.frames[:: max(1, len(held_out.frames) // 128)][:128])
    size = pool.frames.shape[1:3]

    def ready(done: float) -> None:
        if phase_of(recipe, done) == "decoder" and codec.vae.encoder.conv_in.weight.requires_grad:
            if "statistics" not in stage.extra:
                some = pool.frames[:: max(1, len(pool.frames) // STATISTICS_FRAMES)]
                stage.extra["statistics"] = latent_statistics(codec, np.array(some))
            freeze_encoder(codec, stage.extra["statistics"])

    def draw(rng: np.random.Generator, generator: torch.Generator, done: float) -> Mapping[str, Any]:
        phase = phase_of(recipe, done)
        area = min(recipe.crop_px, size[0]) * min(recipe.crop_px, size[1]) / (size[0] * size[1])
        batch = stage.schedule.batch
        count = batch if phase == "crops" else max(1, round(batch * area))
        pairs = draw_pairs(pool, recipe, count, phase != "crops", rng)
        if phase == "decoder":
            pairs |= {"second": pairs["first"]}
        cells = [side // codec.compression for side in pairs["first"].shape[1:3]]
        noise = torch.randn((count, codec.latent_channels, *cells), generator=generator)
        if phase == "decoder":
            noise = noise * recipe.latent_noise * torch.rand(count, 1, 1, 1, generator=generator)
        index, corner = (pairs.pop(name).numpy() for name in ("index", "corner"))
        if landmarks and privileged is not None and phase != "decoder":
            assert pool.simulator is not None
            pairs["maps"] = landmark_maps(landmarks, pool.simulator[index], corner, (cells[0], cells[1]),
                                          codec.compression, privileged.pixels_per_unit)
        return {"phase": phase, "noise": noise, **pairs}

    def validate() -> Mapping[str, float]:
        return {"psnr_db": float(psnr_db(codec.decode(codec.encode(shown)), shown).mean())}

    def export() -> None:
        if "statistics" in stage.extra:
            codec.vae.register_to_config(**stage.extra["statistics"])
            codec.vae.save_pretrained(folder)

    optimizer = torch.optim.AdamW(codec.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=1e-3)
    stage.run(learner, [optimizer], draw, validate, export, ready)
