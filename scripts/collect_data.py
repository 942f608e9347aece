"""Collect episodes of a task's ground truth for training a world, by the task's own scripted exploration.

    python scripts/collect_data.py configs/train_pusht96.yaml

Writes `DATA/SPLIT/shard_0000.npz` (actions `[E, T, A]`, states `[E, T+1, S]` and, where the split keeps them, frames
`[E, T+1, H, W, 3]` uint8).
Splits have disjoint seeds; a finished shard is never written again, so an interrupted collection resumes.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from recipe import Recipe
from wcsim.envs.tasks import Truth, make_task, watch_exploration

RESERVED_SEED = 900_000
"""Simulator seeds from here on are never used."""


def collect_shard(path: Path, task_name: str, seeds: range, steps: int, with_frames: bool) -> Path:
    """Play one episode per seed and write them as one file."""
    task = make_task(task_name)
    frames, actions, states = [], [], []

    def see(truth: Truth) -> tuple[np.ndarray, np.ndarray | None]:
        return truth.state, truth.look().pixels if with_frames else None

    for seed in seeds:
        seen, done = watch_exploration(task, seed, steps, see)
        states.append([state for state, _ in seen])
        frames.append([pixels for _, pixels in seen])
        actions.append(done)
    partial = path.with_suffix(".tmp.npz")
    kept: dict[str, Any] = {"actions": np.array(actions), "states": np.array(states, dtype=np.float32),
                            "first_seed": seeds.start}
    if with_frames:
        kept["frames"] = np.array(frames)
    np.savez_compressed(partial, **kept)
    partial.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="training recipe (YAML)")
    recipe = Recipe.load(parser.parse_args().recipe)
    jobs: list[tuple[Path, str, range, int, bool]] = []
    for split, spec in recipe.data.splits.items():
        seeds = range(spec.first_seed, spec.first_seed + spec.episodes)
        if seeds.stop > RESERVED_SEED:
            raise SystemExit(f"split {split!r} reaches seed {seeds.stop}; seeds from {RESERVED_SEED} up are reserved")
        folder = recipe.data.folder / split
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(0, spec.episodes, recipe.data.shard_episodes):
            path = folder / f"shard_{number // recipe.data.shard_episodes:04d}.npz"
            if not path.exists():
                jobs.append((path, recipe.task, seeds[number : number + recipe.data.shard_episodes],
                             recipe.data.steps, spec.frames))
    with ProcessPoolExecutor(recipe.data.workers) as pool:
        shards = pool.map(collect_shard, *zip(*jobs, strict=True)) if jobs else []
        for _ in tqdm(shards, total=len(jobs), unit="shard"):
            pass


if __name__ == "__main__":
    main()
