"""Mend a trained codec where it puts a body in the wrong place: beside other things, and cut by the frame's border.

    python scripts/mend_codec.py configs/train_pusht96.yaml

Both halves learn together once more, from `OUTPUT/codec`, on crops around the recipe's first landmark, a disc, many of
them from frames in which it is crowded, then on whole frames: crops have borders of their own, which no frame has.
Latents are held to what the codec said before, so that whatever was trained on them still reads them.  With `looks` in
the recipe, the loss is of latents that were looked at again.  Exports, in diffusers' layout, the mean of the weights
after `mean_with` of the steps and at the end, `OUTPUT/mended/`.  Resumes from `OUTPUT/mended.pt`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset import Episodes, save_atomically
from recipe import CodecTraining, Mending, Recipe
from train_codec import CHANGED, psnr_db
from wcsim.world.codec import Codec, to_pixels

RAMP_PX = 1.5
"""Width of the soft edge from which a disc's displacement is read."""
GRIP_PX = 0.28
"""Displacement from which on the penalty grows linearly."""


@dataclass(frozen=True, slots=True)
class Discs:
    """Frames `[N, H, W, 3]`, and where a disc is in them, `[N, 2]` pixels x, y from the frame's corner.

    backdrop: `[H, W, 3]` what never moves.  crowded: numbers of the frames in which the border cuts the disc, or
    something else that moves is within a radius of it.
    """

    frames: np.ndarray
    centre: np.ndarray
    backdrop: np.ndarray
    crowded: np.ndarray

    @classmethod
    def of(cls, episodes: Episodes, training: CodecTraining, radius: float) -> Self:
        """The first landmark's."""
        frames = episodes.frames.reshape(-1, *episodes.frames.shape[2:])
        columns = list(training.landmarks[0].columns)
        centre = episodes.states.reshape(len(frames), -1)[:, columns] * training.pixels_per_unit
        backdrop = np.median(frames[:: max(1, len(frames) // 512)], axis=0).astype(np.int16)
        crowded = [is_crowded(frame, place, backdrop, radius) for frame, place in zip(frames, centre, strict=True)]
        return cls(frames, centre, backdrop, np.flatnonzero(crowded))


def is_crowded(frame: np.ndarray, centre: np.ndarray, backdrop: np.ndarray, radius: float) -> bool:
    """Whether the border cuts the disc at `centre` `[2]`, or a ring of its radius around it shows something else."""
    size = len(frame)
    if min(centre.min(), size - centre.max()) < radius:
        return True
    low = np.maximum(np.floor(centre - 2 * radius).astype(int), 0)
    window = tuple(slice(first, first + int(4 * radius) + 2) for first in low[::-1])
    moved = np.abs(frame[window].astype(np.int16) - backdrop[window]).sum(-1) > CHANGED
    rows, columns = np.indices(moved.shape) + 0.5 + (low - centre)[::-1, None, None]
    distance = np.hypot(rows, columns)
    return bool((moved & (distance > radius + 1) & (distance < 2 * radius)).any())


@dataclass(frozen=True, slots=True)
class Views:
    """pixels: `[B, 3, S, S]` in [-1, 1].  weight: `[B, 1, S, S]`, of mean one.  x, y, distance: `[B, S, S]` pixels of
    every pixel from the disc's centre."""

    pixels: Tensor
    weight: Tensor
    x: Tensor
    y: Tensor
    distance: Tensor


def draw_views(discs: Discs, mending: Mending, grid: int, count: int, whole: bool, rng: np.random.Generator) -> Views:
    """`count` crops about the disc, a quarter of them about anywhere; or `whole` frames.  Corners lie on the latents'
    `grid`."""
    size = discs.frames.shape[1]
    view = size if whole else mending.crop_px
    numbers = rng.integers(len(discs.frames), size=count)
    crowded = rng.random(count) < mending.crowded_share
    if len(discs.crowded):
        numbers[crowded] = rng.choice(discs.crowded, crowded.sum())
    pixels, moved, offsets = [], [], []
    for number in numbers:
        centre = rng.uniform(0, size, 2) if rng.random() < 0.25 else discs.centre[number]
        corner = np.round((centre - view / 2 + rng.uniform(-10, 10, 2)) / grid) * grid
        x, y = np.clip(corner, 0, size - view).astype(int)
        window = slice(y, y + view), slice(x, x + view)
        pixels.append(discs.frames[number][window])
        moved.append(np.abs(pixels[-1].astype(np.int16) - discs.backdrop[window]).sum(-1) > CHANGED)
        offsets.append(np.array([x, y]) + 0.5 - discs.centre[number])
    steps, offset = torch.arange(view), torch.from_numpy(np.array(offsets)).float()
    across, down = (offset[:, axis, None] + steps for axis in (0, 1))
    x, y = (part.expand(count, view, view) for part in (across[:, None, :], down[:, :, None]))
    distance = torch.hypot(x, y) + 1e-6
    weight = 1 + (mending.moving_weight - 1) * torch.from_numpy(np.array(moved)).float()
    weight[distance < 1.6 * mending.radius_px] = mending.disc_weight
    return Views(to_pixels(torch.from_numpy(np.array(pixels))), (weight / weight.mean()).unsqueeze(1), x, y, distance)


def displacement(error: Tensor, views: Views, mending: Mending) -> Tensor:
    """How many pixels `[B, 2]` (x, y) a reconstruction that is off by `error` `[B, 3, S, S]` displaces the disc.

    To first order: the least-squares shift of a soft disc in the colour that only it has.  Zero if out of view.
    """
    seen = torch.einsum("bchw,c->bhw", error, error.new_tensor(mending.hue)).flatten(1)
    edge = ((views.distance - mending.radius_px).abs() < RAMP_PX / 2) / (RAMP_PX * views.distance)
    slope = torch.stack([edge * views.x, edge * views.y], dim=-1).flatten(1, 2)
    normal = slope.mT @ slope
    total = normal.diagonal(dim1=1, dim2=2).sum(-1)
    damped = normal + (0.02 * total + 0.03)[:, None, None] * torch.eye(2)
    shift: Tensor = torch.linalg.solve(damped, slope.mT @ seen.unsqueeze(-1)).squeeze(-1)
    return shift * (total > 1.0).unsqueeze(-1)


def normalised(codec: Codec, mean: Tensor) -> Tensor:
    """Latents as everything after the codec knows them."""
    return (mean - codec.mean) / codec.std


def loss_of(
    codec: Codec, before: Codec, views: Views, mending: Mending, looks: int, generator: torch.Generator
) -> Tensor:
    """Reconstruction, the disc's displacement, and the latents' distance from what the codec said `before`.

    looks: how often the latents are held against what the decoder draws of them; gradients leave its pictures out.
    Some latents carry noise, and some are the former codec's: the decoder has to go on reading both.
    """
    first = mean = codec.posterior(views.pixels)[0]
    for _ in range(looks):
        with torch.no_grad():
            shown = codec.reconstruct(mean).clamp(-1.0, 1.0)
        mean = mean + first - codec.posterior(shown)[0]
    latents = normalised(codec, mean)
    with torch.no_grad():
        former = normalised(before, before.posterior(views.pixels)[0])
    old, noisy, size = torch.rand(3, len(latents), 1, 1, 1, generator=generator)
    old, deviation = old < mending.former_share, mending.latent_noise * size * (noisy < mending.noisy_share)
    given = torch.where(old, former, latents) + deviation * torch.randn(latents.shape, generator=generator)
    kept = (latents - former).square().mean()
    error = codec.reconstruct(given * codec.std + codec.mean) - views.pixels
    reconstruction = (views.weight * (error.abs() + 5.0 * error.square())).mean()
    squared = displacement(error, views, mending).square().sum(-1) / GRIP_PX**2
    displaced = torch.where(old.flatten() | (deviation.flatten() > 0), 0.3, 1.0) * ((1 + squared).sqrt() - 1)
    return reconstruction + mending.displaced_weight * displaced.mean() + mending.keep_weight * kept


def weights_of(codec: Codec) -> dict[str, Tensor]:
    """A copy of its weights."""
    return {name: weight.clone() for name, weight in codec.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="training recipe (YAML)")
    recipe = Recipe.load(parser.parse_args().recipe)
    mending = recipe.codec.mending
    if mending is None or not recipe.codec.landmarks:
        raise SystemExit("the recipe has no codec.mending, or no landmark to mend")
    schedule, checkpoint = mending.schedule, recipe.output / "mended.pt"
    before = Codec.load(recipe.output / "codec").eval().requires_grad_(False)
    codec = Codec.load(recipe.output / "codec", recipe.codec.looks)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    first, middle = 0, weights_of(codec)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        codec.load_state_dict(saved["codec"])
        optimizer.load_state_dict(saved["optimizer"])
        first, middle = saved["step"], saved["middle"]
    discs = Discs.of(Episodes.load(recipe.data, "train"), recipe.codec, mending.radius_px)
    held_out = Episodes.load(recipe.data, "validation").frames[:, :: recipe.data.steps // 2].reshape(
        -1, *discs.frames.shape[1:])[:128]

    progress = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, unit="step")
    started = time.monotonic()
    for step in progress:
        rng = np.random.default_rng([schedule.seed, step])
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
        whole = step >= (1 - mending.whole_frame_fraction) * schedule.steps
        share = (mending.crop_px / discs.frames.shape[1]) ** 2
        count = max(1, round(schedule.batch * share)) if whole else schedule.batch
        views = draw_views(discs, mending, codec.compression, count, whole, rng)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        looks = max(0, recipe.codec.looks - (step % 3 == 0))
        loss = loss_of(codec, before, views, mending, looks, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        if step + 1 <= mending.mean_with * schedule.steps:
            middle = weights_of(codec)
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            save_atomically({"codec": codec.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1,
                             "middle": middle}, checkpoint)
            progress.write(f"step {step + 1} loss {loss.item():.4f} held-out PSNR {psnr_db(codec, held_out):.2f} dB "
                           f"{time.monotonic() - started:.0f} s")
    codec.load_state_dict({name: (weight + middle[name]) / 2 for name, weight in codec.state_dict().items()})
    codec.vae.save_pretrained(recipe.output / "mended")
    print(f"exported {recipe.output / 'mended'}: held-out PSNR {psnr_db(codec, held_out):.2f} dB")


if __name__ == "__main__":
    main()
