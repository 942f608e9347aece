"""Train a world's transformer on the latents of a trained codec, by rectified flow.

    python scripts/train_world.py configs/train_pusht96.yaml

Every step draws one window shape (context and chunk length), mixes windows in which the block moves with all others,
keeps the context clean but for a little noise, and regresses the velocity of the new frames.  A share of the steps
looks at a few tokens of every frame only, in as many times more windows: what a push does is learnt from many pushes,
and most of the table does not tell.  Later in the schedule a share of the contexts is the model's own imagination, so
that it learns to live with it.  Resumes from
`OUTPUT/transformer.pt`; exports `OUTPUT/world/`, a complete world, whenever it saves.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dataset import LatentEpisodes, save_atomically
from recipe import Recipe, WorldTraining
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.envs.tasks import make_task
from wcsim.train.muon import Muon
from wcsim.types import WorldSpec
from wcsim.world.body_dynamics import BodyDynamics
from wcsim.world.checkpoints import save_world
from wcsim.world.codec import Codec
from world_losses import StateReader, Window, control_of, losses_of


def draw_window(
    episodes: LatentEpisodes, training: WorldTraining, count: int, rng: np.random.Generator, imagined: bool = False
) -> Window:
    """`count` windows of one random shape; with room for a chunk more of context where one shall be `imagined`."""
    context = int(rng.choice(training.max_context, p=training.context_shares)) + 1
    chunk = int(rng.choice(training.max_chunk, p=training.chunk_shares)) + 1
    context += int(rng.integers(1, training.max_chunk + 1)) if imagined else 0
    num_episodes, num_frames = episodes.moving.shape
    last = num_frames - context - chunk
    episode, start = rng.integers(num_episodes, size=count), rng.integers(last + 1, size=count)
    moved_at = np.argwhere(episodes.moving)
    moving = rng.random(count) < training.moving_share
    chosen = moved_at[rng.integers(len(moved_at), size=count)]
    episode[moving] = chosen[moving, 0]
    start[moving] = np.clip(chosen[moving, 1] - context - rng.integers(chunk, size=count)[moving], 0, last)
    start[rng.random(count) < training.start_share] = 0
    times = start[:, None] + np.arange(context + chunk)
    known = torch.from_numpy(times > 0)
    known[:, 0] &= torch.from_numpy(rng.random(count) < 0.8)
    place = (episode[:, None], times)
    return Window(episodes.latents[place].float(), episodes.actions[place], known, episodes.states[place],
                  episodes.changes[place], context)


@torch.no_grad()
def imagine_context(
    model: ActionCosmosTransformer, window: Window, training: WorldTraining, rng: np.random.Generator,
    dynamics: BodyDynamics | None = None,
) -> Window:
    """The window with its newest context frames, one to a chunk of them, made by the model from those before, in few
    Euler steps; then only the last few stay."""
    new = min(window.context - 1, int(rng.integers(1, training.max_chunk + 1)))
    old = min(window.context - new, training.max_context)
    first, last = window.context - new - old, window.context
    frames = slice(first, last)
    latents = window.latents[:, frames].clone()
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    latents[:, old:] = torch.randn(latents[:, old:].shape, generator=generator)
    is_context = torch.arange(old + new) < old
    control = control_of(dynamics, latents[:, :old], window.actions[:, frames], window.known[:, frames])
    time = np.linspace(1.0, 0.0, int(rng.integers(1, training.imagined_steps + 1)) + 1)
    for sigma, next_sigma in pairwise(training.shift * time / (1 + (training.shift - 1) * time)):
        sigmas = torch.where(is_context, training.context_sigma, sigma).expand(len(latents), -1).float()
        mixed = latents.transpose(1, 2)
        predicted = model(
            mixed, sigma_NT=sigmas, actions_NTF=window.actions[:, frames], known_NT=window.known[:, frames],
            text_NSE=torch.zeros(len(latents), 1, model.config.text_embed_dim), clean_T=is_context.float(),
            control_NKThw=control,
        )
        velocity = model.velocity(predicted, mixed, sigmas).transpose(1, 2)
        latents[:, old:] += (next_sigma - sigma) * velocity[:, old:]
    kept = max(first, last - 1 - int(rng.choice(training.max_context, p=training.context_shares)))
    return Window(
        torch.cat([latents[:, kept - first :], window.latents[:, last:]], dim=1), window.actions[:, kept:],
        window.known[:, kept:], window.states[:, kept:], window.changes[:, kept:], last - kept,
    )


def optimizers(model: ActionCosmosTransformer, reader: StateReader) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of self-attention and feed-forward layers, AdamW for everything else but cross-attention,
    which the null text leaves at zero."""
    inner, outer = [], list(reader.parameters())
    for name, parameter in model.named_parameters():
        if ".attn2." in name:
            parameter.requires_grad_(False)
        elif parameter.ndim == 2 and (".attn1." in name or ".ff." in name):
            inner.append(parameter)
        else:
            outer.append(parameter)
    adam = torch.optim.AdamW(outer, lr=0.0, betas=(0.9, 0.99), weight_decay=0.01)
    return [Muon(inner, lr=0.0, weight_decay=0.1), adam]


@torch.no_grad()
def validation_losses(
    model: ActionCosmosTransformer, reader: StateReader, episodes: LatentEpisodes, training: WorldTraining,
    dynamics: BodyDynamics | None,
) -> np.ndarray:
    """Both losses on the same 8 batches of validation windows every time."""
    losses = []
    for number in range(8):
        window = draw_window(episodes, training, 32, np.random.default_rng([7, number]))
        generator = torch.Generator().manual_seed(number)
        losses.append([loss.item() for loss in losses_of(model, reader, window, training, generator,
                                                                dynamics=dynamics)])
    means: np.ndarray = np.mean(losses, axis=0)
    return means


def spec_of(recipe: Recipe, codec: Codec) -> WorldSpec:
    """The public description of the world in training."""
    task, training = make_task(recipe.task), recipe.transformer
    height, width = task.frame_size
    return WorldSpec(
        name=recipe.world, task=recipe.task, frame_size=task.frame_size,
        latent_shape=(codec.latent_channels, height // codec.compression, width // codec.compression),
        fps=task.fps, action=task.action, max_context=training.max_context, max_chunk=training.max_chunk,
        flow_shift=training.shift, context_sigma=training.context_sigma, default_steps=35,
        refine_steps=codec.refine_steps, labels=recipe.labels,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="training recipe (YAML)")
    recipe = Recipe.load(parser.parse_args().recipe)
    training, schedule = recipe.transformer, recipe.transformer.schedule
    checkpoint = recipe.output / "transformer.pt"
    codec = Codec.load(recipe.codec_folder, recipe.codec.refine_steps).eval()
    spec = spec_of(recipe, codec)
    train, held_out = (LatentEpisodes.load(recipe, split, codec) for split in ("train", "validation"))

    torch.manual_seed(schedule.seed)
    channels = codec.latent_channels
    dynamics = BodyDynamics.load(recipe.output / "state_model") if recipe.dynamics else None
    model = ActionCosmosTransformer(in_channels=channels + 1, out_channels=channels,
                                    action_features=spec.action.num_features,
                                    control_channels=dynamics.config.control_channels if dynamics else 0,
                                    **training.model)
    silence_cross_attention(model)
    if training.model.get("extra_pos_embed_type"):
        for table in model.learnable_pos_embed.parameters():  # stock zeros stand where its norm has no derivative
            torch.nn.init.normal_(table, std=0.02)
    reader = StateReader(model.width, train.states.shape[-1])
    groups, first = optimizers(model, reader), 0
    tokens = math.prod(spec.latent_shape[1:]) // math.prod(model.config.patch_size)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        reader.load_state_dict(saved["reader"])
        for optimizer, state in zip(groups, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first = saved["step"]

    progress = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, unit="step")
    started, recent = time.monotonic(), []
    for step in progress:
        rng = np.random.default_rng([schedule.seed, step])
        imagined = step >= training.imagined_start * schedule.steps and rng.random() < training.imagined_share
        sparse = not imagined and rng.random() < training.sparse_share
        count = schedule.batch * (max(1, tokens // training.kept_tokens) if sparse else 1)
        window = draw_window(train, training, count, rng, imagined)
        if imagined:
            window = imagine_context(model, window, training, rng, dynamics)
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
        losses = losses_of(model, reader, window, training, generator, training.kept_tokens if sparse else None,
                           dynamics)
        (losses[0] + training.state_weight * losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in groups:
            faster = training.muon_rate if isinstance(optimizer, Muon) else 1.0
            optimizer.param_groups[0]["lr"] = faster * schedule.rate(step)
            optimizer.step()
            optimizer.zero_grad()
        recent.append([loss.item() for loss in losses])
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            save_atomically({"model": model.state_dict(), "reader": reader.state_dict(), "step": step + 1,
                             "optimizers": [optimizer.state_dict() for optimizer in groups]}, checkpoint)
            save_world(recipe.output / "world", spec, model, codec, state_model=dynamics)
            seen, unseen = np.mean(recent, axis=0), validation_losses(model, reader, held_out, training, dynamics)
            progress.write(f"step {step + 1} velocity {seen[0]:.4f} (held out {unseen[0]:.4f}) state {seen[1]:.4f} "
                           f"(held out {unseen[1]:.4f}) {time.monotonic() - started:.0f} s")
            recent.clear()


def silence_cross_attention(model: ActionCosmosTransformer) -> None:
    """Zero the weights that only text would use: the null text never trains them."""
    for block in model.transformer_blocks:
        for module in block.attn2.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.zeros_(module.weight)


if __name__ == "__main__":
    main()
