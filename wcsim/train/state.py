"""Training the state model of a robot: read from latents with noise on them, predicted over several steps in a row.

Easy to get wrong: how far a reading is to be trusted against a prediction follows from both errors on held-out episodes
(the gain of a Kalman filter in its steady state, roughly), so it is set last.

Shapes: B windows, T frames of a window, P numbers of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wcsim.errors import DataError
from wcsim.spec import StateSpec
from wcsim.train.footage import Footage, LatentFootage
from wcsim.train.recipe import StateRecipe
from wcsim.train.stage import Stage
from wcsim.train.windows import starts_of
from wcsim.world.body_dynamics import previous_action
from wcsim.world.robot_state import RobotState, RobotStateConfig


def quantities_of(footage: Footage, task: StateSpec) -> tuple[tuple[tuple[str, int], ...], tuple[bool, ...]]:
    """Name and size of each quantity of the recorded state, and which numbers are angles: those of the task's robot,
    else one called `state`.  DataError where the recordings hold none, or not as many numbers."""
    if footage.state is None:
        raise DataError(f"{footage.recordings.path} has no observation.state in every episode; leave out `state_model`")
    size = footage.state.shape[1]
    if not task.robot:
        return (("state", size),), (False,) * size
    wanted = sum(quantity.size for quantity in task.robot)
    if wanted != size:
        raise DataError(f"{footage.recordings.path} has {size} numbers in observation.state; the task's robot has "
                        f"{wanted}: {', '.join(quantity.name for quantity in task.robot)}")
    return (tuple((quantity.name, quantity.size) for quantity in task.robot),
            tuple(quantity.kind == "angle" for quantity in task.robot for _ in range(quantity.size)))


class StateLearner(torch.nn.Module):
    """The losses of a state model."""

    def __init__(self, model: RobotState) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, seen: Tensor, state: Tensor, start: Tensor, actions: Tensor, known: Tensor
                ) -> dict[str, Tensor]:
        """latents: `[B, C, h, w]` with states `[B, P]` `seen`.  state: `[B, T, P]` with the noise `start` `[B, 2, P]`
        on its first two.  actions: `[B, T, A]` that led to each frame.  known: `[B]`, whether the second's was."""
        model = self.model
        latents, seen, state, start, actions, known = (
            part.to(model.mean.device) for part in (latents, seen, state, start, actions, known))
        read = F.smooth_l1_loss(model.reader(latents), model.encode(seen), beta=0.05)
        now = state[:, 1] + start[:, 1]
        before = torch.where(known.unsqueeze(1), state[:, 0] + start[:, 0], now)
        played = torch.stack(model.rollout(before, now, previous_action(actions[:, 1], known), actions[:, 2:]), dim=1)
        wrong = model.difference(played, state[:, 2:]) / model.spread
        predicted = F.smooth_l1_loss(wrong, torch.zeros_like(wrong), beta=0.5)
        return {"loss": read + predicted, "read": read, "predicted": predicted}


def fill_statistics(model: RobotState, footage: Footage) -> None:
    """Mean, deviation and spread of changes, from recorded states."""
    assert footage.state is not None
    state = torch.from_numpy(footage.state)
    model.mean.copy_(torch.where(model.angle, 0.0, state.mean(0)))
    model.std.copy_(torch.where(model.angle, 1.0, state.std(0).clamp(min=1e-6)))
    steps = model.difference(state[1:], state[:-1])[torch.from_numpy(footage.known[1:])]
    model.spread.copy_(steps.std(0).clamp(min=1e-6))


@torch.no_grad()
def errors_of(model: RobotState, footage: Footage, latents: LatentFootage) -> tuple[Tensor, Tensor]:
    """Errors of reading and of predicting one step, `[n, P]` each, over all frames with two known before them."""
    assert footage.state is not None
    device = model.mean.device
    state = torch.from_numpy(footage.state).to(device)
    read = torch.cat([model.read(torch.from_numpy(latents.latents[some : some + 256].astype(np.float32)).to(device))
                      for some in range(0, len(latents), 256)])
    actions, known = latents.actions[:, : model.config.actions].to(device), latents.known.to(device)
    index = torch.arange(2, len(state), device=device)
    index = index[known[2:] & known[1:-1]]
    said = model.step(state[index - 2], state[index - 1], previous_action(actions[index - 1], known[index - 1]),
                      actions[index])
    return model.difference(read, state), model.difference(said, state[index])


def train_state(
    stage: Stage, recipe: StateRecipe, footage: tuple[Footage, Footage], latents: tuple[LatentFootage, LatentFootage],
    task: StateSpec, actions: int, folder: Path,
) -> None:
    """Train on the first of the footages, hold out the second, and write the state model into a folder."""
    quantities, angles = quantities_of(footage[0], task)
    torch.manual_seed(stage.schedule.seed)
    model = RobotState(RobotStateConfig(
        quantities, angles, tuple(latents[0].latents.shape[1:]), actions,
        channels=recipe.channels, width=recipe.width, depth=recipe.depth))
    fill_statistics(model, footage[0])
    learner = StateLearner(model)
    assert footage[0].state is not None
    recorded = torch.from_numpy(footage[0].state)
    length = min(recipe.horizon + 2, int(latents[0].room.max()))
    starts = starts_of(latents[0], length)

    def draw(rng: np.random.Generator, generator: torch.Generator, done: float) -> Mapping[str, Any]:
        del generator, done
        count = stage.schedule.batch
        index = rng.integers(len(recorded), size=count)
        noise = recipe.latent_noise * rng.random((count, 1, 1, 1)) * rng.standard_normal(
            (count, *latents[0].latents.shape[1:]))
        window = rng.choice(starts, size=count)[:, None] + np.arange(length)
        blurred = rng.standard_normal((count, 2, model.config.size)) * rng.random((count, 1, 1)) * 0.3
        return {"latents": torch.from_numpy((latents[0].latents[index] + noise).astype(np.float32)),
                "seen": recorded[index], "state": recorded[window],
                "start": torch.from_numpy(blurred.astype(np.float32)) * model.spread.cpu(),
                "actions": latents[0].actions[window][..., :actions],
                "known": torch.from_numpy(rng.random(count) < 0.7)}

    def validate() -> Mapping[str, float]:
        read, said = errors_of(model, footage[1], latents[1])
        medians = {"read": read.abs().median(0).values, "predicted": said.abs().median(0).values}
        return {f"{kind}_{name}": float(median[place]) for kind, median in medians.items()
                for place, name in enumerate(names_of(model.config))}

    def export() -> None:
        read, said = errors_of(model, footage[1], latents[1])
        robust = [one.abs().median(0).values.square().clamp(min=1e-12) for one in (read, said)]
        model.gain.copy_(robust[0] / (robust[0] + robust[1]))
        model.save(folder)

    stage.run(learner, [torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.01)], draw, validate, export)


def names_of(config: RobotStateConfig) -> list[str]:
    """A name for every number of a state."""
    return [name if size == 1 else f"{name}_{place}" for name, size in config.quantities for place in range(size)]
