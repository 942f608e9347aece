"""The arm as a task: a UR5e picks up a cube and puts it down in the middle of the table (OGBench's `cube-single`).

The arm reports its own state, as every robot does; the cube is seen in pixels alone.  Lengths are cm, x away from the
arm's base, y to the picture's right, z up; angles are rad.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wcsim.cameras import Cameras
from wcsim.envs.base_task import BaseTask
from wcsim.envs.cube_estimator import WEIGHTS, look
from wcsim.envs.cube_exploration import explore
from wcsim.envs.cube_starts import STARTS, shipped, shipped_start
from wcsim.envs.cube_truth import CUBE_SYMMETRY, FRAME_PX, GOAL_CM, CubeTruth, judge
from wcsim.envs.tasks import Start, Truth
from wcsim.errors import ConfigError
from wcsim.estimate import Estimate, Goal
from wcsim.spec import Quantity, StateSpec, Values
from wcsim.types import ActionSpec

LIFTED_CM = 4.0
"""A cube whose centre is this high is off the table."""


class Cube(BaseTask):
    """The task.

    render: False for a truth of states alone, which needs no OpenGL and whose frames raise ConfigError.
    starts: `drawn` by the simulator, which needs MuJoCo, or `shipped`, 64 held-out ones that repeat (see
    `wcsim.envs.cube_starts`), with which worlds are played without it.
    max_episode_steps: when an episode is truncated.  Success is OGBench's own: the cube within 4 cm of its goal.
    """

    name = "cube"
    description = "Pick up the red cube and put it down in the middle of the table."
    action = ActionSpec(low=(-1.0,) * 5, high=(1.0,) * 5, names=("dx", "dy", "dz", "dyaw", "gripper"),
                        units="shares of 5 cm, 5 cm, 5 cm, 0.3 rad and of closing the gripper")
    state = StateSpec((
        Quantity("effector", 3, "cm", "position", role="robot", low=-30.0, high=70.0, moved=1.0, lost=10.0),
        Quantity("effector_yaw", 1, "rad", "angle", role="robot", low=-np.pi, high=np.pi),
        Quantity("gripper", 1, "closed", "scalar", role="robot", low=0.0, high=1.0),
        Quantity("cube", 3, "cm", "position", goal=True, low=-30.0, high=70.0, moved=1.0, lost=10.0),
        Quantity("cube_yaw", 1, "rad", "angle", low=-np.pi / CUBE_SYMMETRY, high=np.pi / CUBE_SYMMETRY,
                 symmetry=CUBE_SYMMETRY),
    ))
    cameras = Cameras.single(FRAME_PX, FRAME_PX)
    fps = 10.0
    goal = Goal({"cube": np.array(GOAL_CM)})
    expert = "wcsim.envs.cube_expert:CubeExpert"
    proprioception = True

    def __init__(self, *, render: bool = True, starts: str = "drawn", max_episode_steps: int = 64) -> None:
        if max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps is {max_episode_steps}; it must be at least 1")
        if starts not in ("drawn", "shipped"):
            raise ConfigError(f"starts is {starts!r}; allowed: drawn, shipped")
        self._render, self._shipped, self.max_episode_steps = render, starts == "shipped", max_episode_steps

    def start(self, seed: int) -> Start:
        """The start of `seed`: one frame, no actions."""
        if self._shipped:
            return shipped_start(seed, self.action.dim)
        truth = self.make_truth()
        try:
            seen = truth.reset(seed)
            frames = seen.pixels[None] if self._render else np.zeros((1, *self.frame_size, 3), np.uint8)
            return Start(frames, np.zeros((0, self.action.dim), dtype=np.float32), truth.snapshot())
        finally:
            truth.close()

    def estimate(self, frames: np.ndarray) -> Estimate:
        """Frames `[N, 96, 96, 3]` uint8 to hand and cube, found or not."""
        values, found, whole = look(self.check_frames(frames))
        success, progress = judge(values["cube"])
        return Estimate(values, found, progress, success, whole)

    def estimate_state(self, values: Values) -> Estimate:
        """Success and progress of cubes; of one that is NaN or missing both are nothing."""
        lanes = len(next(iter(values.values())))
        quantities = {**self.state.unknown(lanes),
                      **{name: np.asarray(value, np.float64) for name, value in values.items()}}
        found = {name: np.isfinite(value).all(1) for name, value in quantities.items()}
        success, progress = judge(quantities["cube"])
        return Estimate(quantities, found, progress, success, found["cube"] & found["effector"])

    def goal_frame(self) -> np.ndarray:
        """The cube where it belongs, the hand above it."""
        return shipped()["goal_frame"].copy()

    def make_truth(self) -> CubeTruth:
        """A new simulator."""
        return CubeTruth(render=self._render)

    def hold_action(self, frame: np.ndarray) -> np.ndarray:
        """No motion, the gripper as it is."""
        del frame
        return np.zeros(self.action.dim)

    def files(self) -> list[Path]:
        """The estimator's weights, and what ships of the simulator."""
        return [WEIGHTS, STARTS]

    def explore(self, rng: np.random.Generator, truth: Truth) -> Iterator[np.ndarray]:
        """See `wcsim.envs.cube_exploration`."""
        return explore(rng, lambda: truth.state, np.array(GOAL_CM[:2]))

