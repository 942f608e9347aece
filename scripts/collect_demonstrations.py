"""Collect the scripted expert's episodes in a task's ground truth for training a policy.

    python scripts/collect_demonstrations.py configs/train_policy_bc.yaml

Writes `FOLDER/SPLIT/shard_0000.npz`: poses `[E, T+1, R+S]`, the robot's state and the scene's from the simulator, and
wishes `[E, T, A]`, what the expert would do at each tick.  What is done is the wish plus a hand's noise.  A finished
shard is never written again, so an interrupted collection resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from policy_recipe import Demonstrations, PolicyRecipe
from wcsim.envs.tasks import Task, TruthFrame, make_task
from wcsim.estimate import Episode
from wcsim.experiments.planning import expert_of
from wcsim.spec import flatten

RESERVED_SEED = 900_000
"""Simulator seeds from here on are never used."""


def demonstrate(task: Task, seed: int, spec: Demonstrations) -> tuple[np.ndarray, np.ndarray]:
    """One episode from the start of `seed`: poses `[T+1, R+S]` and wishes `[T, A]`."""
    truth, hand = task.make_truth(), noise_of(seed, spec, task.action.dim)
    try:
        look, expert = truth.restore(task.start(seed).truth), expert_of(task)
        expert.reset(Episode(seed, seed))
        poses, wishes = [pose_of(task, look)], []
        for _ in range(spec.steps):
            robot, scene = poses[-1]
            wishes.append(expert.act({"agent_pos": robot, "environment_state": scene}))
            done = np.clip(wishes[-1] + next(hand), task.action.low, task.action.high)
            poses.append(pose_of(task, truth.step(done)))
        return np.array([np.concatenate(pose) for pose in poses]), np.array(wishes)
    finally:
        truth.close()


def pose_of(task: Task, look: TruthFrame) -> tuple[np.ndarray, np.ndarray]:
    """The robot's state `[R]` and the scene's `[S]`."""
    values = look.estimate.values
    return flatten(task.state.robot, values)[0], flatten(task.state.scene, values)[0]


def noise_of(seed: int, spec: Demonstrations, size: int) -> Iterator[np.ndarray]:
    """An episode's hand noise `[size]`, tick by tick."""
    rng = np.random.default_rng([seed, 2])
    std, noise = rng.choice(spec.noise), np.zeros(size)
    while True:
        noise = spec.memory * noise + np.sqrt(1.0 - spec.memory**2) * rng.normal(0.0, std, size)
        yield noise


def collect_shard(path: Path, recipe: PolicyRecipe, seeds: range) -> Path:
    """Play one episode per seed and write them as one file."""
    task = make_task(recipe.task, **recipe.task_options)
    poses, wishes = zip(*(demonstrate(task, seed, recipe.demonstrations) for seed in seeds), strict=True)
    partial = path.with_suffix(".tmp.npz")
    np.savez_compressed(partial, poses=np.array(poses), wishes=np.array(wishes), first_seed=seeds.start)
    partial.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a policy's training recipe (YAML)")
    recipe = PolicyRecipe.load(parser.parse_args().recipe)
    spec, jobs = recipe.demonstrations, list[tuple[Path, PolicyRecipe, range]]()
    for split, part in spec.splits.items():
        seeds = range(part.first_seed, part.first_seed + part.episodes)
        if seeds.stop > RESERVED_SEED:
            raise SystemExit(f"split {split!r} reaches seed {seeds.stop}; seeds from {RESERVED_SEED} up are reserved")
        folder = spec.folder / split
        folder.mkdir(parents=True, exist_ok=True)
        for number, first in enumerate(range(0, part.episodes, spec.shard_episodes)):
            path = folder / f"shard_{number:04d}.npz"
            if not path.exists():
                jobs.append((path, recipe, seeds[first : first + spec.shard_episodes]))
    with ProcessPoolExecutor(spec.workers) as pool:
        shards = pool.map(collect_shard, *zip(*jobs, strict=True)) if jobs else []
        for _ in tqdm(shards, total=len(jobs), unit="shard"):
            pass


if __name__ == "__main__":
    main()
