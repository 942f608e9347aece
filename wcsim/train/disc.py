"""Fine-tuning a codec where it puts a disc in the wrong place: beside other things, cut by the frame's border.

The codec is given more residual blocks, which begin as the identity, and both halves learn together once more, on whole
frames, many of them with the recipe's first landmark, a disc, crowded or at the border.  (Crops have borders of their
own, which no frame has.)  Latents are kept near those of the codec before.  Privileged: the simulator says where the
disc is.  Easy to get wrong: with `refine_steps`, the loss is of refined latents.

Shapes: N frames of a pool, B views, H W frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from wcsim.errors import ConfigError
from wcsim.metrics.images import psnr_db
from wcsim.train.codec import CHANGED
from wcsim.train.footage import FramePool
from wcsim.train.privileged_recipe import Disc, Privileged
from wcsim.train.stage import Stage
from wcsim.world.codec import Codec, to_pixels

RAMP_PX = 1.5
"""Width of the soft edge from which a disc's displacement is read."""
GRIP_PX = 0.28
"""Displacement from which on the penalty grows linearly."""
NEAR = 1.8
"""Radii from the border within which a disc counts as at it: a wall there is drawn over it."""
WHOLLY = 1 / 3
"""Share of the batches whose latents are refined as often as the codec will refine them; the others once less."""


def deepened(vae: AutoencoderKLWan, blocks: int) -> tuple[AutoencoderKLWan, set[str]]:
    """The same function with `blocks` residual blocks at every resolution, and the names of its new parameters.

    Each new block ends in a convolution of zeros, so it passes on what it gets.
    """
    config = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    deep = AutoencoderKLWan.from_config({**config, "num_res_blocks": blocks})
    unknown = deep.load_state_dict(vae.state_dict(), strict=False)
    if unknown.unexpected_keys:
        raise ConfigError(f"the codec has {vae.config.num_res_blocks} residual blocks already; {blocks} would be fewer")
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
    def of(cls, pool: FramePool, recipe: Privileged, radius: float) -> Self:
        """The first landmark's."""
        assert pool.simulator is not None
        frames, centre = pool.frames, pool.simulator[:, list(recipe.landmarks[0].columns)] * recipe.pixels_per_unit
        backdrop = np.median(frames[:: max(1, len(frames) // 512)], axis=0).astype(np.int16)
        kinds = np.array([kind_of(frame, place, backdrop, radius) for frame, place in zip(frames, centre, strict=True)])
        return cls(frames, centre, backdrop, {str(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)})

    def draw(self, disc: Disc, rng: np.random.Generator) -> np.ndarray:
        """Numbers of a batch of frames, by the kinds' shares; any frame in the place of a kind that there is not."""
        shares = list(disc.shares.values())
        drawn = rng.choice(len(shares) + 1, disc.schedule.batch, p=[*shares, max(0.0, 1 - sum(shares))])
        numbers = rng.integers(len(self.frames), size=len(drawn))
        for index, kind in enumerate(disc.shares):
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
    def of(cls, discs: Discs, numbers: np.ndarray, disc: Disc) -> Self:
        """Whole frames, with the disc and what moves weighted up."""
        frames, size = np.array(discs.frames[numbers]), discs.frames.shape[1]
        offset = torch.from_numpy(0.5 - discs.centre[numbers]).float()
        across, down = (offset[:, axis, None] + torch.arange(size) for axis in (0, 1))
        x, y = (part.expand(len(numbers), size, size) for part in (across[:, None, :], down[:, :, None]))
        distance = torch.hypot(x, y) + 1e-6
        moved = np.abs(frames.astype(np.int16) - discs.backdrop).sum(-1) > CHANGED
        weight = 1 + (disc.moving_weight - 1) * torch.from_numpy(moved).float()
        place = discs.centre[numbers]
        cut = np.minimum(place, size - place).min(1) < 1.2 * disc.radius_px
        heavy = torch.from_numpy(np.where(cut, disc.cut_weight, disc.disc_weight)).float()[:, None, None]
        weight = torch.where(distance < 1.6 * disc.radius_px, heavy, weight)
        return cls(to_pixels(torch.from_numpy(frames)), (weight / weight.mean()).unsqueeze(1), x, y, distance)

    def to(self, device: torch.device) -> Self:
        """The views on a device."""
        return type(self)(*(getattr(self, name).to(device) for name in self.__slots__))


def displacement(error: Tensor, views: Views, disc: Disc) -> Tensor:
    """How many pixels `[B, 2]` (x, y) a reconstruction that is off by `error` `[B, 3, S, S]` displaces the disc.

    To first order: the least-squares shift of a soft disc in the colour that only it has.  Zero if out of view.
    """
    seen = torch.einsum("bchw,c->bhw", error, error.new_tensor(disc.hue)).flatten(1)
    edge = ((views.distance - disc.radius_px).abs() < RAMP_PX / 2) / (RAMP_PX * views.distance)
    slope = torch.stack([edge * views.x, edge * views.y], dim=-1).flatten(1, 2)
    normal = slope.mT @ slope
    total = normal.diagonal(dim1=1, dim2=2).sum(-1)
    damped = normal + (0.02 * total + 0.03)[:, None, None] * torch.eye(2, device=total.device)
    shift: Tensor = torch.linalg.solve(damped, slope.mT @ seen.unsqueeze(-1)).squeeze(-1)
    return shift * (total > 1.0).unsqueeze(-1)


class DiscLearner(torch.nn.Module):
    """Reconstruction, the disc's displacement, and the latents' distance from what the codec said `before`.

    Gradients leave out the frames that the decoder draws while latents are refined.  Some latents carry noise, and some
    are the former codec's: the decoder has to go on reading both.
    """

    def __init__(self, codec: Codec, before: Codec, disc: Disc) -> None:
        super().__init__()
        self.codec, self._former, self.disc = codec, (before,), disc

    def forward(self, views: Views, refine_steps: int, drawn: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """refine_steps: how often the latents are refined.  drawn: `[3, B, 1, 1, 1]` in [0, 1): whether latents are the
        former codec's, whether they carry noise, and how much of it.  noise: `[B, C, h, w]` standard normal."""
        codec, before, disc = self.codec, self._former[0], self.disc
        views, drawn, noise = views.to(codec.mean.device), drawn.to(codec.mean.device), noise.to(codec.mean.device)
        first = mean = codec.posterior(views.pixels)[0]
        for _ in range(refine_steps):
            with torch.no_grad():
                shown = codec.reconstruct(mean).clamp(-1.0, 1.0)
            mean = mean + first - codec.posterior(shown)[0]
        latents = normalised(codec, mean)
        with torch.no_grad():
            former = normalised(before, before.posterior(views.pixels)[0])
        old, noisy, size = drawn
        replaced, deviation = old < disc.former_share, disc.latent_noise * size * (noisy < disc.noisy_share)
        given = torch.where(replaced, former, latents) + deviation * noise
        kept = (latents - former).square().mean()
        error = codec.reconstruct(given * codec.std + codec.mean) - views.pixels
        reconstruction = (views.weight * (error.abs() + 10.0 * error.square())).mean()
        squared = displacement(error, views, disc).square().sum(-1) / GRIP_PX**2
        eased = torch.where(replaced.flatten() | (deviation.flatten() > 0), 0.3, 1.0)
        displaced = (eased * ((1 + squared).sqrt() - 1)).mean()
        return {"loss": reconstruction + disc.displaced_weight * displaced + disc.keep_weight * kept,
                "reconstruction": reconstruction, "displaced": displaced, "kept": kept}


def normalised(codec: Codec, mean: Tensor) -> Tensor:
    """Latents as everything after the codec knows them."""
    return (mean - codec.mean) / codec.std


def train_disc(stage: Stage, recipe: Privileged, pool: FramePool, held_out: FramePool, codec: Path, folder: Path,
               refine_steps: int) -> None:
    """Fine-tune the codec in a folder, and export it into another one."""
    disc = recipe.disc
    assert disc is not None
    before = Codec.load(codec).eval().requires_grad_(False).to(stage.machine.device)
    torch.manual_seed(disc.schedule.seed)
    vae, new = deepened(AutoencoderKLWan.from_pretrained(codec, torch_dtype=torch.float32), disc.num_res_blocks)
    learner = DiscLearner(Codec(vae, refine_steps), before, disc)
    named = dict(vae.named_parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [part for name, part in named.items() if (name in new) == is_new], "share": share}
         for is_new, share in ((True, 1.0), (False, disc.old_rate))], lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)
    discs = Discs.of(pool, recipe, disc.radius_px)
    shown = np.array(held_out.frames[:: max(1, len(held_out.frames) // 128)][:128])
    cells = [side // learner.codec.compression for side in pool.frames.shape[1:3]]

    def draw(rng: np.random.Generator, generator: torch.Generator, done: float) -> Mapping[str, Any]:
        del done
        views, count = Views.of(discs, discs.draw(disc, rng), disc), disc.schedule.batch
        return {"views": views, "refine_steps": max(0, refine_steps - int(rng.random() >= WHOLLY)),
                "drawn": torch.rand(3, count, 1, 1, 1, generator=generator),
                "noise": torch.randn((count, learner.codec.latent_channels, *cells), generator=generator)}

    def validate() -> Mapping[str, float]:
        seen = learner.codec.decode(learner.codec.encode(shown))
        return {"psnr_db": float(psnr_db(seen, shown).mean())}

    stage.run(learner, [optimizer], draw, validate, lambda: vae.save_pretrained(folder))
