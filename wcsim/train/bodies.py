"""Training a state model of bodies: where they are in a latent frame, and where they go.  Privileged.

The estimator learns on the codec's latents with noise on them, the forward model on the simulator's poses with the
estimator's own errors on them.  The recipe's landmarks are the bodies.  Easy to get wrong: steps of the forward model
come from a simulator that explores on its own, since they need no frames and far more of them than recordings have.

Shapes: E episodes, T actions, S numbers of the simulator's state, P numbers of a pose, A action, B steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wcsim.actions import features
from wcsim.envs.tasks import Task, make_task, watch_exploration
from wcsim.errors import ConfigError
from wcsim.train.footage import Count, Footage, LatentFootage, kept
from wcsim.train.privileged import poses_of
from wcsim.train.privileged_recipe import Bodies, Privileged
from wcsim.train.stage import Stage
from wcsim.types import WorldSpec
from wcsim.world.body_dynamics import BodyDynamics, BodyDynamicsConfig, Estimator, ForwardModel, previous_action
from wcsim.world.body_poses import columns, difference

RESERVED = 900_000
"""Seeds from here on are never trained on."""
HELD_OUT, HORIZONS = 50, (1, 8, 32)
"""One of so many episodes of exploration is held out, and predicted so many steps ahead."""
SHARD = 64
"""Episodes that a worker plays at a time."""


def explored(recipe: Bodies, task: str, path: Path, count: Count) -> np.ndarray:
    """State and action `[E, T+1, S+A]` float32 of every step of the task's exploration, kept in a file: those of an
    action's row led to the state beside it."""
    last = recipe.first_seed + recipe.episodes
    if last > RESERVED:
        raise ConfigError(f"privileged.bodies reaches seed {last}; seeds from {RESERVED} up are reserved")
    shards = [range(first, min(first + SHARD, last)) for first in range(recipe.first_seed, last, SHARD)]
    play = partial(play_shard, task=task, steps=recipe.steps)

    def played() -> Iterator[np.ndarray]:
        if recipe.workers == 1:
            yield from map(play, shards)
            return
        with ProcessPoolExecutor(recipe.workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(play, shards)

    size = play(range(recipe.first_seed, recipe.first_seed + 1)).shape
    return kept(path, (recipe.episodes, *size[1:]), np.dtype(np.float32), played, count)


def play_shard(seeds: range, *, task: str, steps: int) -> np.ndarray:
    """`[E, T+1, S+A]` of some seeds; the first row's action is zero."""
    made, found = make_task(task), []
    for seed in seeds:
        states, actions = watch_exploration(made, seed, steps, lambda truth: np.array(truth.state))
        found.append(np.concatenate([np.array(states), np.pad(actions, ((1, 0), (0, 0)))], axis=1))
    return np.array(found, np.float32)


@dataclass(frozen=True, slots=True)
class Steps:
    """Poses `[E, T+1, P]`, the actions' coordinates `[E, T, A]`, the t-th leads to frame t+1, and whether what matters
    moves on the way `[E, T]` bool."""

    poses: Tensor
    actions: Tensor
    moving: np.ndarray

    @classmethod
    def of(cls, played: np.ndarray, recipe: Privileged, bodies: Bodies, task: Task) -> Steps:
        """What `explored` played."""
        states, actions = np.split(played, [played.shape[-1] - task.action.dim], axis=-1)
        coordinates = torch.from_numpy(features(task.action, actions[:, 1:])[..., : task.action.dim])
        change = np.abs(np.diff(states[..., list(bodies.moving_columns)], axis=1)).max(-1)
        return cls(poses_of(states, recipe, task.frame_size[1]), coordinates, change > bodies.moving_change)

    def part(self, episodes: slice) -> Steps:
        """Those of some episodes."""
        return Steps(self.poses[episodes], self.actions[episodes], self.moving[episodes])

    @property
    def before(self) -> Tensor:
        """Poses `[E, T, P]` one step before each frame but the last; nothing moves before an episode begins."""
        return torch.cat([self.poses[:, :1], self.poses[:, :-2]], dim=1)

    @property
    def previous(self) -> Tensor:
        """The action that led to each frame but the last, `[E, T, A+1]`: to the first, nothing that is known."""
        known = torch.arange(self.actions.shape[1]).expand(self.actions.shape[:2]) > 0
        return previous_action(self.actions.roll(1, dims=1), known)


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


class Reads(nn.Module):
    """The loss of an estimator."""

    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, latents: Tensor, poses: Tensor) -> dict[str, Tensor]:
        """latents: `[B, C, h, w]`.  poses: `[B, P]`."""
        device = self.estimator.rows.device
        return {"loss": pose_loss(self.estimator, latents.to(device), poses.to(device))}


class Predicts(nn.Module):
    """The loss of a forward model."""

    def __init__(self, model: ForwardModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, before: Tensor, now: Tensor, last: Tensor, action: Tensor, then: Tensor) -> dict[str, Tensor]:
        """Poses `[B, P]` with noise, the actions of `ForwardModel.predict`, and the pose that follows."""
        model = self.model
        before, now, last, action, then = (part.to(model.spread.device) for part in (before, now, last, action, then))
        said = model.predict(before, now, last, action)
        # A hit that is nearly a miss is wrong by far whatever is learnt, and shall not outweigh the pushes.
        return {"loss": F.smooth_l1_loss(said, model.change(now, then) / model.spread, beta=0.3)}


def config_of(recipe: Privileged, bodies: Bodies, spec: WorldSpec) -> BodyDynamicsConfig:
    """The networks that a recipe asks for."""
    height, width = spec.frame_size
    return BodyDynamicsConfig(
        angled=tuple(landmark.angle is not None for landmark in recipe.landmarks), latent_shape=spec.latent_shape,
        actions=spec.action.dim, names=tuple(landmark.name for landmark in recipe.landmarks),
        extent=(width / recipe.pixels_per_unit, height / recipe.pixels_per_unit), labels=recipe.labels, **bodies.model)


@torch.no_grad()
def read_all(estimator: Estimator, latents: LatentFootage) -> Tensor:
    """Poses `[F, P]` of all latents."""
    device = estimator.rows.device
    return torch.cat([estimator.read(torch.from_numpy(latents.latents[some : some + 256].astype(np.float32)).to(device)
                                     ).cpu() for some in range(0, len(latents), 256)])


def train_bodies(
    stage: Callable[[str], Stage], recipe: Privileged, footage: tuple[Footage, Footage],
    latents: tuple[LatentFootage, LatentFootage], spec: WorldSpec, steps: Steps, folder: Path,
) -> None:
    """Train on the first of the footages, hold out the second, and write the state model into a folder.  stage: makes
    `estimator` and `forward_model`."""
    bodies = recipe.bodies
    assert bodies is not None
    torch.manual_seed(bodies.estimator.seed)
    dynamics = BodyDynamics(config_of(recipe, bodies, spec))
    angled, frame_px = dynamics.config.angled, spec.frame_size[1]
    poses, held_out = (poses_of(part.simulator, recipe, frame_px) for part in footage if part.simulator is not None)
    units = frame_px / 2 / recipe.pixels_per_unit

    def errors(wrong: Tensor, kind: str) -> dict[str, float]:
        """Medians, in the task's units and in degrees, of errors `[n, P]`."""
        found = {}
        for name, (place, own) in zip(dynamics.config.bodies, columns(angled), strict=True):
            found[f"{kind}_{name}"] = float(wrong[:, place].norm(dim=-1).median()) * units
            if own is not None:
                found[f"{kind}_{name}_degrees"] = float(wrong[:, own].abs().rad2deg().median())
        return found

    def draw_frames(rng: np.random.Generator, generator: torch.Generator, done: float) -> Mapping[str, Any]:
        del generator, done
        count = bodies.estimator.batch
        index = rng.integers(len(poses), size=count)
        noise = bodies.latent_noise * rng.random((count, 1, 1, 1)) * rng.standard_normal(
            (count, *latents[0].latents.shape[1:]))
        return {"latents": torch.from_numpy((latents[0].latents[index] + noise).astype(np.float32)),
                "poses": poses[index]}

    def wrong_of_reading() -> Tensor:
        return difference(angled, read_all(dynamics.estimator, latents[1]), held_out)

    reads = Reads(dynamics.estimator)
    stage("estimator").run(reads, [adam(reads)], draw_frames, lambda: errors(wrong_of_reading(), "read"), lambda: None)
    # Half of what counts lies within the quartiles; a few wild readings shall not make noise of everything.
    noise_scale = 1.4826 * wrong_of_reading().abs().median(0).values
    forward, rested = dynamics.forward_model, max(1, len(steps.poses) // HELD_OUT)
    unseen, steps = steps.part(slice(-rested, None)), steps.part(slice(0, max(1, len(steps.poses) - rested)))
    before, now, last, action, then = (each.flatten(0, 1) for each in (
        steps.before, steps.poses[:, :-1], steps.previous, steps.actions, steps.poses[:, 1:]))
    pushes = np.flatnonzero(steps.moving) if steps.moving.any() else np.arange(steps.moving.size)
    fill_statistics(forward, before, now, last, action, then)

    def draw_steps(rng: np.random.Generator, generator: torch.Generator, done: float) -> Mapping[str, Any]:
        del generator, done
        count = bodies.forward.batch
        chosen = torch.from_numpy(np.where(rng.random(count) < bodies.moving_share, rng.choice(pushes, size=count),
                                           rng.integers(len(now), size=count)))
        noise = torch.from_numpy(rng.standard_normal((2, count, len(noise_scale)))).float() * noise_scale
        noise = noise * torch.from_numpy(rng.random((count, 1))).float()
        begins = (chosen % steps.actions.shape[1] == 0).unsqueeze(1)  # what was read is then read once
        return {"before": before[chosen] + torch.where(begins, noise[1], noise[0]), "now": now[chosen] + noise[1],
                "last": last[chosen], "action": action[chosen], "then": then[chosen]}

    predicts = Predicts(forward)
    stage("forward_model").run(predicts, [adam(predicts)], draw_steps,
                               lambda: {name: value for k, wrong in played(forward, unseen).items()
                                        for name, value in errors(wrong, f"after_{k}").items()},
                               lambda: dynamics.cpu().save(folder))


@torch.no_grad()
def played(model: ForwardModel, steps: Steps) -> dict[int, Tensor]:
    """Errors `[E, P]` of poses predicted so many steps ahead from the third and fourth of every episode."""
    device = model.spread.device
    poses, actions, previous = (part.to(device) for part in (steps.poses, steps.actions, steps.previous))
    said = model.rollout(poses[:, 2], poses[:, 3], previous[:, 3], actions[:, 3:])
    return {k: difference(model.config.angled, said[k - 1], poses[:, 3 + k]).cpu() for k in HORIZONS if k <= len(said)}


@torch.no_grad()
def fill_statistics(model: ForwardModel, before: Tensor, now: Tensor, last: Tensor, action: Tensor, then: Tensor
                    ) -> None:
    """Offset, scale and spread, from poses `[n, P]` and actions."""
    read = model.features(before, now, last, action)
    model.offset.copy_(read.mean(0))
    model.scale.copy_(1 / read.std(0).clamp(min=1e-3))
    model.spread.copy_(model.change(now, then).std(0))


def adam(module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of both."""
    return torch.optim.AdamW(module.parameters(), lr=0.0, weight_decay=0.01)
