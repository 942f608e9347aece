"""Tasks, the ground truth and the environments that imagine.  Importing this registers the ids; torch waits."""

from __future__ import annotations

import gymnasium as gym

gym.register(
    id="wcsim/PushT-v0",
    entry_point="wcsim.envs.imagined:ImaginedEnv",
    vector_entry_point="wcsim.envs.vector:ImaginedVectorEnv",
    max_episode_steps=300,
    kwargs={"task": "pusht", "world": "pusht-96"},
)
