"""Train a world's codec: small moving things weigh most, because everything after the codec depends on them.

    python scripts/train_codec.py configs/train_pusht96.yaml

First both halves learn on pairs of shifted crops, many of them around what moves, then on whole frames.  The first
channels are trained on targets: where the recipe's landmarks are, as smooth maps.  At last the encoder, and with it the
latents and their statistics, stays as it is, and the decoder learns alone.  Resumes from `OUTPUT/codec.pt`; exports
`OUTPUT/codec/` in diffusers' layout with the statistics filled in.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from dataset import Episodes, save_atomically
from recipe import CodecTraining, Recipe
from wcsim.world.body_poses import bump_maps
from wcsim.world.codec import Codec, to_pixels

CHANGED = 24
"""Summed absolute RGB difference from which a pixel counts as changed."""
LANDMARK_GAIN = 3.0
"""Height of a landmark's bump in latent units before normalisation."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Views of the same frames, some pixels apart.

    first, second: `[B, 3, S, S]` in [-1, 1].  weight: `[B, 1, S, S]` loss weight of the second, 0 where the first does
    not show what it shows.  offset: `[B, 2]` pixels y, x from first to second.  corner: `[B, 2]` pixels y, x of the
    first within its frame.  states: `[B, S]` the simulator's.
    """

    first: Tensor
    second: Tensor
    weight: Tensor
    offset: Tensor
    corner: Tensor
    states: Tensor


def draw_pairs(
    episodes: Episodes, training: CodecTraining, count: int, whole: bool, rng: np.random.Generator
) -> Pairs:
    """Crops, and crops of the same frames up to `max_shift_px` away either way; or `whole` frames, twice.

    What differs from another frame of the same episode has moved: it weighs more, and attracts crops.
    """
    size, reach = episodes.frames.shape[2], training.max_shift_px
    view = size if whole else training.crop_px
    episode = rng.integers(len(episodes.frames), size=count)
    times = rng.integers(episodes.frames.shape[1], size=(2, count))
    offsets = rng.integers(-reach, reach + 1, size=(count, 2))
    offsets[rng.random(count) < training.unshifted_share] = 0
    firsts, seconds, weights, corners = [], [], [], []
    for e, t, other, offset in zip(episode, *times, offsets, strict=True):
        frame = episodes.frames[e, t]
        moved = np.abs(frame.astype(np.int16) - episodes.frames[e, other]).sum(-1) > CHANGED
        centre = rng.integers(size, size=2)
        spots = np.argwhere(moved)
        if len(spots) and rng.random() < training.moving_crops:
            centre = spots[rng.integers(len(spots))]
        corner = np.clip(centre - view // 2 + rng.integers(-8, 9, size=2), 0, size - view)
        offset[:] = np.clip(corner + offset, 0, size - view) - corner
        (y, x), (v, u) = corner, corner + offset
        corners.append(corner)
        firsts.append(frame[y : y + view, x : x + view])
        seconds.append(frame[v : v + view, u : u + view])
        weight = 1.0 + (training.moving_weight - 1.0) * moved[v : v + view, u : u + view]
        rows, columns = (np.arange(view) + shift for shift in offset)
        seen = ((rows >= 0) & (rows < view))[:, None] & ((columns >= 0) & (columns < view))
        weights.append(weight * seen)
    weight = torch.from_numpy(np.array(weights, dtype=np.float32)).unsqueeze(1)
    first, second = (to_pixels(torch.from_numpy(np.array(views))) for views in (firsts, seconds))
    states = torch.from_numpy(episodes.states[episode, times[0]]).float()
    return Pairs(first, second, weight / weight.mean(), torch.from_numpy(offsets).float(),
                 torch.from_numpy(np.array(corners)).float(), states)


def landmark_maps(pairs: Pairs, training: CodecTraining, cells: int, compression: int) -> Tensor:
    """What the first channels of the first view should say, `[B, K, cells, cells]`: around each landmark a Gaussian
    bump one cell wide, then, where it has an angle, the bump times its sine and its cosine."""
    centre = (torch.arange(cells) + 0.5) * compression
    maps = []
    for landmark in training.landmarks:
        x, y = (pairs.states[:, column] * training.pixels_per_unit for column in landmark.columns)
        rows = (centre + pairs.corner[:, :1] - y.unsqueeze(1)) / compression
        columns = (centre + pairs.corner[:, 1:] - x.unsqueeze(1)) / compression
        maps += bump_maps(rows, columns, None if landmark.angle is None else pairs.states[:, landmark.angle])
    return torch.stack(maps, dim=1)


def shift(latents: Tensor, offset: Tensor) -> Tensor:
    """Latents `[B, C, h, w]` seen from `offset` `[B, 2]` latent pixels (y, x) further on, interpolated bilinearly."""
    height, width = latents.shape[-2:]
    theta = torch.eye(2, 3).repeat(len(latents), 1, 1)
    theta[:, 0, 2], theta[:, 1, 2] = 2 * offset[:, 1] / width, 2 * offset[:, 0] / height
    grid = F.affine_grid(theta, list(latents.shape), align_corners=False)
    return F.grid_sample(latents, grid, padding_mode="border", align_corners=False)


def loss_of(codec: Codec, pairs: Pairs, training: CodecTraining, generator: torch.Generator) -> Tensor:
    """Reconstruction of the second view from the shifted latents of the first, their distance from the latents of the
    second (both ask that latents move as the frame does, as in EQ-VAE, arXiv 2502.09509), what the landmarks' maps
    miss, and a pull to a Gaussian.
    """
    mean, log_var = codec.posterior(pairs.first)
    mean_second, _ = codec.posterior(pairs.second) if pairs.offset.any() else (mean, log_var)
    offset = pairs.offset / codec.compression
    moved = shift(mean, offset)
    noise = torch.randn(mean.shape, generator=generator) * torch.exp(0.5 * log_var)
    error = codec.reconstruct(moved + noise) - pairs.second
    inside = F.interpolate((pairs.weight > 0).float(), mean.shape[-2:], mode="area").ge(1.0)
    apart = (inside * (moved - mean_second).square()).mean() / mean.detach().var()
    kl = 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).mean()
    reconstruction = (pairs.weight * (error.abs() + 5.0 * error.square())).mean()
    loss = reconstruction + training.shift_weight * apart + training.kl_weight * kl
    if training.landmarks:
        maps = landmark_maps(pairs, training, mean.shape[-1], codec.compression)
        missed = (LANDMARK_GAIN * maps - mean[:, : maps.shape[1]]).square().mean() / (LANDMARK_GAIN * maps).var()
        loss = loss + training.landmark_weight * missed
    return loss


def decoder_loss(codec: Codec, pairs: Pairs, training: CodecTraining, generator: torch.Generator) -> Tensor:
    """Reconstruction alone, from latents as the transformer will know them: normalised, and not quite right."""
    with torch.no_grad():
        latents = (codec.posterior(pairs.first)[0] - codec.mean) / codec.std
        deviation = training.latent_noise * torch.rand(len(latents), 1, 1, 1, generator=generator)
        latents += deviation * torch.randn(latents.shape, generator=generator)
    error = codec.reconstruct(latents * codec.std + codec.mean) - pairs.second
    return (pairs.weight * (error.abs() + 5.0 * error.square())).mean()


@torch.no_grad()
def psnr_db(codec: Codec, frames: np.ndarray) -> float:
    """Mean over frames of the reconstruction's PSNR."""
    again = codec.decode(codec.encode(frames)).astype(np.float64)
    mse = np.square(again - frames).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255.0**2 / np.maximum(mse, 1e-9))))


@torch.no_grad()
def latent_statistics(codec: Codec, frames: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation of the latents per channel, under the names of the autoencoder's config."""
    latents = codec.encode(frames) * codec.std + codec.mean
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    return {"latents_mean": mean.tolist(), "latents_std": std.tolist()}


def freeze_encoder(codec: Codec, statistics: dict[str, list[float]]) -> None:
    """From here on only the decoder learns, and the latents are normalised."""
    for module in (codec.vae.encoder, codec.vae.quant_conv):
        module.requires_grad_(False)
    codec.mean.copy_(torch.tensor(statistics["latents_mean"]).view_as(codec.mean))
    codec.std.copy_(torch.tensor(statistics["latents_std"]).view_as(codec.std))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="training recipe (YAML)")
    recipe = Recipe.load(parser.parse_args().recipe)
    training, schedule = recipe.codec, recipe.codec.schedule
    recipe.output.mkdir(parents=True, exist_ok=True)
    checkpoint = recipe.output / "codec.pt"

    torch.manual_seed(schedule.seed)
    codec = Codec.new(training.model)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    first, statistics = 0, None
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        codec.load_state_dict(saved["codec"])
        optimizer.load_state_dict(saved["optimizer"])
        first, statistics = saved["step"], saved["statistics"]
    episodes = Episodes.load(recipe.data, "train")
    frame_shape = episodes.frames.shape[2:]
    held_out = Episodes.load(recipe.data, "validation").frames[:, :: recipe.data.steps // 2].reshape(
        -1, *frame_shape)[:128]

    progress = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, unit="step")
    started = time.monotonic()
    for step in progress:
        rng = np.random.default_rng([schedule.seed, step])
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
        alone = step >= (1 - training.decoder_fraction) * schedule.steps
        whole = alone or step >= (1 - training.decoder_fraction - training.whole_frame_fraction) * schedule.steps
        if alone and codec.vae.encoder.conv_in.weight.requires_grad:
            statistics = statistics or latent_statistics(codec, episodes.frames[:: max(1, len(episodes.frames) // 64),
                                                                                ::4].reshape(-1, *frame_shape))
            freeze_encoder(codec, statistics)
        count = max(1, round(schedule.batch * (training.crop_px / frame_shape[0]) ** 2)) if whole else schedule.batch
        pairs = draw_pairs(episodes, training, count, whole, rng)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss = (decoder_loss if alone else loss_of)(codec, pairs, training, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            save_atomically({"codec": codec.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1,
                             "statistics": statistics}, checkpoint)
            progress.write(f"step {step + 1} loss {loss.item():.4f} held-out PSNR {psnr_db(codec, held_out):.2f} dB "
                           f"{time.monotonic() - started:.0f} s")
    assert statistics is not None  # the recipe leaves steps for the decoder
    codec.vae.register_to_config(**statistics)
    codec.vae.save_pretrained(recipe.output / "codec")
    print(f"exported {recipe.output / 'codec'}: held-out PSNR {psnr_db(codec, held_out):.2f} dB")


if __name__ == "__main__":
    main()
