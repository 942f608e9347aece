"""Tasks, the ground truth and the environments that imagine.  Importing this registers the ids; torch waits."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gymnasium as gym

WORLDS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "Cube": ("cube", "cube-96", 64, {"task_options": {"starts": "shipped"}}),
    "Pendulum": ("pendulum", "pendulum-64", 200, {}),
    "PushT": ("pusht", "pusht-96", 300, {}),
}
"""Name of an id to its task, the world that ships for it, the steps after which an episode is truncated, and further
settings.

Every other task and world is `wcsim/World-v0`, with `task=` and `world=`.
"""

for name, (task, world, steps, settings) in WORLDS.items():
    if files("wcsim.assets").joinpath(world, "world.json").is_file():
        gym.register(
            id=f"wcsim/{name}-v0",
            entry_point="wcsim.envs.imagined:ImaginedEnv",
            vector_entry_point="wcsim.envs.vector:ImaginedVectorEnv",
            max_episode_steps=steps,
            kwargs={"task": task, "world": world, **settings},
        )

gym.register(
    id="wcsim/World-v0",
    entry_point="wcsim.envs.imagined:ImaginedEnv",
    vector_entry_point="wcsim.envs.vector:ImaginedVectorEnv",
    kwargs={"truncate": True},
)

gym.register(
    id="wcsim/Remote-v0",
    entry_point="wcsim.envs.remote:RemoteEnv",
    vector_entry_point="wcsim.envs.remote:RemoteVectorEnv",
    kwargs={"truncate": True},
)
