"""Training a world's transformer on the latents of its codec, by rectified flow.

Every step draws one window shape (context and chunk), keeps the context clean but for a little noise, and regresses the
velocity of the new frames.  Later a share of the contexts is the model's own imagination, so that it learns to live
with it.  A share of the steps may look at a few tokens of every frame only, in as many times more windows.

Shapes: B windows, T frames, C latent channels, h w latent pixels, R robot state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.train.losses import StateReader, TransformerLearner, control_of, noise_levels
from wcsim.train.muon import Muon
from wcsim.train.recipe import TransformerRecipe
from wcsim.train.stage import Stage
from wcsim.train.windows import Window, Windows
from wcsim.types import WorldSpec

VALIDATION_BATCHES = 8


def new_transformer(recipe: TransformerRecipe, spec: WorldSpec, control_channels: int = 0) -> ActionCosmosTransformer:
    """A transformer with random weights for a world."""
    channels = spec.latent_shape[0]
    model: ActionCosmosTransformer = ActionCosmosTransformer(in_channels=channels + 1, out_channels=channels,
                                    action_features=spec.action.num_features, control_channels=control_channels,
                                    **recipe.model)
    for block in model.transformer_blocks:  # the null text never trains what only text would use
        for module in block.attn2.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.weight)
    if recipe.model.get("extra_pos_embed_type"):
        for table in model.learnable_pos_embed.parameters():  # stock zeros stand where its norm has no derivative
            nn.init.normal_(table, std=0.02)
    return model


def optimizers_of(model: ActionCosmosTransformer, reader: StateReader | None) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of self-attention and feed-forward layers, AdamW for all else but cross-attention, which
    the null text leaves at zero."""
    inner, outer = list[nn.Parameter](), [] if reader is None else list(reader.parameters())
    for name, parameter in model.named_parameters():
        if ".attn2." in name:
            parameter.requires_grad_(False)
        elif parameter.ndim == 2 and (".attn1." in name or ".ff." in name):
            inner.append(parameter)
        else:
            outer.append(parameter)
    return [Muon(inner, lr=0.0, weight_decay=0.1),
            torch.optim.AdamW(outer, lr=0.0, betas=(0.9, 0.99), weight_decay=0.01)]


@torch.no_grad()
def imagine_context(learner: TransformerLearner, window: Window, rng: np.random.Generator) -> Window:
    """The window with its newest context frames, one to a chunk of them, made by the model from those before, in few
    Euler steps; then only the last few stay."""
    recipe, model = learner.recipe, learner.model
    new = min(window.context - 1, int(rng.integers(1, recipe.max_chunk + 1)))
    if new < 1:
        return window
    old = min(window.context - new, recipe.max_context)
    first, last = window.context - new - old, window.context
    frames = slice(first, last)
    latents = window.latents[:, frames].clone()
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    latents[:, old:] = torch.randn(latents[:, old:].shape, generator=generator).to(latents)
    is_context = torch.arange(old + new, device=latents.device) < old
    control = control_of(learner.state_model, latents[:, :old], window.actions[:, frames],
                         window.known[:, frames])
    time = np.linspace(1.0, 0.0, int(rng.integers(1, recipe.imagined_steps + 1)) + 1)
    for sigma, next_sigma in pairwise(recipe.shift * time / (1 + (recipe.shift - 1) * time)):
        sigmas = torch.where(is_context, recipe.context_sigma, float(sigma)).expand(len(latents), -1).float()
        mixed = latents.transpose(1, 2)
        predicted = model(
            mixed, sigma_NT=sigmas, actions_NTF=window.actions[:, frames], known_NT=window.known[:, frames],
            text_NSE=latents.new_zeros(len(latents), 1, model.config.text_embed_dim), clean_T=is_context.float(),
            control_NKThw=control)
        velocity = model.velocity(predicted.float(), mixed, sigmas).transpose(1, 2)
        latents[:, old:] += float(next_sigma - sigma) * velocity[:, old:]
    kept = max(first, last - 1 - int(rng.choice(recipe.max_context, p=recipe.context_shares)))
    return Window(torch.cat([latents[:, kept - first :], window.latents[:, last:]], dim=1), window.actions[:, kept:],
                  window.known[:, kept:], window.state[:, kept:], window.change[:, kept:], last - kept)


class Batches:
    """Draws batches for a `TransformerLearner`."""

    def __init__(self, learner: TransformerLearner, windows: Windows, spec: WorldSpec, device: torch.device) -> None:
        self._learner, self._windows, self._device = learner, windows, device
        _, height, width = spec.latent_shape
        self._tokens = height * width // math.prod(learner.recipe.model["patch_size"])

    def draw(self, batch: int, rng: np.random.Generator, generator: torch.Generator, done: float
             ) -> Mapping[str, Any]:
        """A batch of training, when a share `done` of the stage is over."""
        recipe = self._learner.recipe
        imagined = done >= recipe.imagined_start and rng.random() < recipe.imagined_share
        sparse = not imagined and rng.random() < recipe.sparse_share
        count = batch * (max(1, self._tokens // recipe.kept_tokens) if sparse else 1)
        window = self._windows.draw(count, rng, imagined).to(self._device)
        if imagined:
            window = imagine_context(self._learner, window, rng)
        return self.noised(window, generator, sparse=sparse)

    def noised(self, window: Window, generator: torch.Generator, *, sparse: bool = False) -> dict[str, Any]:
        """A window with noise, as the learner takes it."""
        recipe, count = self._learner.recipe, len(window.latents)
        kept = torch.randperm(self._tokens, generator=generator)[: recipe.kept_tokens] if sparse else None
        drawn: dict[str, Tensor] = {
            "sigma": noise_levels(count, recipe.shift, generator),
            "noise": torch.randn(window.latents.shape, generator=generator),
            "context_noise": recipe.context_noise * torch.rand(count, generator=generator)}
        return {"window": window, "kept": None if kept is None else kept.to(self._device),
                **{name: part.to(self._device) for name, part in drawn.items()}}


def train_transformer(
    stage: Stage, learner: TransformerLearner, windows: tuple[Windows, Windows], spec: WorldSpec, export: Any,
) -> None:
    """Train on windows of the first footage and hold out the second; `export` writes the world at every checkpoint."""
    device = stage.machine.device
    batches, held_out = (Batches(learner, some, spec, device) for some in windows)

    def draw(rng: np.random.Generator, generator: torch.Generator, done: float) -> Mapping[str, Any]:
        return batches.draw(stage.schedule.batch, rng, generator, done)

    @torch.no_grad()
    def validate() -> Mapping[str, float]:
        """Losses on the same batches of held-out windows every time."""
        losses = []
        for number in range(VALIDATION_BATCHES):
            window = windows[1].draw(32, np.random.default_rng([7, number])).to(device)
            with stage.machine.autocast():
                found = learner(**held_out.noised(window, torch.Generator().manual_seed(number)))
            losses.append({name: float(loss) for name, loss in found.items()})
        return {name: float(np.mean([loss[name] for loss in losses])) for name in losses[0]}

    stage.run(learner, optimizers_of(learner.model, learner.reader), draw, validate, export)

