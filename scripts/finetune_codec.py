"""Fine-tune a trained codec where it puts a body in the wrong place: beside other things, cut by the frame's border.

    python scripts/finetune_codec.py configs/train_pusht96.yaml

From `OUTPUT/codec`: it is given more residual blocks, which begin as the identity, and both halves learn together once
more, on whole frames, many of them with the recipe's first landmark, a disc, crowded or at the border.  (Crops have
borders of their own, which no frame has.)  Latents are kept near those of the codec before, so that whatever was
trained on them still reads them.  With `refine_steps` in the recipe, the loss is of refined latents.  Exports, in
diffusers' layout, the running mean of the weights, `OUTPUT/finetuned/`.  Resumes from `OUTPUT/finetuned.pt`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from tqdm import tqdm

from dataset import Episodes, save_atomically
from recipe import CodecTraining, Finetuning, Recipe
from train_codec import CHANGED, psnr_db
from wcsim.world.codec import Codec, to_pixels

RAMP_PX = 1.5
"""Width of the soft edge from which a disc's displacement is read."""
GRIP_PX = 0.28
"""Displacement from which on the penalty grows linearly."""
NEAR = 1.8
"""Radii from the border within which a disc counts as at it: a wall there is drawn over it."""
MEMORY = 0.997
"""How much of the running mean of the weights a step leaves; less at the beginning."""


def deepened(vae: AutoencoderKLWan, blocks: int) -> tuple[AutoencoderKLWan, set[str]]:
    """The same function with `blocks` residual blocks at every resolution, and the names of its new parameters.

    Each new block ends in a convolution of zeros, so it passes on what it gets.
    """
    config = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    deep = AutoencoderKLWan.from_config({**config, "num_res_blocks": blocks})
    unknown = deep.load_state_dict(vae.state_dict(), strict=False)
    if unknown.unexpected_keys:
        raise ValueError(f"the codec has {vae.config.num_res_blocks} residual blocks already; {blocks} would be fewer")
    new = set(unknown.missing_keys)
    for name, parameter in deep.named_parameters():
        if name in new and ".conv2." in name:
            torch.nn.init.zeros_(parameter)
        elif name in new and parameter.ndim == 5 and parameter.shape[2] > 1:
            torch.nn.init.zeros_(parameter[:, :, :-1])  # taps that a single frame does not reach
    return deep, new


@dataclass(frozen=True, slots=True)
class Discs:
    """Frames `[N, H, W, 3]`, and where a disc is in them, `[N, 2]` pixels x, y from the frame's corner.

    backdrop: `[H, W, 3]` what never moves.  kinds: the numbers of the frames of each kind, as `kind_of` names them.
    """

    frames: np.ndarray
    centre: np.ndarray
    backdrop: np.ndarray
    kinds: dict[str, np.ndarray]

    @classmethod
    def of(cls, episodes: Episodes, training: CodecTraining, radius: float) -> Self:
        """The first landmark's."""
        frames = episodes.frames.reshape(-1, *episodes.frames.shape[2:])
        columns = list(training.landmarks[0].columns)
        centre = episodes.states.reshape(len(frames), -1)[:, columns] * training.pixels_per_unit
        backdrop = np.median(frames[:: max(1, len(frames) // 512)], axis=0).astype(np.int16)
        kinds = np.array([kind_of(frame, place, backdrop, radius) for frame, place in zip(frames, centre, strict=True)])
        return cls(frames, centre, backdrop, {str(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)})

    def draw(self, finetuning: Finetuning, rng: np.random.Generator) -> np.ndarray:
        """Numbers of a batch of frames, by the kinds' shares; any frame in the place of a kind that there is not."""
        shares = list(finetuning.shares.values())
        drawn = rng.choice(len(shares) + 1, finetuning.schedule.batch, p=[*shares, max(0.0, 1 - sum(shares))])
        numbers = rng.integers(len(self.frames), size=len(drawn))
        for index, kind in enumerate(finetuning.shares):
            if kind in self.kinds:
                numbers[drawn == index] = rng.choice(self.kinds[kind], int((drawn == index).sum()))
        return numbers


def kind_of(frame: np.ndarray, centre: np.ndarray, backdrop: np.ndarray, radius: float) -> str:
    """Where the disc at `centre` `[2]` is: in a `corner`, at the `border`, in `company` (something that moves is within
    a radius of it), `beside` such a thing at the border, or `free`."""
    size = len(frame)
    near = np.minimum(centre, size - centre) < NEAR * radius
    if near.all():
        return "corner"
    low = np.maximum(np.floor(centre - 2 * radius).astype(int), 0)
    window = tuple(slice(first, first + int(4 * radius) + 2) for first in low[::-1])
    moved = np.abs(frame[window].astype(np.int16) - backdrop[window]).sum(-1) > CHANGED
    rows, columns = np.indices(moved.shape) + 0.5 + (low - centre)[::-1, None, None]
    distance = np.hypot(rows, columns)
    company = bool((moved & (distance > radius + 1) & (distance < 2 * radius)).any())
    return {(True, True): "beside", (True, False): "border", (False, True): "company", (False, False): "free"}[
        bool(near.any()), company]


@dataclass(frozen=True, slots=True)
class Views:
    """pixels: `[B, 3, H, W]` in [-1, 1].  weight: `[B, 1, H, W]`, of mean one.  x, y, distance: `[B, H, W]` pixels of
    every pixel from the disc's centre."""

    pixels: Tensor
    weight: Tensor
    x: Tensor
    y: Tensor
    distance: Tensor

    @classmethod
    def of(cls, discs: Discs, numbers: np.ndarray, finetuning: Finetuning) -> Self:
        """Whole frames, with the disc and what moves weighted up."""
        frames, size = discs.frames[numbers], discs.frames.shape[1]
        offset = torch.from_numpy(0.5 - discs.centre[numbers]).float()
        across, down = (offset[:, axis, None] + torch.arange(size) for axis in (0, 1))
        x, y = (part.expand(len(numbers), size, size) for part in (across[:, None, :], down[:, :, None]))
        distance = torch.hypot(x, y) + 1e-6
        moved = np.abs(frames.astype(np.int16) - discs.backdrop).sum(-1) > CHANGED
        weight = 1 + (finetuning.moving_weight - 1) * torch.from_numpy(moved).float()
        place = discs.centre[numbers]
        cut = np.minimum(place, size - place).min(1) < 1.2 * finetuning.radius_px
        disc = torch.from_numpy(np.where(cut, finetuning.cut_weight, finetuning.disc_weight)).float()[:, None, None]
        weight = torch.where(distance < 1.6 * finetuning.radius_px, disc, weight)
        return cls(to_pixels(torch.from_numpy(frames)), (weight / weight.mean()).unsqueeze(1), x, y, distance)


def displacement(error: Tensor, views: Views, finetuning: Finetuning) -> Tensor:
    """How many pixels `[B, 2]` (x, y) a reconstruction that is off by `error` `[B, 3, S, S]` displaces the disc.

    To first order: the least-squares shift of a soft disc in the colour that only it has.  Zero if out of view.
    """
    seen = torch.einsum("bchw,c->bhw", error, error.new_tensor(finetuning.hue)).flatten(1)
    edge = ((views.distance - finetuning.radius_px).abs() < RAMP_PX / 2) / (RAMP_PX * views.distance)
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
    codec: Codec, before: Codec, views: Views, finetuning: Finetuning, refine_steps: int, generator: torch.Generator
) -> Tensor:
    """Reconstruction, the disc's displacement, and the latents' distance from what the codec said `before`.

    refine_steps: how often the latents are refined; gradients leave out the frames that the decoder draws.
    Some latents carry noise, and some are the former codec's: the decoder has to go on reading both.
    """
    first = mean = codec.posterior(views.pixels)[0]
    for _ in range(refine_steps):
        with torch.no_grad():
            shown = codec.reconstruct(mean).clamp(-1.0, 1.0)
        mean = mean + first - codec.posterior(shown)[0]
    latents = normalised(codec, mean)
    with torch.no_grad():
        former = normalised(before, before.posterior(views.pixels)[0])
    old, noisy, size = torch.rand(3, len(latents), 1, 1, 1, generator=generator)
    old, deviation = old < finetuning.former_share, finetuning.latent_noise * size * (noisy < finetuning.noisy_share)
    given = torch.where(old, former, latents) + deviation * torch.randn(latents.shape, generator=generator)
    kept = (latents - former).square().mean()
    error = codec.reconstruct(given * codec.std + codec.mean) - views.pixels
    reconstruction = (views.weight * (error.abs() + 10.0 * error.square())).mean()
    squared = displacement(error, views, finetuning).square().sum(-1) / GRIP_PX**2
    displaced = torch.where(old.flatten() | (deviation.flatten() > 0), 0.3, 1.0) * ((1 + squared).sqrt() - 1)
    return reconstruction + finetuning.displaced_weight * displaced.mean() + finetuning.keep_weight * kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="training recipe (YAML)")
    recipe = Recipe.load(parser.parse_args().recipe)
    finetuning = recipe.codec.finetuning
    if finetuning is None or not recipe.codec.landmarks:
        raise SystemExit("the recipe has no codec.finetuning, or no landmark to fine-tune on")
    schedule, checkpoint = finetuning.schedule, recipe.output / "finetuned.pt"
    before = Codec.load(recipe.output / "codec").eval().requires_grad_(False)
    torch.manual_seed(schedule.seed)
    vae, new = deepened(AutoencoderKLWan.from_pretrained(recipe.output / "codec", torch_dtype=torch.float32),
                        finetuning.num_res_blocks)
    codec = Codec(vae, recipe.codec.refine_steps)
    named = dict(vae.named_parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [part for name, part in named.items() if (name in new) == is_new], "share": share}
         for is_new, share in ((True, 1.0), (False, finetuning.old_rate))], betas=(0.9, 0.99), weight_decay=0.0)
    first, mean = 0, [part.detach().clone() for part in named.values()]
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        codec.load_state_dict(saved["codec"])
        optimizer.load_state_dict(saved["optimizer"])
        first, mean = saved["step"], saved["mean"]
    discs = Discs.of(Episodes.load(recipe.data, "train"), recipe.codec, finetuning.radius_px)
    held_out = Episodes.load(recipe.data, "validation").frames[:, :: recipe.data.steps // 2].reshape(
        -1, *discs.frames.shape[1:])[:128]

    progress = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, unit="step")
    started = time.monotonic()
    for step in progress:
        rng = np.random.default_rng([schedule.seed, step])
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
        views = Views.of(discs, discs.draw(finetuning, rng), finetuning)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step) * group["share"]
        refine_steps = max(0, recipe.codec.refine_steps - (step % 3 != 1))
        loss = loss_of(codec, before, views, finetuning, refine_steps, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(mean, list(named.values()), 1 - min(MEMORY, (step + 1) / (step + 10)))
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            save_atomically({"codec": codec.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1,
                             "mean": mean}, checkpoint)
            progress.write(f"step {step + 1} loss {loss.item():.4f} held-out PSNR {psnr_db(codec, held_out):.2f} dB "
                           f"{time.monotonic() - started:.0f} s")
    vae.load_state_dict(dict(zip(named, mean, strict=True)))
    vae.save_pretrained(recipe.output / "finetuned")
    print(f"exported {recipe.output / 'finetuned'}: held-out PSNR {psnr_db(codec, held_out):.2f} dB")


if __name__ == "__main__":
    main()
