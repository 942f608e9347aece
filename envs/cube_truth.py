"""The arm's ground truth: OGBench's `cube-single`, a UR5e with a Robotiq gripper and a red cube of 4 cm, at 10 Hz.

Easy to get wrong: OGBench steers relative to `site_xpos`, which lags the joints by one physics step, so setting the
joints and calling `mj_forward` gives another future.  A snapshot therefore holds MuJoCo's integration state and the
sites; restored, here or in another simulator of the same versions, its future is the same to the last bit.

Lengths are cm, angles rad; x points away from the arm's base, y to the picture's right, z up.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from wcsim.envs.cube_rendering import needed, renderer, simulator
from wcsim.errors import ConfigError, SnapshotError
from wcsim.estimate import Estimate
from wcsim.spec import wrap_angle

FRAME_PX = 96
CAMERA = "front_pixels"
CM = 100.0
"""Centimetres of a metre, the simulator's unit."""

HALF_WIDTH_M = 0.2
"""Arm and cube begin within |y| of this; so what happens stays in the picture."""
REACH_M = 0.25
"""The arm stays within |y| of this."""
LEAST_WAY_CM = 10.0
"""Least distance of the cube from its goal at a start."""
SUCCESS_CM = 4.0
"""OGBench's own: the cube's centre is this near its goal."""
GOAL_CM = (42.5, 0.0, 2.0)
CUBE_SYMMETRY = 4

_idle = threading.local()


@dataclass(frozen=True, slots=True)
class CubeSnapshot:
    """A point in a simulated episode: MuJoCo's integration state, and position and rotation of all sites."""

    state: np.ndarray
    site_xpos: np.ndarray
    site_xmat: np.ndarray


@dataclass(frozen=True, slots=True)
class CubeFrame:
    """What the simulator shows.  pixels: `[96, 96, 3]` uint8.  state: `[9]` float64, effector x y z, its yaw, how far
    the gripper is closed (0 to 1), cube x y z, its yaw."""

    pixels: np.ndarray
    state: np.ndarray

    @property
    def estimate(self) -> Estimate:
        """What an estimator of one frame would say, had it seen the state."""
        values = values_of(self.state[None])
        success, progress = judge(values["cube"])
        return Estimate.exact(values, progress=progress, success=success)


@dataclass(frozen=True, slots=True)
class UnseenFrame(CubeFrame):
    """The same of a truth that draws nothing."""

    def __getattribute__(self, name: str) -> Any:
        if name == "pixels":
            raise ConfigError("this truth of task 'cube' was made with render=False and has no frames")
        return object.__getattribute__(self, name)


def values_of(state: np.ndarray) -> dict[str, np.ndarray]:
    """The quantities of states `[N, 9]`."""
    quarter = np.pi / CUBE_SYMMETRY
    yaw = np.mod(state[:, 8:9] + quarter, 2 * quarter) - quarter
    return {"effector": state[:, :3], "effector_yaw": wrap_angle(state[:, 3:4]), "gripper": state[:, 4:5],
            "cube": state[:, 5:8], "cube_yaw": yaw}


def judge(cube: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Success `[N]` bool and progress `[N]` in [0, 1] of cubes at `[N, 3]`; of one that is NaN both are nothing."""
    apart = np.linalg.norm(cube - np.array(GOAL_CM), axis=-1)
    progress = np.nan_to_num(np.clip(1.0 - (apart - SUCCESS_CM) / 30.0, 0.0, 1.0))
    return np.nan_to_num(apart, nan=np.inf) <= SUCCESS_CM, progress


class CubeTruth:
    """One simulator with exact snapshots.  render: False for states alone, which needs no OpenGL."""

    def __init__(self, *, render: bool = True) -> None:
        waiting = _idle.__dict__.setdefault("simulators", [])
        # Making one takes a second and resetting it a millisecond.
        self._env: Any = waiting.pop() if waiting else new_simulator()
        self._render, self._ready = render, False

    def reset(self, seed: int) -> CubeFrame:
        """Begin an episode at the draw of `seed`: arm and cube anywhere, the cube not too near its goal."""
        rng, number = np.random.default_rng(seed), 0
        while number == 0 or np.linalg.norm(self.state[5:8] - np.array(GOAL_CM)) < LEAST_WAY_CM:
            self._env.reset(seed=int(rng.integers(2**31)))
            number += 1
        self._ready = True
        return self.look()

    def step(self, action: np.ndarray) -> CubeFrame:
        """Apply an action `[5]` in [-1, 1] for 0.1 s."""
        self.advance(action)
        return self.look()

    def advance(self, action: np.ndarray) -> None:
        """As `step`, without rendering."""
        self._env.step(np.asarray(action, dtype=np.float64))

    def look(self) -> CubeFrame:
        """Render the present without advancing it."""
        if not self._render:
            return UnseenFrame(np.zeros(0, np.uint8), self.state)
        env = self._env
        return CubeFrame(renderer(env.model, CAMERA, FRAME_PX).draw(env.data), self.state)

    @property
    def state(self) -> np.ndarray:
        """The present as `CubeFrame.state` has it, without rendering."""
        found = self._env.compute_ob_info()
        return np.concatenate([
            found["proprio/effector_pos"] * CM, found["proprio/effector_yaw"], found["proprio/gripper_opening"],
            found["privileged/block_0_pos"] * CM, found["privileged/block_0_yaw"]])

    def snapshot(self) -> CubeSnapshot:
        """The present, as a value that any `CubeTruth` can restore."""
        if not self._ready:
            raise SnapshotError("the simulator has not been reset yet; call reset() before snapshot()")
        mujoco, env = simulator(), self._env
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.zeros(mujoco.mj_stateSize(env.model, kind))
        mujoco.mj_getState(env.model, env.data, state, kind)
        return CubeSnapshot(state, env.data.site_xpos.copy(), env.data.site_xmat.copy())

    def restore(self, snapshot: CubeSnapshot) -> CubeFrame:
        """Return to `snapshot`: the future is then bit-equal to the one it was taken from."""
        mujoco, env = simulator(), self._env
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        size = mujoco.mj_stateSize(env.model, kind)
        if snapshot.state.shape != (size,) or snapshot.site_xpos.shape != env.data.site_xpos.shape:
            raise SnapshotError(f"a snapshot of this simulator has {size} numbers and {len(env.data.site_xpos)} sites, "
                                f"got {snapshot.state.shape} and {snapshot.site_xpos.shape}: of another version?")
        mujoco.mj_setState(env.model, env.data, snapshot.state, kind)
        mujoco.mj_forward(env.model, env.data)  # all that follows from the state, the warm start of contacts changed
        mujoco.mj_setState(env.model, env.data, snapshot.state, kind)
        env.data.site_xpos[:], env.data.site_xmat[:] = snapshot.site_xpos, snapshot.site_xmat
        self._ready = True
        return self.look()

    def close(self) -> None:
        """Leave the simulator to the next truth of this thread."""
        if self._env is not None:
            _idle.__dict__.setdefault("simulators", []).append(self._env)
            self._env = None


def new_simulator() -> Any:
    """OGBench's environment, compiled.  ConfigError where the extra is not installed."""
    simulator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = needed("ogbench.manipspace.envs.cube_env").CubeEnv
    env = kind("single", ob_type="pixels", control_timestep=0.1, mode="data_collection", terminate_at_goal=False,
                  visualize_info=False, pixel_transparent_arm=False)
    env.compute_observation = lambda: np.zeros(0)  # else it renders at every step
    env._arm_sampling_bounds[:, 1] = env._object_sampling_bounds[:, 1] = -HALF_WIDTH_M, HALF_WIDTH_M
    env._workspace_bounds[:, 1] = -REACH_M, REACH_M
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env.reset(seed=0)
    return env
