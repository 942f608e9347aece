"""Collect episodes of a task's ground truth as LeRobotDatasets v3.0, by the task's own scripted exploration.

    python scripts/collect_dataset.py --task cube --seeds 0:352 --out data/cube-train --workers 2
    wcsim train train_cube --data data/cube-train --minutes 120

Writes `OUT/part-0000`, `OUT/part-0001` and so on, each a dataset of its own with frames, actions and the robot's own
state.  A part that is whole is never written again, so an interrupted collection goes on.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wcsim.data.lerobot_writer import LeRobotWriter
from wcsim.data.recordings import RecordedEpisode
from wcsim.envs.tasks import Truth, TruthFrame, make_task, watch_exploration
from wcsim.rollout.dataset import recordings_spec
from wcsim.spec import flatten

RESERVED_SEED = 900_000
"""Simulator seeds from here on are never used."""


def collect(folder: Path, name: str, seeds: range, steps: int) -> Path:
    """Play an episode per seed into the dataset `folder`, or go on with it."""
    task = make_task(name)
    source = {"task": name, "first_seed": seeds.start, "episodes": len(seeds), "steps": steps}

    def see(truth: Truth) -> TruthFrame:
        return truth.look()

    with LeRobotWriter(folder, recordings_spec(task), source=source, success=True) as writer:
        for seed in seeds[writer.done :]:
            seen, actions = watch_exploration(task, seed, steps, see)
            state = np.concatenate([flatten(task.state.robot, look.estimate.values) for look in seen])
            episode = RecordedEpisode(f"{name}-{seed}", actions.astype(np.float32), state.astype(np.float32),
                                      task.description, seed=seed, success=bool(seen[-1].estimate.success[0]))
            writer.add(episode, {task.cameras.cameras[0].name: [look.pixels for look in seen]})
    return folder


def seed_range(text: str) -> range:
    """`FIRST:END`; argparse.ArgumentTypeError for anything else, and for reserved seeds."""
    first, _, end = text.partition(":")
    if not (first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of seeds; write FIRST:END, as 0:352")
    if int(end) > RESERVED_SEED:
        raise argparse.ArgumentTypeError(f"{text} reaches seed {int(end) - 1}; seeds from {RESERVED_SEED} up are "
                                         "reserved")
    return range(int(first), int(end))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--seeds", type=seed_range, required=True, help="FIRST:END, one episode each")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=64, help="actions of an episode")
    parser.add_argument("--episodes-per-part", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    parts = [told.seeds[at : at + told.episodes_per_part] for at in range(0, len(told.seeds), told.episodes_per_part)]
    jobs = [(path, seeds) for number, seeds in enumerate(parts)
            if not (path := told.out / f"part-{number:04d}").exists()]
    # Spawned: a simulator's GL context does not survive a fork.
    with ProcessPoolExecutor(told.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(collect, path, told.task, seeds, told.steps) for path, seeds in jobs]
        for future in tqdm(futures, unit="part"):
            future.result()


if __name__ == "__main__":
    main()
