"""What an agent is shown and in which units it acts: `obs_type` and `action_space` of the environments.

Easy to get wrong: starts, snapshots, worlds and truths always speak the task's own units; only what an agent sends to
`step` or `expect` is mapped, and once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from wcsim.actions import check_action
from wcsim.envs.observations import Observation, observation
from wcsim.envs.tasks import Task
from wcsim.errors import ConfigError
from wcsim.estimate import Estimate
from wcsim.spec import flatten, split
from wcsim.types import ActionSpec

ACTION_SPACES = ("task", "unit")
OBS_TYPES = ("pixels_agent_pos", "pixels", "state")


class Interface:
    """Spaces, observations and units of one task.

    action_space: `task`, actions in the task's units; `unit`, actions in [-1, 1], of which -1 is the task's lower bound
    and 1 its upper one.  obs_type, named as in gym-pusht: `pixels_agent_pos`, a mapping; `pixels`, the frames alone;
    `state`, float32 `[S]`, all quantities in the order of the task's `StateSpec`, as estimated from the frame.
    Raises ConfigError for unknown names, and for `unit` where a bound of the task is infinite.
    """

    def __init__(self, task: Task, *, action_space: str = "task", obs_type: str = "pixels_agent_pos") -> None:
        for what, name, known in (("action_space", action_space, ACTION_SPACES), ("obs_type", obs_type, OBS_TYPES)):
            if name not in known:
                raise ConfigError(f"{what} {name!r} is unknown; known: {', '.join(known)}")
        self.task, self.obs_type, self.unit = task, obs_type, action_space == "unit"
        self._low, self._high = np.asarray(task.action.low, np.float64), np.asarray(task.action.high, np.float64)
        if self.unit and not np.isfinite([self._low, self._high]).all():
            raise ConfigError(f"action_space 'unit' needs finite bounds; those of task {task.name!r} are "
                              f"{list(task.action.low)} to {list(task.action.high)}")
        ones = (1.0,) * task.action.dim
        self._unit_spec = ActionSpec(tuple(-one for one in ones), ones, task.action.names, "share of the task's range")

    def action_space(self) -> gym.spaces.Box:
        """A new space of an agent's actions `[A]`."""
        if not self.unit:
            return self.task.action_space
        return gym.spaces.Box(-1.0, 1.0, (self.task.action.dim,), np.float32)

    def observation_space(self) -> gym.Space[Any]:
        """A new space of an agent's observations."""
        if self.obs_type == "pixels_agent_pos":
            return self.task.observation_space
        if self.obs_type == "pixels":
            return self.task.observation_space["pixels"]
        return gym.spaces.Box(*self._state_bounds(), dtype=np.float32)

    def to_task(self, actions: Any) -> Any:
        """An agent's actions `[..., A]` in the task's units, float32; untouched and unchecked where they are in those
        already.  Raises ActionError for unit actions outside [-1, 1]."""
        if not self.unit:
            return actions
        share = (check_action(self._unit_spec, actions).astype(np.float64) + 1.0) / 2.0
        return np.clip(self._low + share * (self._high - self._low), self._low, self._high).astype(np.float32)

    def observe(self, frame: np.ndarray, robot: np.ndarray, estimate: Callable[[], Estimate]) -> Any:
        """The observation of a mosaic `[H, W, 3]` and the robot's state `[R]`; copies.  estimate: of this frame, asked
        for where it is needed.

        In `state` the robot is as in `agent_pos`; a quantity of the scene that was not found is zero, or the bound
        that is nearest to it, and `info` says which were found.
        """
        if self.obs_type != "state":
            both: Observation = observation(self.task, frame, robot)
            return both if self.obs_type == "pixels_agent_pos" else both["pixels"]
        state = self.task.state
        values = {name: np.nan_to_num(value[0]) for name, value in estimate().values.items()}
        seen = flatten(tuple(state), {**values, **split(state.robot, robot)})
        return np.clip(seen.astype(np.float32), *self._state_bounds())

    def _state_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and most of each number of the whole state, float32 `[S]`."""
        low, high = (np.repeat([getattr(one, name) for one in self.task.state], [one.size for one in self.task.state])
                     for name in ("low", "high"))
        return low.astype(np.float32), high.astype(np.float32)
