"""Train a world's dynamics: where the bodies are in a latent frame, and where they go.

    python scripts/train_dynamics.py configs/train_pusht96.yaml

The estimator learns on the latents of the trained codec with noise on them, the forward model on the simulator's poses
with the estimator's own errors on them.  The recipe's landmarks are the bodies.  Resumes from `OUTPUT/dynamics.pt`;
exports `OUTPUT/state_model/`, and says how well bodies are read and predicted on held-out episodes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from dataset import LatentEpisodes, moves, poses_of, read_split, save_atomically
from recipe import DynamicsTraining, Recipe, Schedule
from wcsim.actions import features
from wcsim.envs.tasks import make_task
from wcsim.world.body_dynamics import BodyDynamics, BodyDynamicsConfig, Estimator, previous_action
from wcsim.world.body_poses import columns, difference
from wcsim.world.codec import Codec


@dataclass(frozen=True, slots=True)
class Steps:
    """Poses `[E, T+1, P]`, the actions' coordinates `[E, T, A]`, the t-th leads to frame t+1, and whether what matters
    moves on the way `[E, T]` bool."""

    poses: Tensor
    actions: Tensor
    moving: np.ndarray

    @classmethod
    def load(cls, recipe: Recipe, split: str) -> Steps:
        """What was recorded of a split."""
        task = make_task(recipe.task)
        actions, states = read_split(recipe.data, split, ("actions", "states"))
        coordinates = torch.from_numpy(features(task.action, actions)[..., : task.action.dim])
        return cls(poses_of(states, recipe, task.frame_size[1]), coordinates, moves(states, recipe))

    @property
    def before(self) -> Tensor:
        """Poses `[E, T, P]` one step before each frame but the last; nothing moves before an episode begins."""
        return torch.cat([self.poses[:, :1], self.poses[:, :-2]], dim=1)

    @property
    def previous(self) -> Tensor:
        """The action that led to each frame but the last, `[E, T, A+1]`: to the first, nothing that is known."""
        known = torch.arange(self.actions.shape[1]).expand(self.actions.shape[:2]) > 0
        return previous_action(self.actions.roll(1, dims=1), known)


def config_of(recipe: Recipe, codec: Codec) -> BodyDynamicsConfig:
    """The networks that a recipe asks for."""
    task = make_task(recipe.task)
    height, width = task.frame_size
    return BodyDynamicsConfig(
        angled=tuple(landmark.angle is not None for landmark in recipe.codec.landmarks),
        latent_shape=(codec.latent_channels, height // codec.compression, width // codec.compression),
        actions=task.action.dim, names=tuple(landmark.name for landmark in recipe.codec.landmarks),
        extent=(width / recipe.codec.pixels_per_unit, height / recipe.codec.pixels_per_unit), labels=recipe.labels,
        **training_of(recipe).model,
    )


def training_of(recipe: Recipe) -> DynamicsTraining:
    """The recipe's section; SystemExit without one."""
    if recipe.dynamics is None:
        raise SystemExit("the recipe has no section `dynamics`")
    return recipe.dynamics


def learn(
    part: torch.nn.Module, schedule: Schedule, loss: Callable[[np.random.Generator], Tensor], state: dict[str, Any],
    save: Callable[[], None], name: str,
) -> None:
    """Train one part from the step where `state` left it; `save` writes `state` down."""
    optimizer = torch.optim.AdamW(part.parameters(), lr=0.0, weight_decay=0.01)
    if name in state:
        part.load_state_dict(state[name]["part"])
        optimizer.load_state_dict(state[name]["optimizer"])
    first = state[name]["step"] if name in state else 0
    for step in tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, desc=name, mininterval=5):
        optimizer.param_groups[0]["lr"] = schedule.rate(step)
        loss(np.random.default_rng([schedule.seed, step])).backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            state[name] = {"part": part.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save()


def pose_loss(estimator: Estimator, latents: Tensor, poses: Tensor) -> Tensor:
    """Distance of what the estimator reads from poses `[B, P]`, places and angles alike (Huber)."""
    places, angles = estimator(latents)
    error = torch.zeros((), device=latents.device)
    turned = iter(angles.unbind(1))
    for body, (place, own) in enumerate(columns(estimator.angled)):
        error = error + F.smooth_l1_loss(places[:, body], poses[:, place], beta=0.01)
        if own is not None:
            target = torch.stack([poses[:, own].cos(), poses[:, own].sin()], dim=1)
            error = error + 0.3 * F.smooth_l1_loss(next(turned), target, beta=0.02)
    return error


@torch.no_grad()
def read_all(dynamics: BodyDynamics, latents: Tensor) -> Tensor:
    """Poses `[E, T, P]` of latents `[E, T, C, h, w]`."""
    return torch.stack([dynamics.estimator.read(episode.float()) for episode in latents])


@torch.no_grad()
def report(dynamics: BodyDynamics, held_out: LatentEpisodes, steps: Steps, units: float) -> None:
    """Median errors on held-out episodes: read, then predicted from true and from read poses."""
    read = read_all(dynamics, held_out.latents)
    starts = {"true": steps.poses[:, 2:4], "read": read[:, 2:4]}
    sizes = [("read", difference(dynamics.config.angled, read, steps.poses).flatten(0, 1), 0)]
    for name, start in starts.items():
        said = torch.stack(dynamics.forward_model.rollout(
            start[:, 0], start[:, 1], steps.previous[:, 3], steps.actions[:, 3:]), dim=1)
        wrong = difference(dynamics.config.angled, said, steps.poses[:, 4:])
        sizes += [(f"{name} + {k}", wrong[:, k - 1], k) for k in (1, 2, 4, 8, 16, 32) if k <= wrong.shape[1]]
    for name, wrong, horizon in sizes:
        errors = []
        for body, (place, own) in enumerate(columns(dynamics.config.angled)):
            keep = torch.ones(len(wrong), dtype=torch.bool)
            if horizon:
                gone = (steps.poses[:, 3 : 4 + horizon, place] - steps.poses[:, 3:4, place]).norm(dim=-1).amax(1)
                keep = gone * units > 2
            far = wrong[keep][:, place].norm(dim=-1) * units
            text = f"body {body}: {far.median():.1f} units"
            if own is not None:
                text += f", {wrong[keep][:, own].abs().rad2deg().median():.1f} degrees"
            errors.append(text)
        print(f"{name}: {'; '.join(errors)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="training recipe (YAML)")
    recipe = Recipe.load(parser.parse_args().recipe)
    training = training_of(recipe)
    codec = Codec.load(recipe.codec_folder, recipe.codec.refine_steps).eval()
    splits = {split: LatentEpisodes.load(recipe, split, codec) for split in ("train", "validation")}
    size = make_task(recipe.task).frame_size[1]
    torch.manual_seed(training.estimator.seed)
    dynamics = BodyDynamics(config_of(recipe, codec))
    units = size / 2 / recipe.codec.pixels_per_unit
    steps = {split: Steps.load(recipe, split) for split in {*splits, training.split}}

    checkpoint = recipe.output / "dynamics.pt"
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else {}

    def save() -> None:
        save_atomically(state, checkpoint)

    latents, poses = splits["train"].latents, steps["train"].poses

    def estimator_loss(rng: np.random.Generator) -> Tensor:
        count = training.estimator.batch
        place = (rng.integers(poses.shape[0], size=count), rng.integers(poses.shape[1], size=count))
        noise = training.latent_noise * rng.random((count, 1, 1, 1)) * rng.standard_normal((count, *latents.shape[2:]))
        return pose_loss(dynamics.estimator, latents[place].float() + torch.from_numpy(noise).float(), poses[place])

    learn(dynamics.estimator, training.estimator, estimator_loss, state, save, "estimator")
    # Half of what counts lies within the quartiles; a few wild readings shall not make noise of everything.
    read = read_all(dynamics, splits["validation"].latents)
    wrong = difference(dynamics.config.angled, read, steps["validation"].poses)
    noise_scale = 1.4826 * wrong.flatten(0, 1).abs().median(0).values
    forward, learnt = dynamics.forward_model, steps[training.split]
    before, now, last, action, then = (each.flatten(0, 1) for each in (
        learnt.before, learnt.poses[:, :-1], learnt.previous, learnt.actions, learnt.poses[:, 1:]))
    pushes = np.flatnonzero(learnt.moving) if learnt.moving.any() else np.arange(learnt.moving.size)
    with torch.no_grad():
        features_ = forward.features(before, now, last, action)
        forward.offset.copy_(features_.mean(0))
        forward.scale.copy_(1 / features_.std(0).clamp(min=1e-3))
        forward.spread.copy_(forward.change(now, then).std(0))

    def forward_loss(rng: np.random.Generator) -> Tensor:
        count = training.forward.batch
        chosen = torch.from_numpy(np.where(rng.random(count) < training.moving_share,
                                           rng.choice(pushes, size=count), rng.integers(len(now), size=count)))
        noise = torch.from_numpy(rng.standard_normal((2, count, len(noise_scale)))).float() * noise_scale
        noise = noise * torch.from_numpy(rng.random((count, 1))).float()
        begins = (chosen % learnt.actions.shape[1] == 0).unsqueeze(1)  # what was read is then read once
        first, second = before[chosen] + torch.where(begins, noise[1], noise[0]), now[chosen] + noise[1]
        said = forward.predict(first, second, last[chosen], action[chosen])
        # A hit that is nearly a miss is wrong by far whatever is learnt, and shall not outweigh the pushes.
        return F.smooth_l1_loss(said, forward.change(second, then[chosen]) / forward.spread, beta=0.3)

    learn(forward, training.forward, forward_loss, state, save, "forward model")
    dynamics.save(recipe.output / "state_model")
    report(dynamics, splits["validation"], steps["validation"], units)


if __name__ == "__main__":
    main()
