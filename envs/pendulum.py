"""Pendulum as a task: Gymnasium's `Pendulum-v1`, seen in 64 x 64 pixels and driven by one torque.

A second robot with another dimension of action and starts of several frames, because one frame shows no speed.  Easy
to get wrong: the robot is all there is, its tip in the simulator's screen pixels, y down, and its angle, 0 upright and
counter-clockwise positive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import cv2
import gymnasium as gym
import numpy as np

from wcsim.cameras import Cameras
from wcsim.envs.base_task import BaseTask
from wcsim.envs.tasks import Look, Start, Truth
from wcsim.errors import ConfigError, SnapshotError
from wcsim.estimate import Estimate, Goal
from wcsim.spec import Quantity, StateSpec, Values, wrap_angle
from wcsim.types import ActionSpec

SCREEN_PX, FRAME_PX = 500, 64
PIVOT_PX, ROD_PX, WIDTH_PX, AXLE_PX = 250.0, 500 / 4.4, 0.2 * 500 / 4.4, 0.05 * 500 / 4.4
"""Where the rod hangs, its length and width, and the radius of the black axle."""

RED_PX2 = ROD_PX * WIDTH_PX + np.pi * (WIDTH_PX / 2) ** 2 - np.pi * AXLE_PX**2
"""Area that is red: the rod with its two round ends, less the axle."""

RED_AT_PX = (ROD_PX**2 * WIDTH_PX / 2 + np.pi * (WIDTH_PX / 2) ** 2 * ROD_PX / 2) / RED_PX2
"""How far from the pivot its centre of gravity lies."""

UPRIGHT = np.radians(10.0)
"""Largest angle that counts as standing."""

FOUND_FIT, FIT_OK = 0.5, 0.85
"""Least fit of a rod that is found, and of one that is whole."""

FAINT = 0.15
"""Redness that counts as white: over a whole frame, the noise of a good codec would add up to a second rod."""

FIRST_FRAMES = 3


class PendulumTruth:
    """The simulator.  Its snapshot is angle and speed; a look's state is these (radians, radians per second) and the
    tip's x, y (screen pixels)."""

    def __init__(self) -> None:
        self._env: Any = gym.make("Pendulum-v1", render_mode="rgb_array", disable_env_checker=True).unwrapped
        self._ready = False

    def reset(self, seed: int) -> Look:
        """The simulator's own start for `seed`."""
        self._env.reset(seed=seed)
        self._ready = True
        return self.look()

    def step(self, action: np.ndarray) -> Look:
        """Apply a torque `[1]` for 0.05 s."""
        self.advance(action)
        return self.look()

    def advance(self, action: np.ndarray) -> None:
        """As `step`, without rendering."""
        self._env.step(np.asarray(action, dtype=np.float64))

    def look(self) -> Look:
        """Render the present, without the arrow that shows the last torque."""
        self._env.last_u = None
        screen = np.ascontiguousarray(self._env.render())
        pixels = cv2.resize(screen, (FRAME_PX, FRAME_PX), interpolation=cv2.INTER_AREA)
        return Look(pixels, self.state, estimate_of(self.state[:1], np.ones(1)))

    @property
    def state(self) -> np.ndarray:
        """The present as `Look.state` has it, without rendering."""
        angle, speed = self._env.state
        return np.array([angle, speed, *tips(np.array([angle]))[0]])

    def snapshot(self) -> tuple[float, float]:
        """Angle and speed."""
        if not self._ready:
            raise SnapshotError("the simulator has not been reset yet; call reset() before snapshot()")
        angle, speed = self._env.state
        return float(angle), float(speed)

    def restore(self, snapshot: tuple[float, float]) -> Look:
        """Return to a snapshot."""
        self._env.state, self._ready = np.array(snapshot), True
        return self.look()

    def close(self) -> None:
        """Nothing to release: the simulator's own close would end pygame for the whole process."""


class Pendulum(BaseTask):
    """The task.  max_episode_steps: when an episode is truncated."""

    name = "pendulum"
    description = "Swing the pendulum up and keep it upright."
    action = ActionSpec(low=(-2.0,), high=(2.0,), names=("torque",), units="N m")
    state = StateSpec((
        Quantity("tip", 2, "px", "position", role="robot", goal=True, low=0.0, high=float(SCREEN_PX),
                 lost=20.0),
        Quantity("angle", 1, "rad", "angle", role="robot", goal=True, low=-np.pi, high=np.pi),
    ))
    cameras = Cameras.single(FRAME_PX, FRAME_PX)
    fps = 20.0
    goal = Goal({"tip": np.array([PIVOT_PX, PIVOT_PX - ROD_PX]), "angle": np.zeros(1)})

    def __init__(self, *, max_episode_steps: int = 200) -> None:
        if max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps is {max_episode_steps}; it must be at least 1")
        self.max_episode_steps = max_episode_steps

    def start(self, seed: int) -> Start:
        """The simulator's draw for `seed` and two ticks without torque, which show how fast it moves."""
        truth, actions = PendulumTruth(), np.zeros((FIRST_FRAMES - 1, 1), dtype=np.float32)
        seen = [truth.reset(seed), *(truth.step(action) for action in actions)]
        return Start(np.array([frame.pixels for frame in seen]), actions, truth.snapshot())

    def estimate(self, frames: np.ndarray) -> Estimate:
        """The angle in frames `[N, 64, 64, 3]` uint8, from where the red is."""
        scale = SCREEN_PX / FRAME_PX
        colours = self.check_frames(frames).astype(np.float64)
        red = ((colours[..., 0] - colours[..., 1:].mean(-1)) / 127.0).clip(0.0, 1.0)
        red[red < FAINT] = 0.0
        place = (np.arange(FRAME_PX) + 0.5) * scale - PIVOT_PX
        mass = red.sum((1, 2)) + 1e-9
        # One frame after the other: a product over all of them would round by how many there are.
        x, y = (np.array([(row[None] @ place)[0] for row in red.sum(axis)]) / mass for axis in (1, 2))
        # A rod of another area, or one that is bent or doubled, fits worse.
        fit = np.minimum(mass * scale**2 / RED_PX2, RED_PX2 / (mass * scale**2)) * np.minimum(
            np.hypot(x, y) / RED_AT_PX, 1.0)
        return estimate_of(np.arctan2(-x, -y), fit)

    def estimate_state(self, values: Values) -> Estimate:
        """The same of rods at `angle`, or else with their `tip` somewhere; NaN is not found."""
        if "angle" in values:
            angles = np.asarray(values["angle"], np.float64)[:, 0]
        else:
            across, down = (np.asarray(values["tip"], np.float64) - PIVOT_PX).T
            angles = np.arctan2(-across, -down)
        return estimate_of(np.nan_to_num(angles), np.isfinite(angles).astype(np.float64))

    def make_truth(self) -> PendulumTruth:
        """A new simulator."""
        return PendulumTruth()

    def goal_frame(self) -> np.ndarray:
        """Upright."""
        return PendulumTruth().restore((0.0, 0.0)).pixels

    def explore(self, rng: np.random.Generator, truth: Truth) -> Iterator[np.ndarray]:
        """Torques held for some ticks: random ones, and ones that pump the rod up or brake it near the top."""
        while True:
            kind, drawn = rng.integers(3), rng.uniform(-2.0, 2.0, 1)
            for _ in range(rng.integers(2, 12)):
                angle, speed, *_ = truth.state
                angle = float(wrap_angle(np.array(angle)))
                if kind == 0:
                    yield drawn
                elif abs(angle) < 0.6:
                    yield np.clip(-10.0 * angle - 3.0 * speed + 0.3 * drawn, -2.0, 2.0)
                else:
                    yield np.array([2.0 if speed > 0 else -2.0])


def tips(angles: np.ndarray) -> np.ndarray:
    """Screen coordinates `[N, 2]` of the tip at angles `[N]`."""
    return np.stack([PIVOT_PX - ROD_PX * np.sin(angles), PIVOT_PX - ROD_PX * np.cos(angles)], axis=-1)


def estimate_of(angles: np.ndarray, fit: np.ndarray) -> Estimate:
    """What is said of rods at angles `[N]` that fit what is seen as well as `fit` `[N]`; progress is the height."""
    found, angles = fit > FOUND_FIT, wrap_angle(angles)
    unknown = np.where(found, 0.0, np.nan)[:, None]
    values = {"tip": tips(angles) + unknown, "angle": angles[:, None] + unknown}
    progress = np.where(found, (1.0 + np.cos(angles)) / 2.0, 0.0)
    success = found & (np.abs(angles) < UPRIGHT)
    return Estimate(values, {"tip": found, "angle": found}, progress, success, fit > FIT_OK, {"tip": fit, "angle": fit})
