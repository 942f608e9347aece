"""Collected episodes in memory, and training state on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recipe import Data, Recipe
from wcsim.actions import features
from wcsim.envs.tasks import make_task
from wcsim.world.codec import Codec


@dataclass(frozen=True, slots=True)
class Episodes:
    """frames: `[E, T+1, H, W, 3]` uint8.  actions: `[E, T, A]`, the t-th leads to frame t+1.  states: `[E, T+1, S]`."""

    frames: np.ndarray
    actions: np.ndarray
    states: np.ndarray

    @classmethod
    def load(cls, data: Data, split: str) -> Episodes:
        """The episodes of one split that the recipe asks for."""
        return cls(*read_split(data, split, ("frames", "actions", "states")))


def read_split(data: Data, split: str, keys: Sequence[str]) -> list[np.ndarray]:
    """Some of what was collected of a split, shards joined."""
    count = -(-data.splits[split].episodes // data.shard_episodes)
    paths = [data.folder / split / f"shard_{number:04d}.npz" for number in range(count)]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise SystemExit(f"missing: {', '.join(missing)}; run scripts/collect_data.py first")
    shards = [np.load(path) for path in paths]
    return [np.concatenate([shard[key] for shard in shards]) for key in keys]


@dataclass(frozen=True, slots=True)
class LatentEpisodes:
    """latents: `[E, T+1, C, h, w]` float16.  actions: `[E, T+1, F]`, the t-th led to frame t (zero at 0).
    states: `[E, T+1, S]` the simulator's state, angles as sine and cosine, each column with mean 0 and variance 1.
    changes: `[E, T+1, S]` what the last step did to it, each column with variance 1 (zero at 0).
    moving: `[E, T+1]` bool, whether what matters moved on the way to frame t.  recorded: `[E, T+1, S]` the simulator's
    state as it was written down."""

    latents: Tensor
    actions: Tensor
    states: Tensor
    changes: Tensor
    moving: np.ndarray
    recorded: np.ndarray

    @classmethod
    def load(cls, recipe: Recipe, split: str, codec: Codec) -> LatentEpisodes:
        """Encode a split once and keep the latents beside the other outputs."""
        episodes = Episodes.load(recipe.data, split)
        path = recipe.output / f"latents_{split}.npy"
        if not path.exists():
            encoded = [codec.encode(frames).half().numpy() for frames in tqdm(episodes.frames, desc=f"encode {split}")]
            np.save(path.with_suffix(".tmp.npy"), np.array(encoded))
            path.with_suffix(".tmp.npy").rename(path)
        actions = features(make_task(recipe.task).action, episodes.actions)
        angles = episodes.states[..., recipe.transformer.angle_columns]
        states = np.concatenate([np.delete(episodes.states, recipe.transformer.angle_columns, axis=-1),
                                 np.sin(angles), np.cos(angles)], axis=-1)
        changes = np.diff(states, axis=1, prepend=states[:, :1])
        return cls(
            torch.from_numpy(np.load(path)),
            torch.from_numpy(np.pad(actions, ((0, 0), (1, 0), (0, 0)))),
            torch.from_numpy((states - states.mean((0, 1))) / states.std((0, 1))),
            torch.from_numpy(changes / changes.std((0, 1))),
            np.pad(moves(episodes.states, recipe), ((0, 0), (1, 0))),
            episodes.states,
        )


def moves(states: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Whether what matters moves in each step, `[E, T]` bool, of recorded states `[E, T+1, S]`."""
    change = np.abs(np.diff(states[..., recipe.transformer.moving_columns], axis=1)).max(-1)
    moving: np.ndarray = change > recipe.transformer.moving_change
    return moving


def poses_of(states: np.ndarray, recipe: Recipe, frame_px: int) -> Tensor:
    """Poses `[..., P]` of the recipe's landmarks, as `wcsim.world.body_poses` has them, from recorded states."""
    parts = []
    for landmark in recipe.codec.landmarks:
        parts.append(states[..., list(landmark.columns)] * recipe.codec.pixels_per_unit * 2 / frame_px - 1)
        if landmark.angle is not None:
            parts.append(states[..., [landmark.angle]])
    return torch.from_numpy(np.concatenate(parts, axis=-1).astype(np.float32))


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """Write a training checkpoint so that a kill leaves the old or the new one, never half of one."""
    partial = path.with_suffix(".tmp")
    torch.save(dict(state), partial)
    partial.rename(path)
