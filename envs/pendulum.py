"""Pendulum as a task: Gymnasium's `Pendulum-v1`, seen in 64 x 64 pixels and driven by one torque.

A second robot with another dimension of action and starts of several frames, because one picture shows no speed.  Easy
to get wrong: what a judgement calls the block is whatever is to be brought to a goal pose; here that is the rod itself,
its tip and its angle (0 upright, counter-clockwise positive), in the simulator's screen pixels, y down.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import cv2
import gymnasium as gym
import numpy as np

from wcsim.envs.judge import Judgement
from wcsim.envs.scene import wrap
from wcsim.envs.tasks import Start, Truth, action_box, observed
from wcsim.errors import ConfigError, SnapshotError
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


@dataclass(frozen=True, slots=True)
class PendulumFrame:
    """pixels: `[64, 64, 3]` uint8.  state: `[4]` angle, speed (radians per second), tip x, tip y (screen pixels)."""

    pixels: np.ndarray
    state: np.ndarray

    @property
    def judgement(self) -> Judgement:
        """What a judge who sees the state says."""
        return judgement_of(self.state[None, 0], np.ones(1))


class PendulumTruth:
    """The simulator.  Its state is two numbers, so a snapshot is those."""

    def __init__(self) -> None:
        self._env: Any = gym.make("Pendulum-v1", render_mode="rgb_array", disable_env_checker=True).unwrapped
        self._ready = False

    def reset(self, seed: int) -> PendulumFrame:
        """The simulator's own start for `seed`."""
        self._env.reset(seed=seed)
        self._ready = True
        return self.look()

    def step(self, action: np.ndarray) -> PendulumFrame:
        """Apply a torque `[1]` for 0.05 s."""
        self.advance(action)
        return self.look()

    def advance(self, action: np.ndarray) -> None:
        """As `step`, without rendering."""
        self._env.step(np.asarray(action, dtype=np.float64))

    def look(self) -> PendulumFrame:
        """Render the present, without the arrow that shows the last torque."""
        self._env.last_u = None
        screen = np.ascontiguousarray(self._env.render())
        pixels = cv2.resize(screen, (FRAME_PX, FRAME_PX), interpolation=cv2.INTER_AREA)
        return PendulumFrame(pixels, self.state)

    @property
    def state(self) -> np.ndarray:
        """The present as `PendulumFrame.state` has it, without rendering."""
        angle, speed = self._env.state
        return np.array([angle, speed, *tips(np.array([angle]))[0]])

    def snapshot(self) -> tuple[float, float]:
        """Angle and speed."""
        if not self._ready:
            raise SnapshotError("the simulator has not been reset yet; call reset() before snapshot()")
        angle, speed = self._env.state
        return float(angle), float(speed)

    def restore(self, snapshot: tuple[float, float]) -> PendulumFrame:
        """Return to a snapshot."""
        self._env.state, self._ready = np.array(snapshot), True
        return self.look()

    def close(self) -> None:
        """Nothing to release: the simulator's own close would end pygame for the whole process."""


class Pendulum:
    """The task.  max_episode_steps: when an episode is truncated."""

    name = "pendulum"
    description = "Swing the pendulum up and keep it upright."
    action = ActionSpec(low=(-2.0,), high=(2.0,), names=("torque",), units="N m")
    frame_size = (FRAME_PX, FRAME_PX)
    fps = 20.0
    goal = (PIVOT_PX, PIVOT_PX - ROD_PX, 0.0)

    def __init__(self, *, max_episode_steps: int = 200) -> None:
        if max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps is {max_episode_steps}; it must be at least 1")
        self.max_episode_steps = max_episode_steps

    @property
    def action_space(self) -> gym.spaces.Box:
        """The torque, in N m."""
        return action_box(self.action)

    @property
    def observation_space(self) -> gym.spaces.Dict:
        """The frame, and the tip in screen pixels."""
        return observed(self.frame_size, reach=SCREEN_PX)

    def start(self, seed: int) -> Start:
        """The simulator's draw for `seed` and two ticks without torque, which show how fast it moves."""
        truth, actions = PendulumTruth(), np.zeros((FIRST_FRAMES - 1, 1), dtype=np.float32)
        seen = [truth.reset(seed), *(truth.step(action) for action in actions)]
        return Start(np.array([frame.pixels for frame in seen]), actions, truth.snapshot())

    def judge(self, frames: np.ndarray) -> Judgement:
        """The angle in frames `[N, 64, 64, 3]` uint8, from where the red is."""
        if frames.dtype != np.uint8 or frames.shape[1:] != (FRAME_PX, FRAME_PX, 3):
            raise ValueError(f"frames are {frames.dtype} {frames.shape}; the judge reads uint8 "
                             f"[N, {FRAME_PX}, {FRAME_PX}, 3]")
        scale = SCREEN_PX / FRAME_PX
        colours = frames.astype(np.float64)
        red = ((colours[..., 0] - colours[..., 1:].mean(-1)) / 127.0).clip(0.0, 1.0)
        red[red < FAINT] = 0.0
        place = (np.arange(FRAME_PX) + 0.5) * scale - PIVOT_PX
        mass = red.sum((1, 2)) + 1e-9
        x, y = red.sum(1) @ place / mass, red.sum(2) @ place / mass
        # A rod of another area, or one that is bent or doubled, fits worse.
        fit = np.minimum(mass * scale**2 / RED_PX2, RED_PX2 / (mass * scale**2)) * np.minimum(
            np.hypot(x, y) / RED_AT_PX, 1.0)
        return judgement_of(np.arctan2(-x, -y), fit)

    def reward(self, judgement: Judgement) -> np.ndarray:
        """How high the tip is, 0 to 1."""
        return np.asarray(judgement.coverage)

    def make_truth(self) -> PendulumTruth:
        """A new simulator."""
        return PendulumTruth()

    def goal_frame(self) -> np.ndarray:
        """Upright."""
        return PendulumTruth().restore((0.0, 0.0)).pixels

    def stay(self, frame: np.ndarray) -> np.ndarray:
        """No torque."""
        return np.zeros(1)

    def explore(self, rng: np.random.Generator, truth: Truth) -> Iterator[np.ndarray]:
        """Torques held for some ticks: random ones, and ones that pump the rod up or brake it near the top."""
        while True:
            kind, drawn = rng.integers(3), rng.uniform(-2.0, 2.0, 1)
            for _ in range(rng.integers(2, 12)):
                angle, speed, *_ = truth.state
                angle = float(wrap(np.array(angle)))
                if kind == 0:
                    yield drawn
                elif abs(angle) < 0.6:
                    yield np.clip(-10.0 * angle - 3.0 * speed + 0.3 * drawn, -2.0, 2.0)
                else:
                    yield np.array([2.0 if speed > 0 else -2.0])


def tips(angles: np.ndarray) -> np.ndarray:
    """Screen coordinates `[N, 2]` of the tip at angles `[N]`."""
    return np.stack([PIVOT_PX - ROD_PX * np.sin(angles), PIVOT_PX - ROD_PX * np.cos(angles)], axis=-1)


def judgement_of(angles: np.ndarray, fit: np.ndarray) -> Judgement:
    """The judgement of rods at angles `[N]` that fit what is seen as well as `fit` `[N]`."""
    found, angles = fit > FOUND_FIT, wrap(angles)
    unknown = np.where(found, 0.0, np.nan)[:, None]
    tip = tips(angles) + unknown
    block = np.concatenate([tip, angles[:, None]], axis=1) + unknown
    coverage = np.where(found, (1.0 + np.cos(angles)) / 2.0, 0.0)
    success = found & (np.abs(angles) < UPRIGHT)
    return Judgement(tip, found, block, found, coverage, success, fit > FIT_OK, fit, fit)
