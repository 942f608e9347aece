"""Train a world's codec: small moving things weigh most, because everything after the codec depends on them.

    python scripts/train_codec.py configs/train_pusht96.yaml

Crops centred on what moves first (many gradients per second), whole frames while the rate decays.  Resumes from
`OUTPUT/codec.pt`; exports `OUTPUT/codec/` in diffusers' layout with latent statistics filled in.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from dataset import Episodes, save_atomically
from recipe import CodecTraining, Recipe
from torch import Tensor
from tqdm import tqdm

from wcsim.world.codec import Codec, to_pixels

CHANGED = 24
"""Summed absolute RGB difference from which a pixel counts as changed."""


def draw_batch(
    episodes: Episodes, training: CodecTraining, count: int, whole: bool, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Frames or crops `[B, 3, S, S]` in [-1, 1] and their loss weights `[B, 1, S, S]`.

    What differs from another frame of the same episode has moved: it weighs more, and attracts crops.
    """
    size = episodes.frames.shape[2]
    crop = size if whole else training.crop_px
    episode = rng.integers(len(episodes.frames), size=count)
    times = rng.integers(episodes.frames.shape[1], size=(2, count))
    crops, weights = [], []
    for e, t, other in zip(episode, *times, strict=True):
        frame = episodes.frames[e, t]
        moved = np.abs(frame.astype(np.int16) - episodes.frames[e, other]).sum(-1) > CHANGED
        centre = rng.integers(size, size=2)
        spots = np.argwhere(moved)
        if len(spots) and rng.random() < training.moving_crops:
            centre = spots[rng.integers(len(spots))]
        y, x = np.clip(centre - crop // 2 + rng.integers(-8, 9, size=2), 0, size - crop)
        crops.append(frame[y : y + crop, x : x + crop])
        weights.append(1.0 + (training.moving_weight - 1.0) * moved[y : y + crop, x : x + crop])
    weight = torch.from_numpy(np.array(weights, dtype=np.float32)).unsqueeze(1)
    return to_pixels(torch.from_numpy(np.array(crops))), weight / weight.mean()


def loss_of(codec: Codec, pixels: Tensor, weight: Tensor, kl_weight: float, generator: torch.Generator) -> Tensor:
    """Weighted L1 plus squared error, plus a light pull of the latents towards a unit Gaussian."""
    mean, log_var = codec.posterior(pixels)
    noise = torch.randn(mean.shape, generator=generator)
    error = codec.reconstruct(mean + torch.exp(0.5 * log_var) * noise) - pixels
    kl = 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).mean()
    return (weight * (error.abs() + 5.0 * error.square())).mean() + kl_weight * kl


@torch.no_grad()
def psnr_db(codec: Codec, frames: np.ndarray) -> float:
    """Mean over frames of the reconstruction's PSNR."""
    again = codec.decode(codec.encode(frames)).astype(np.float64)
    mse = np.square(again - frames).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255.0**2 / np.maximum(mse, 1e-9))))


@torch.no_grad()
def fill_latent_statistics(codec: Codec, frames: np.ndarray) -> None:
    """Store the latents' mean and standard deviation per channel in the autoencoder's config."""
    latents = codec.encode(frames) * codec.std + codec.mean
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    codec.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


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
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        codec.load_state_dict(saved["codec"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    episodes = Episodes.load(recipe.data.folder / "train")
    held_out = Episodes.load(recipe.data.folder / "validation").frames[:, :: recipe.data.steps // 2].reshape(
        -1, *episodes.frames.shape[2:])[:128]

    progress = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, unit="step")
    started = time.monotonic()
    for step in progress:
        rng = np.random.default_rng([schedule.seed, step])
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
        whole = step >= (1 - training.whole_frame_fraction) * schedule.steps
        count = max(1, schedule.batch // 4) if whole else schedule.batch
        pixels, weight = draw_batch(episodes, training, count, whole, rng)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss = loss_of(codec, pixels, weight, training.kl_weight, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            save_atomically({"codec": codec.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1},
                            checkpoint)
            progress.write(f"step {step + 1} loss {loss.item():.4f} held-out PSNR {psnr_db(codec, held_out):.2f} dB "
                           f"{time.monotonic() - started:.0f} s")
    fill_latent_statistics(codec, episodes.frames[:: max(1, len(episodes.frames) // 64), ::4].reshape(
        -1, *episodes.frames.shape[2:]))
    codec.vae.save_pretrained(recipe.output / "codec")
    print(f"exported {recipe.output / 'codec'}: held-out PSNR {psnr_db(codec, held_out):.2f} dB")


if __name__ == "__main__":
    main()
