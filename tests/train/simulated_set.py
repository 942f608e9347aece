"""Recordings of a task's simulator: pixels, actions and seeds, and nothing privileged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wcsim.data.lerobot_writer import LeRobotWriter
from wcsim.data.recordings import RecordedEpisode, RecordingsSpec, Signal
from wcsim.envs.tasks import make_task, play_exploration


def record(name: str, folder: Path, *, episodes: int, steps: int, first_seed: int = 0, seeds: bool = True) -> None:
    """Episodes of a task's exploration as a LeRobotDataset."""
    task = make_task(name)
    action = task.action
    spec = RecordingsSpec(task.fps, task.cameras, Signal(action.names, action.units, action.low, action.high,
                                                         action.absolute), robot=name)
    with LeRobotWriter(folder, spec) as writer:
        for seed in range(first_seed, first_seed + episodes):
            looks, actions = play_exploration(task, seed, steps)
            frames = np.array([look.pixels for look in looks])
            writer.add(RecordedEpisode(str(seed), actions.astype(np.float32), None, seed=seed if seeds else None),
                       {task.cameras.cameras[0].name: [frames]})
