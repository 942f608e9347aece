"""PushT: the ground truth, `gym_pusht/PushT-v0`, driven so that it can be copied.

The physics is gym-pusht's.  The simulator keeps contact caches that its public state does not show, so a
snapshot is the start state plus the actions since, and restoring replays them: exact, at 0.2 ms per action.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import gymnasium as gym
import numpy as np

from wcsim.errors import SnapshotError
from wcsim.estimate import Estimate
from wcsim.spec import wrap_angle

TABLE_PX = 512.0
"""Side of the square table, in simulator pixels."""

GOAL_POSE = (256.0, 256.0, np.pi / 4)
"""The block's goal: x, y in simulator pixels, angle in radians."""

SUCCESS_COVERAGE = 0.95
"""The task is solved above this share of the goal covered."""

GRAVITY_CENTRE = np.array([0.0, 45.0])
"""The block's centre of gravity in body coordinates, about which the simulator turns it when it sets an angle."""


@dataclass(frozen=True, slots=True)
class TruthSnapshot:
    """A point in a simulated episode: `start` is the simulator's `[5]` reset state (agent x y, block x y, angle),
    `actions` the `[t, 2]` targets commanded since.
    """

    start: tuple[float, ...]
    actions: np.ndarray


@dataclass(frozen=True, slots=True)
class TruthFrame:
    """What the simulator shows after a reset or a step.

    pixels: `[96, 96, 3]` uint8.  state: `[7]` float64, agent x y, block x y angle, agent velocity x y (simulator
    pixels, radians, pixels per second).  coverage: share of the goal that the block covers, 0 to 1.
    """

    pixels: np.ndarray
    state: np.ndarray
    coverage: float

    @property
    def estimate(self) -> Estimate:
        """What an estimator of one frame would say, had it seen the state."""
        coverage = np.array([self.coverage])
        return Estimate.exact(values_of(self.state[None, :2], self.state[None, 2:5]), progress=coverage,
                              success=coverage > SUCCESS_COVERAGE)


def values_of(agent: np.ndarray, block: np.ndarray) -> dict[str, np.ndarray]:
    """The quantities of agents at `[N, 2]` and blocks at poses `[N, 3]`."""
    return {"agent": agent, "block": block[:, :2], "block_angle": wrap_angle(block[:, 2:])}


def start_at(agent: np.ndarray, block: np.ndarray) -> tuple[float, ...]:
    """The `[5]` reset state that puts the agent at `[2]` and the block at pose `[3]`.

    The simulator sets the position first and then turns the block about its centre of gravity, which moves it again.
    """
    c, s = np.cos(block[2]), np.sin(block[2])
    x, y = block[:2] + np.array([[c, -s], [s, c]]) @ GRAVITY_CENTRE - GRAVITY_CENTRE
    return float(agent[0]), float(agent[1]), float(x), float(y), float(block[2])


class PushTTruth:
    """One PushT simulator with exact snapshots."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import gym_pusht  # noqa: F401  registers the id

            env = gym.make("gym_pusht/PushT-v0", obs_type="state", disable_env_checker=True)
        self._env: Any = env.unwrapped
        self._start: tuple[float, ...] | None = None
        self._actions: list[np.ndarray] = []

    def reset(self, seed: int | None = None, *, start: tuple[float, ...] | None = None) -> TruthFrame:
        """Begin an episode at the simulator's own draw for `seed`, or at `start` (agent x y, block x y, angle)."""
        if start is None:
            # The simulator's draw is read back from its generator, so that a snapshot needs no seed.
            rng, _ = gym.utils.seeding.np_random(seed)
            xy = [float(rng.integers(low, high)) for low, high in ((50, 450), (50, 450), (100, 400), (100, 400))]
            start = (*xy, float(rng.uniform(-np.pi, np.pi)))
        self._env.reset(options={"reset_to_state": list(start)})
        self._start, self._actions = tuple(float(value) for value in start), []
        return self.look()

    def step(self, action: np.ndarray) -> TruthFrame:
        """Command the agent's target `[2]` (simulator pixels, 0 to 512) for one 0.1 s control tick."""
        self.advance(action)
        return self.look()

    def advance(self, action: np.ndarray) -> None:
        """As `step`, without rendering."""
        action = np.asarray(action, dtype=np.float64)
        self._env.step(action)
        self._actions.append(action.copy())

    def look(self) -> TruthFrame:
        """Render the present without advancing it."""
        env = self._env
        env.obs_type = "pixels"
        pixels = env.get_obs()
        env.obs_type = "state"
        return TruthFrame(np.ascontiguousarray(pixels), self.state, coverage_of(env))

    @property
    def state(self) -> np.ndarray:
        """The present as `TruthFrame.state` has it, without rendering."""
        env = self._env
        return np.array([*env.agent.position, *env.block.position, env.block.angle, *env.agent.velocity])

    def snapshot(self) -> TruthSnapshot:
        """The present, as a value that any `PushTTruth` can restore."""
        if self._start is None:
            raise SnapshotError("the simulator has not been reset yet; call reset() before snapshot()")
        return TruthSnapshot(self._start, np.array(self._actions, dtype=np.float64).reshape(-1, 2))

    def restore(self, snapshot: TruthSnapshot) -> TruthFrame:
        """Return to `snapshot`: the future is then bit-equal to the one it was taken from."""
        self._env.reset(options={"reset_to_state": list(snapshot.start)})
        self._start, self._actions = snapshot.start, []
        for action in snapshot.actions:
            self.advance(action)
        return self.look()

    def close(self) -> None:
        """Release the simulator."""
        self._env.close()


def coverage_of(env: Any) -> float:
    """Share of the goal that the simulator's block covers.

    The simulator's own figure, but for its last bits: it adds areas up in the order of a set of objects, which differs
    from one simulator to the next.
    """
    from gym_pusht.envs.pusht import pymunk_to_shapely

    shapes = sorted(env.block.shapes, key=lambda shape: [tuple(corner) for corner in shape.get_vertices()])
    goal, block = (pymunk_to_shapely(body, shapes) for body in (env.get_goal_pose_body(env.goal_pose), env.block))
    return float(goal.intersection(block).area / goal.area)
