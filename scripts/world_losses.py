"""What a world's transformer is trained to do: say the velocity of new frames, and where everything goes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from recipe import WorldTraining
from wcsim.backbones.cosmos2.attention import Position
from wcsim.backbones.cosmos2.conditioning import Conditioning
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.world.body_dynamics import BodyDynamics


@dataclass(frozen=True, slots=True)
class Window:
    """A batch: latents `[B, T, C, h, w]`, actions `[B, T, F]`, known `[B, T]`, states and changes `[B, T, S]`;
    `context` frames are clean."""

    latents: Tensor
    actions: Tensor
    known: Tensor
    states: Tensor
    changes: Tensor
    context: int


class StateReader(torch.nn.Module):
    """Reads the simulator's state of every frame, and its change since the frame before, from the tokens halfway up;
    used in training only.

    Its loss tells the lower blocks, without the detour over pixels, what a step does to the scene.
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
def control_of(dynamics: BodyDynamics | None, context: Tensor, actions: Tensor, known: Tensor) -> Tensor | None:
    """The control maps `[B, K, T, h, w]` of a window that begins with a context `[B, m, C, h, w]`; None without
    dynamics."""
    if dynamics is None:
        return None
    past = context.shape[1]
    empty = context.new_zeros(len(context), 0, dynamics.config.pose_size)
    poses = dynamics.update(empty, context, actions[:, :past], known[:, :past], seen=True)
    return dynamics.control(poses, actions, known[:, :past])


def losses_of(
    model: ActionCosmosTransformer, reader: StateReader, window: Window, training: WorldTraining,
    generator: torch.Generator, kept_tokens: int | None = None, dynamics: BodyDynamics | None = None,
) -> tuple[Tensor, Tensor]:
    """Squared error of the velocity on new frames, latent pixels that change weighing more, and of the states read.

    kept_tokens: how many tokens of every frame the blocks see, at places drawn for the batch; None for all.
    dynamics: what predicts the bodies from the context as the model sees it.
    """
    clean = window.latents
    count, frames = clean.shape[:2]
    # Stratified: every batch covers all noise levels, which takes much of the variance out of its gradient.
    quantile = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    sigma = torch.sigmoid(torch.special.ndtri(quantile.clamp(1e-4, 1 - 1e-4)))
    sigma = training.shift * sigma / (1 + (training.shift - 1) * sigma)
    noise = torch.randn(clean.shape, generator=generator)
    context_noise = training.context_noise * torch.rand(count, 1, 1, 1, 1, generator=generator)
    is_context = torch.arange(frames) < window.context
    level = sigma.view(-1, 1, 1, 1, 1)
    mixed = torch.where(is_context.view(1, -1, 1, 1, 1), clean + context_noise * noise,
                        (1 - level) * clean + level * noise)
    sigmas = torch.where(is_context, training.context_sigma, sigma.unsqueeze(1))
    latents = mixed.transpose(1, 2)
    control = control_of(dynamics, mixed[:, : window.context], window.actions, window.known)
    tokens, given = model.embed(
        latents, sigmas, window.actions, window.known, torch.zeros(count, 1, model.config.text_embed_dim),
        is_context.float(), model.position(latents), control,
    )
    weight = 1.0 + training.change_weight * (
        clean[:, window.context :] - clean[:, window.context - 1 : -1]).abs().mean(2, keepdim=True).clamp(max=1.0)
    target = (noise - clean)[:, window.context :]
    if kept_tokens is not None:
        kept = torch.randperm(given.grid[1] * given.grid[2], generator=generator)[:kept_tokens]
        tokens, given = thin(tokens, given, kept)
        mixed, target, weight = (patches(maps, model.config.patch_size, kept) for maps in (mixed, target, weight))
        latents = mixed.transpose(1, 2)
    tokens = model.run_blocks(tokens, 0, model.depth // 2, given)
    read, change = reader(tokens, frames)
    predicted = model.unembed(model.run_blocks(tokens, model.depth // 2, model.depth, given), given)
    velocity = model.velocity(predicted, latents, sigmas).transpose(1, 2)
    error = (velocity[:, window.context :] - target).square()
    state_error = (read - window.states).square().mean(-1)
    new = slice(window.context, None)
    change_error = F.smooth_l1_loss(change[:, new], window.changes[:, new])
    return (weight * error).mean() / weight.mean(), state_error[:, new].mean() + state_error.mean() + change_error
