"""A task as somebody outside the package writes one: two cameras, a 3-D action and three kinds of quantities.

A square moves over the front camera's picture, redder the harder it grips.  Where it grips on the button, the wrist
camera turns green for good, and that is success.
"""

from __future__ import annotations

import numpy as np

from wcsim.cameras import Camera, Cameras
from wcsim.envs.base_task import BaseTask
from wcsim.envs.tasks import Look
from wcsim.estimate import Estimate, Goal
from wcsim.spec import Quantity, StateSpec
from wcsim.types import ActionSpec

SIDE, BUTTON, REACH = 32, np.array([24.0, 24.0]), 6.0
"""Pixels a side of the front camera, and where the button is and how near the hand must come."""


class PressTruth:
    """Everything is in `state`: x, y, grip, pressed."""

    def __init__(self, task: Press) -> None:
        self._task, self.state = task, np.zeros(4)

    def reset(self, seed: int) -> Look:
        x, y = np.random.default_rng(seed).uniform(4.0, SIDE - 4.0, 2)
        return self.restore((x, y, 0.0, 0.0))

    def restore(self, snapshot: tuple[float, ...]) -> Look:
        self.state = np.array(snapshot, dtype=np.float64)
        return self.look()

    def snapshot(self) -> tuple[float, ...]:
        return tuple(self.state)

    def step(self, action: np.ndarray) -> Look:
        self.advance(action)
        return self.look()

    def advance(self, action: np.ndarray) -> None:
        hand, grip = np.clip(self.state[:2] + action[:2], 4.0, SIDE - 4.0), float(action[2])
        pressed = self.state[3] > 0.5 or (np.linalg.norm(hand - BUTTON) < REACH and grip > 0.5)
        self.state = np.array([*hand, grip, float(pressed)])

    def look(self) -> Look:
        x, y, grip, pressed = self.state
        front, wrist = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
        left, top = round(x) - 2, round(y) - 2
        front[top : top + 4, left : left + 4] = (round(255 * grip), 0, 255)
        wrist[..., 1] = 255 * pressed
        values = {"hand": [[x, y]], "grip": [[grip]], "pressed": [[pressed]]}
        return Look(self._task.cameras.join({"front": front, "wrist": wrist}), self.state.copy(),
                    self._task.estimate_state({name: np.array(value) for name, value in values.items()}))

    def close(self) -> None:
        pass


class Press(BaseTask):
    """The task.  patience: steps before an episode is truncated."""

    name = "press"
    description = "Press the button."
    action = ActionSpec(low=(-4.0, -4.0, 0.0), high=(4.0, 4.0, 1.0), names=("dx", "dy", "grip"), units="px, px, 1",
                        absolute=("grip",))
    state = StateSpec((
        Quantity("hand", 2, "px", "position", role="robot", low=0.0, high=float(SIDE)),
        Quantity("grip", 1, "1", "scalar", role="robot", low=0.0, high=1.0),
        Quantity("pressed", 1, "1", "binary", goal=True),
    ))
    cameras = Cameras((Camera("front", SIDE, SIDE), Camera("wrist", 16, 16)))
    goal = Goal({"pressed": np.ones(1)})
    within = {"wrong": 0.5}  # noqa: RUF012

    def __init__(self, *, patience: int = 20) -> None:
        self.max_episode_steps = patience

    def make_truth(self) -> PressTruth:
        return PressTruth(self)

    def estimate(self, frames: np.ndarray) -> Estimate:
        views = self.cameras.split(self.check_frames(frames))
        blue, red = (views["front"][..., channel].astype(np.float64) for channel in (2, 0))
        mass = blue.sum((1, 2))
        seen, place = np.where(mass > 0, mass, np.nan), np.arange(SIDE) + 0.5
        hand = np.stack([(blue.sum(1) * place).sum(1), (blue.sum(2) * place).sum(1)], axis=1) / seen[:, None]
        pressed = views["wrist"][..., 1].mean((1, 2)) > 127.0
        return self.estimate_state({"hand": hand, "grip": (red.sum((1, 2)) / seen)[:, None],
                                    "pressed": pressed[:, None].astype(np.float64)})
