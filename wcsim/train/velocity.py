"""What any backbone is fine-tuned to do: say the velocity of new latent frames, through its open contract alone.

So single frames and clips, and every family, share one loss.  Easy to get wrong: a text is read once and does not
learn, and weights that nothing reaches have no gradient and stay as they are.

Shapes: B windows, T frames, L tokens, D width, C latent channels, h w latent pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wcsim.backbones.backbone import Backbone, Text
from wcsim.errors import RunError
from wcsim.train.finetune_recipe import FineTune
from wcsim.train.losses import control_of, noise_levels
from wcsim.train.windows import Window
from wcsim.types import WorldSpec
from wcsim.world.state_model import StateModel


class VelocityLearner(nn.Module):
    """The loss of a backbone.  text: as the backbone reads it, one for all windows.  state_model: what draws the
    control maps that it reads, if it reads any.  checkpointing: whether blocks run again in the backward pass."""

    def __init__(self, backbone: Backbone, text: Text, spec: WorldSpec, recipe: FineTune, *, checkpointing: bool,
                 state_model: StateModel | None = None) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.text, self.spec, self.recipe, self.checkpointing = text, spec, recipe, checkpointing
        self.state_model = None if state_model is None else state_model.requires_grad_(False)

    def forward(self, window: Window, sigma: Tensor, noise: Tensor, context_noise: Tensor, blocks: int | None = None
                ) -> dict[str, Tensor]:
        """sigma: `[B]` noise level of the new frames.  noise: `[B, T, C, h, w]` standard normal.  context_noise: `[B]`
        deviation of the noise on the context.  blocks: that run, all of them by default."""
        # A backbone of mixed types rounds where it means to; autocast would round its float32 parts, too.
        device, by_itself = window.latents.device.type, self.backbone.compute_dtype != torch.float32
        with torch.autocast(device, enabled=False) if by_itself and device != "meta" else nullcontext():
            return self._loss(window, sigma, noise, context_noise, blocks)

    def _loss(self, window: Window, sigma: Tensor, noise: Tensor, context_noise: Tensor, blocks: int | None
              ) -> dict[str, Tensor]:
        model, spec, clean = self.backbone, self.spec, window.latents
        is_context = torch.arange(clean.shape[1], device=clean.device) < window.context
        level = sigma.view(-1, 1, 1, 1, 1)
        mixed = torch.where(is_context.view(1, -1, 1, 1, 1), clean + context_noise.view(-1, 1, 1, 1, 1) * noise,
                            (1 - level) * clean + level * noise)
        told = (1000 * sigma).floor() / 1000 if spec.timesteps == "whole" else sigma
        new = told.unsqueeze(1).expand(-1, clean.shape[1])
        levels = torch.where(is_context, spec.context_sigma if spec.context_sigma >= 0 else new, new)
        control = control_of(self.state_model, mixed[:, : window.context], window.actions, window.known)
        latents = mixed.transpose(1, 2)
        constants = model.prepare(latents, window.actions, window.known, self.text, control)
        modulation = model.modulations(levels.unsqueeze(0), constants)[0]
        tokens, given = model.embed_step(latents, modulation, is_context.to(latents), constants)
        for index in range(model.depth if blocks is None else blocks):
            tokens = self._block(tokens, index, given)
        said = model.head(tokens, given, latents, levels).transpose(1, 2).float()
        error = (said - (noise - clean))[:, window.context :].square()
        weight = 1.0 + self.recipe.change_weight * (
            clean[:, window.context :] - clean[:, window.context - 1 : -1]).abs().mean(2, keepdim=True).clamp(max=1.0)
        velocity = (weight * error).mean() / weight.mean()
        return {"loss": velocity, "velocity": velocity}

    def _block(self, tokens: Tensor, index: int, given: Any) -> Tensor:
        run = self.backbone.run_blocks
        if not self.checkpointing:
            found: Tensor = run(tokens, index, index + 1, given)
            return found
        again: Tensor = checkpoint(run, tokens, index, index + 1, given, use_reentrant=False, preserve_rng_state=False)
        return again

    def state_dict(self, *given: Any, **named: Any) -> dict[str, Any]:  # type: ignore[override]  # one form of two
        """What learns, alone: the rest lies in the base."""
        names = {name for name, weight in self.named_parameters() if weight.requires_grad}
        return {name: value for name, value in super().state_dict(*given, **named).items() if name in names}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """What `state_dict` gave.  RunError where other weights learn now."""
        if strict and state_dict.keys() != self.state_dict().keys():
            raise RunError("the checkpoint holds other weights than learn now; train into another folder")
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def noised(window: Window, recipe: FineTune, shift: float, generator: torch.Generator) -> dict[str, Any]:
    """A window with noise, as the learner takes it."""
    count, device = len(window.latents), window.latents.device
    drawn = {"sigma": noise_levels(count, shift, generator),
             "noise": torch.randn(window.latents.shape, generator=generator),
             "context_noise": recipe.context_noise * torch.rand(count, generator=generator)}
    return {"window": window, **{name: part.to(device) for name, part in drawn.items()}}
