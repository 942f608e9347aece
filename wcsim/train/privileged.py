"""The state of a simulator at every frame of recordings, by playing their actions again from their seeds.

So a dataset holds nothing privileged, and whatever a recipe takes is taken here.  Easy to get wrong: it is only the
truth of these recordings if the simulator plays them again, so some last frames are compared.

Shapes: E episodes, T actions, F frames in all, A action, S numbers of the simulator's state, K maps, h w latent pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wcsim.envs.tasks import Task
from wcsim.errors import DataError
from wcsim.train.footage import Count, Footage, kept
from wcsim.train.privileged_recipe import Landmark, Privileged
from wcsim.world.body_poses import bump_maps

COMPARED, TOLERANCE = 8, 2.0
"""Episodes whose last frames are compared, and the most mean distance of their values, of 255."""

LANDMARK_GAIN = 3.0
"""Height of a landmark's bump in latent units before normalisation."""


def with_simulator(footage: Footage, task: Task, path: Path, count: Count) -> Footage:
    """Footage with the simulator's state at every frame, `[F, S]` float32, kept in a file.  DataError where an episode
    has no seed, or the simulator does not play it again."""
    compared = set(np.linspace(0, len(footage.numbers) - 1, COMPARED).round().astype(int).tolist())

    def played() -> Iterator[np.ndarray]:
        truth = task.make_truth()
        try:
            for number in range(len(footage.numbers)):
                yield play(footage, task, truth, number, compare=number in compared)
        finally:
            truth.close()

    truth = task.make_truth()
    try:
        truth.restore(task.start(seed_of(footage, 0)).truth)
        size = len(truth.state)
    finally:
        truth.close()
    states = kept(path, (len(footage), size), np.dtype(np.float32), played, count)
    return replace(footage, simulator=np.array(states))


def play(footage: Footage, task: Task, truth: Any, number: int, *, compare: bool) -> np.ndarray:
    """States `[T+1, S]` of an episode."""
    truth.restore(task.start(seed_of(footage, number)).truth)
    states = [np.array(truth.state)]
    for action in footage.actions[footage.first[number] + 1 : footage.first[number + 1]]:
        truth.advance(action)
        states.append(np.array(truth.state))
    if compare:
        shown = footage.frames(number, [len(states) - 1])[0].astype(np.float64)
        away = float(np.abs(truth.look().pixels - shown).mean())
        if away > TOLERANCE:
            raise DataError(f"{footage.recordings.path} episode {footage.names()[number]}: played again by task "
                            f"{task.name!r}, its last frame is {away:.1f} of 255 away from the recorded one",
                            episode=footage.names()[number])
    return np.array(states, np.float32)


def seed_of(footage: Footage, number: int) -> int:
    """The seed of an episode's start; DataError where nobody says."""
    seed = footage.recordings.episode(footage.numbers[number]).seed
    if seed is None:
        raise DataError(f"{footage.recordings.path} episode {footage.names()[number]} has no seed, from which a "
                        "simulator could play it again; leave out `privileged`", episode=footage.names()[number])
    return seed


def read_halfway(footage: Footage, recipe: Privileged) -> Footage:
    """Footage whose state is the simulator's, angles as sine and cosine: what the transformer learns to say."""
    assert footage.simulator is not None
    angles = footage.simulator[:, list(recipe.angle_columns)]
    others = np.delete(footage.simulator, list(recipe.angle_columns), axis=1)
    return replace(footage, state=np.concatenate([others, np.sin(angles), np.cos(angles)], axis=1))


def poses_of(states: np.ndarray, recipe: Privileged, frame_px: int) -> Tensor:
    """Poses `[..., P]` of the landmarks, as `wcsim.world.body_poses` has them, of the simulator's states `[..., S]`."""
    parts = []
    for landmark in recipe.landmarks:
        parts.append(states[..., list(landmark.columns)] * recipe.pixels_per_unit * 2 / frame_px - 1)
        if landmark.angle is not None:
            parts.append(states[..., [landmark.angle]])
    return torch.from_numpy(np.concatenate(parts, axis=-1).astype(np.float32))


def landmark_maps(
    landmarks: Sequence[Landmark], states: np.ndarray, corner: np.ndarray, cells: tuple[int, int], compression: int,
    pixels_per_unit: float,
) -> Tensor:
    """What the first latent channels of views should say, `[B, K, h, w]`: around each landmark a Gaussian bump one cell
    wide, then, where it has an angle, the bump times its sine and its cosine.  states: `[B, S]`.  corner: `[B, 2]`
    pixels y, x of the view within its frame.  cells: h, w."""
    given = torch.from_numpy(states).float()
    first = torch.from_numpy(corner).float()
    down, across = ((torch.arange(count) + 0.5) * compression for count in cells)
    maps = []
    for landmark in landmarks:
        x, y = (given[:, column] * pixels_per_unit for column in landmark.columns)
        rows = (down + first[:, :1] - y.unsqueeze(1)) / compression
        columns = (across + first[:, 1:] - x.unsqueeze(1)) / compression
        maps += bump_maps(rows, columns, None if landmark.angle is None else given[:, landmark.angle], LANDMARK_GAIN)
    return torch.stack(maps, dim=1)
