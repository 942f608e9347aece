"""What a world's transformer is trained to do: say the velocity of new frames and, where recorded, the robot's state.

No metric is in a loss: what a world is judged by is read from its frames.

Shapes: B windows, T frames, L tokens, D width, C latent channels, h w latent pixels, R robot state.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wcsim.backbones.cosmos2.attention import Position
from wcsim.backbones.cosmos2.conditioning import Conditioning
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.train.recipe import TransformerRecipe
from wcsim.train.windows import Window
from wcsim.world.state_model import StateModel


class StateReader(torch.nn.Module):
    """Reads the robot's state of every frame, and its change since the frame before, from the tokens halfway up; used
    in training only.

    Its loss tells the lower blocks, without the detour over pixels, what an action does to the robot.
    """

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, 2 * width), torch.nn.GELU(),
                                          torch.nn.Linear(2 * width, width))
        self.out = torch.nn.Linear(width, states)
        self.change = torch.nn.Linear(width, states)

    def forward(self, tokens_BLD: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """States and changes `[B, T, S]`: every token says what it sees, and their mean is read."""
        said: Tensor = self.layers(tokens_BLD.unflatten(1, (frames, -1))).mean(2)
        return self.out(said), self.change(said)


def thin(tokens_BLD: Tensor, given: Conditioning, kept: Tensor) -> tuple[Tensor, Conditioning]:
    """Tokens, and what the blocks read beside them, of the places `kept` of every frame alone."""
    frames = given.grid[0]

    def select(per_token: Tensor, dim: int) -> Tensor:
        chosen: Tensor = per_token.unflatten(dim, (frames, -1)).index_select(dim + 1, kept).flatten(dim, dim + 1)
        return chosen

    (cos, sin), place = given.position.rope, given.position.place
    position = Position((select(cos, 0), select(sin, 0)), None if place is None else place[:, :, kept])
    return select(tokens_BLD, 1), replace(given, position=position, grid=(frames, len(kept), 1))


def patches(latents_BTChw: Tensor, patch: tuple[int, int, int], kept: Tensor) -> Tensor:
    """The latent pixels of the places `kept` of every frame, one above the other: `[B, T, C, K * rows, columns]`."""
    _, rows, columns = patch
    grid = latents_BTChw.unflatten(4, (-1, columns)).unflatten(3, (-1, rows)).transpose(4, 5)
    chosen: Tensor = grid.flatten(3, 4)[:, :, :, kept].flatten(3, 4)
    return chosen


@torch.no_grad()
def control_of(state_model: StateModel | None, context: Tensor, actions: Tensor, known: Tensor) -> Tensor | None:
    """The control maps `[B, K, T, h, w]` of a window that begins with a context `[B, m, C, h, w]`; None where nothing
    draws any."""
    if state_model is None or not state_model.control_channels:
        return None
    past = context.shape[1]
    empty = context.new_zeros(len(context), 0, state_model.memory_size)
    memory = state_model.update(empty, context, actions[:, :past], known[:, :past], seen=True)
    return state_model.control(memory, actions, known[:, :past])


def noise_levels(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """`[B]` noise levels in (0, 1), logit-normal, moved by `shift`; stratified, so that every batch covers them all,
    which takes much of the variance out of its gradient."""
    quantile = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    sigma = torch.sigmoid(torch.special.ndtri(quantile.clamp(1e-4, 1 - 1e-4)))
    return shift * sigma / (1 + (shift - 1) * sigma)


class TransformerLearner(torch.nn.Module):
    """The losses of a transformer.  reader: None where no robot state is used.  state_model: what draws the control
    maps that the transformer reads, if it reads any."""

    def __init__(self, model: ActionCosmosTransformer, reader: StateReader | None, recipe: TransformerRecipe,
                 state_model: StateModel | None = None) -> None:
        super().__init__()
        self.model, self.reader, self.recipe = model, reader, recipe
        self.state_model = None if state_model is None else state_model.requires_grad_(False)

    def forward(self, window: Window, sigma: Tensor, noise: Tensor, context_noise: Tensor, kept: Tensor | None = None
                ) -> dict[str, Tensor]:
        """sigma: `[B]` noise level of the new frames.  noise: `[B, T, C, h, w]` standard normal.  context_noise: `[B]`
        deviation of the noise on the context.  kept: which tokens of every frame the blocks see; None for all."""
        model, recipe = self.model, self.recipe
        clean = window.latents
        count, frames = clean.shape[:2]
        is_context = torch.arange(frames, device=clean.device) < window.context
        level = sigma.view(-1, 1, 1, 1, 1)
        mixed = torch.where(is_context.view(1, -1, 1, 1, 1), clean + context_noise.view(-1, 1, 1, 1, 1) * noise,
                            (1 - level) * clean + level * noise)
        sigmas = torch.where(is_context, recipe.context_sigma, sigma.unsqueeze(1))
        latents = mixed.transpose(1, 2)
        control = control_of(self.state_model, mixed[:, : window.context], window.actions, window.known)
        tokens, given = model.embed(
            latents, sigmas, window.actions, window.known, clean.new_zeros(count, 1, model.config.text_embed_dim),
            is_context.float(), model.position(latents), control)
        weight = 1.0 + recipe.change_weight * (
            clean[:, window.context :] - clean[:, window.context - 1 : -1]).abs().mean(2, keepdim=True).clamp(max=1.0)
        target = (noise - clean)[:, window.context :]
        if kept is not None:
            tokens, given = thin(tokens, given, kept)
            mixed, target, weight = (patches(maps, model.config.patch_size, kept) for maps in (mixed, target, weight))
            latents = mixed.transpose(1, 2)
        half = model.depth // 2
        tokens = model.run_blocks(tokens, 0, half, given)
        predicted = model.unembed(model.run_blocks(tokens, half, model.depth, given), given)
        velocity = model.velocity(predicted.float(), latents, sigmas).transpose(1, 2)
        error = (velocity[:, window.context :] - target).square()
        losses = {"velocity": (weight * error).mean() / weight.mean()}
        if self.reader is None:
            return {"loss": losses["velocity"], **losses}
        losses["robot_state"] = state_loss(self.reader, tokens, window)
        return {"loss": losses["velocity"] + recipe.state_weight * losses["robot_state"], **losses}


def state_loss(reader: StateReader, tokens_BLD: Tensor, window: Window) -> Tensor:
    """Squared error of the state that is read, and the error of its change in new frames (Huber)."""
    read, change = reader(tokens_BLD, window.latents.shape[1])
    wrong = (read.float() - window.state).square().mean(-1)
    new = slice(window.context, None)
    loss: Tensor = wrong[:, new].mean() + wrong.mean() + F.smooth_l1_loss(change[:, new].float(), window.change[:, new])
    return loss
