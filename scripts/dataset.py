"""Collected episodes in memory, and training state on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipe import Data


@dataclass(frozen=True, slots=True)
class Episodes:
    """frames: `[E, T+1, H, W, 3]` uint8.  actions: `[E, T, A]`, the t-th leads to frame t+1.  states: `[E, T+1, S]`."""

    frames: np.ndarray
    actions: np.ndarray
    states: np.ndarray

    @classmethod
    def load(cls, data: Data, split: str) -> Episodes:
        """The episodes of one split that the recipe asks for."""
        count = -(-data.splits[split].episodes // data.shard_episodes)
        paths = [data.folder / split / f"shard_{number:04d}.npz" for number in range(count)]
        if missing := [str(path) for path in paths if not path.exists()]:
            raise SystemExit(f"missing: {', '.join(missing)}; run scripts/collect_data.py first")
        shards = [np.load(path) for path in paths]
        return cls(*(np.concatenate([shard[key] for shard in shards]) for key in ("frames", "actions", "states")))


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """Write a training checkpoint so that a kill leaves the old or the new one, never half of one."""
    partial = path.with_suffix(".tmp")
    torch.save(dict(state), partial)
    partial.rename(path)
