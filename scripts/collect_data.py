"""Collect PushT episodes for training a world: mixed exploration with much contact.

    python scripts/collect_data.py configs/train_pusht96.yaml

Writes `DATA/SPLIT/shard_0000.npz` (frames `[E, T+1, 96, 96, 3]` uint8, actions `[E, T, 2]`, states `[E, T+1, 7]`).
Splits have disjoint seeds; a finished shard is never written again, so an interrupted collection resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from recipe import Recipe
from tqdm import tqdm

from wcsim.envs.truth import GOAL_POSE, TABLE_PX, PushTTruth

RESERVED_SEED = 900_000
"""Simulator seeds from here on belong to nobody."""


def wander(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Targets of a smooth random walk, blind to the block."""
    target, velocity = rng.uniform(60, 450, 2), np.zeros(2)
    speed = rng.uniform(5, 40)
    while True:
        velocity = 0.8 * velocity + rng.normal(0, speed, 2)
        target = target + velocity
        velocity = np.where((target < 0) | (target > TABLE_PX), -velocity, velocity)
        yield target


def leap(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Uniform targets over the whole table, each held for 1 to 8 ticks: what a random policy and a wide planner do."""
    hold = int(rng.integers(1, 9))
    while True:
        target = rng.uniform(0, TABLE_PX, 2)
        for _ in range(hold):
            yield target


def strokes(rng: np.random.Generator, truth: PushTTruth, *, to_goal: bool) -> Iterator[np.ndarray]:
    """Go beside the block, push through it, again.  `to_goal` pushes roughly towards the goal, else anywhere."""
    while True:
        block = truth.look().state[2:5]
        c, s = np.cos(block[2]), np.sin(block[2])
        along, down = rng.uniform(-60, 60), rng.uniform(0, 120)
        contact = block[:2] + np.array([[c, -s], [s, c]]) @ np.array([along, down if abs(along) < 15 else down / 4])
        heading = np.arctan2(*(np.array(GOAL_POSE[:2]) - block[:2])[::-1]) + rng.normal(0, 0.5)
        if not to_goal:
            heading = rng.uniform(-np.pi, np.pi)
        direction = np.array([np.cos(heading), np.sin(heading)])
        start = contact - direction * rng.uniform(50, 110)
        for _ in range(int(rng.integers(3, 9))):
            yield start
        speed, target = rng.uniform(8, 50), truth.look().state[:2]
        for _ in range(int(rng.integers(4, 15))):
            target = target + direction * speed
            yield target


def hover(rng: np.random.Generator, truth: PushTTruth) -> Iterator[np.ndarray]:
    """Jitter around the block: many short, odd contacts."""
    spread = rng.uniform(20, 90)
    while True:
        target = truth.look().state[2:4] + rng.normal(0, spread, 2)
        for _ in range(int(rng.integers(1, 5))):
            yield target


def explore(rng: np.random.Generator, truth: PushTTruth) -> Iterator[np.ndarray]:
    """One episode's behaviour, drawn from the mix."""
    kind = rng.choice(["push", "goal", "hover", "wander", "leap"], p=[0.4, 0.2, 0.15, 0.15, 0.1])
    if kind == "wander":
        return wander(rng)
    if kind == "leap":
        return leap(rng)
    if kind == "hover":
        return hover(rng, truth)
    return strokes(rng, truth, to_goal=kind == "goal")


def collect_shard(path: Path, first_seed: int, episodes: int, steps: int) -> Path:
    """Play `episodes` from consecutive simulator seeds and write them as one file."""
    frames, actions, states = [], [], []
    truth = PushTTruth()
    for seed in range(first_seed, first_seed + episodes):
        rng = np.random.default_rng([seed, 1])
        seen = [truth.reset(seed)]
        behaviour, noise, done = explore(rng, truth), rng.choice([0.0, 3.0, 12.0]), []
        for _ in range(steps):
            done.append(np.clip(next(behaviour) + rng.normal(0, noise, 2), 0, TABLE_PX).astype(np.float32))
            seen.append(truth.step(done[-1]))
        frames.append([frame.pixels for frame in seen])
        states.append([frame.state for frame in seen])
        actions.append(done)
    partial = path.with_suffix(".tmp.npz")
    np.savez_compressed(partial, frames=np.array(frames), actions=np.array(actions),
                        states=np.array(states, dtype=np.float32), first_seed=first_seed)
    partial.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="training recipe (YAML)")
    recipe = Recipe.load(parser.parse_args().recipe)
    jobs = []
    for split, spec in recipe.data.splits.items():
        if spec.first_seed + spec.episodes > RESERVED_SEED:
            raise SystemExit(f"split {split!r} reaches seed {spec.first_seed + spec.episodes}; "
                             f"seeds from {RESERVED_SEED} up are reserved")
        folder = recipe.data.folder / split
        folder.mkdir(parents=True, exist_ok=True)
        for number, offset in enumerate(range(0, spec.episodes, recipe.data.shard_episodes)):
            path = folder / f"shard_{number:04d}.npz"
            if not path.exists():
                count = min(recipe.data.shard_episodes, spec.episodes - offset)
                jobs.append((path, spec.first_seed + offset, count, recipe.data.steps))
    with ProcessPoolExecutor(recipe.data.workers) as pool:
        for _ in tqdm(pool.map(collect_shard, *zip(*jobs, strict=True)) if jobs else [], total=len(jobs), unit="shard"):
            pass


if __name__ == "__main__":
    main()
