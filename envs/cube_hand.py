"""What a hand does that picks up a cube and puts it down: phases with a memory, from what is seen of hand and cube.

Used by the scripted expert, on estimates, and by the exploration that collects data, on the simulator's state.  Easy
to get wrong: it remembers its phase, so a few wrong sightings do not make it let go; it reads no contact.

Lengths are cm, angles rad.  An action is `[5]` in [-1, 1]: dx dy dz in 5 cm, dyaw in 0.3 rad, gripper (1 closes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wcsim.envs.cube_truth import CUBE_SYMMETRY

STEP_CM, TURN_RAD = 5.0, 0.3
"""What an action of 1 asks for."""

HOVER_CM, GRASP_Z_CM, CARRY_Z_CM, RELEASE_Z_CM = 12.0, 2.0, 14.0, 3.0
NEAR_CM, NEAR_RAD = 1.0, 0.12
SLIPPED_CM = 6.0
"""A cube that is seen this far from the hand is not in it."""
PATIENCE = 25
"""Ticks in one phase after which it begins anew."""


@dataclass(frozen=True, slots=True)
class Hand:
    """One moment.  effector: `[3]`.  yaw, cube_yaw: numbers.  cube: `[3]`, NaN where it is not seen."""

    effector: np.ndarray
    yaw: float
    cube: np.ndarray
    cube_yaw: float


def move(hand: Hand, to: np.ndarray, yaw: float, gripper: float) -> np.ndarray:
    """The action `[5]` that moves towards a place and a yaw."""
    turn = (yaw - hand.yaw + np.pi) % (2 * np.pi) - np.pi
    wanted = np.concatenate([(to - hand.effector) / STEP_CM, [turn / TURN_RAD, gripper]])
    action: np.ndarray = np.clip(wanted, -1.0, 1.0)
    return action


def grasp_yaw(hand: Hand, cube_yaw: float) -> float:
    """The yaw, nearest to the hand's own, at which the fingers face two sides of a cube."""
    step = 2 * np.pi / CUBE_SYMMETRY
    turn = (cube_yaw - hand.yaw + step / 2) % step - step / 2
    return float((hand.yaw + turn + np.pi) % (2 * np.pi) - np.pi)


class PickAndPlace:
    """Picks up the cube and puts it down at `goal` `[2]`.

    carry_z, release_z: height of the carry, and of the hand where it opens.  offset: `[3]`, added to where the cube is
    seen.  closes: False never closes the gripper.  smoothing: share of the older sightings in where the cube is taken
    to be.
    """

    def __init__(self, goal: np.ndarray, *, carry_z: float = CARRY_Z_CM, release_z: float = RELEASE_Z_CM,
                 offset: np.ndarray | None = None, closes: bool = True, smoothing: float = 0.6) -> None:
        self.goal, self.carry_z, self.release_z = np.asarray(goal, np.float64), carry_z, release_z
        self.offset = np.zeros(3) if offset is None else offset
        self.closes, self.smoothing = closes, smoothing
        self._begin()

    def _begin(self) -> None:
        self.phase, self._ticks, self._away = "hover", 0, 0
        self._yaw: float | None = None
        self._seen: np.ndarray | None = None
        self._side: np.ndarray | None = None

    def _next(self, phase: str) -> None:
        self.phase, self._ticks = phase, 0

    def _look(self, hand: Hand) -> np.ndarray:
        """Where the cube is taken to be."""
        if np.isfinite(hand.cube).all():
            cube = hand.cube + self.offset
            moved = self._seen is None or np.linalg.norm(cube - self._seen) > SLIPPED_CM
            self._seen = cube if moved or self._seen is None else (
                self.smoothing * self._seen + (1 - self.smoothing) * cube)
            if np.isfinite(hand.cube_yaw):
                # Averaged as the direction of a turn four times as fast, which a square has.
                turn = CUBE_SYMMETRY * hand.cube_yaw
                side = np.array([np.cos(turn), np.sin(turn)])
                self._side = side if moved or self._side is None else (
                    self.smoothing * self._side + (1 - self.smoothing) * side)
        return hand.effector if self._seen is None else self._seen

    def act(self, hand: Hand) -> np.ndarray:
        """The action `[5]` of the next tick."""
        self._ticks += 1
        if self._ticks > PATIENCE:
            self._begin()
        cube = self._look(hand)
        side = 0.0 if self._side is None else float(np.arctan2(self._side[1], self._side[0])) / CUBE_SYMMETRY
        if self.phase in ("lift", "carry", "lower"):
            self._away = self._away + 1 if np.linalg.norm(hand.cube - hand.effector) > SLIPPED_CM else 0
            if self._away > 2:
                self._begin()
                cube = self._look(hand)
        step: np.ndarray = getattr(self, f"_{self.phase}")(hand, cube, side)
        return step

    def _hover(self, hand: Hand, cube: np.ndarray, side: float) -> np.ndarray:
        yaw = self._yaw = grasp_yaw(hand, side)
        above = np.array([cube[0], cube[1], max(HOVER_CM, cube[2] + 6.0)])
        flat = np.linalg.norm(hand.effector[:2] - cube[:2])
        turn = abs((yaw - hand.yaw + np.pi) % (2 * np.pi) - np.pi)
        if self._ticks > 2 and flat < NEAR_CM and turn < NEAR_RAD:
            self._next("descend")
        return move(hand, above, yaw, -1.0)

    def _descend(self, hand: Hand, cube: np.ndarray, side: float) -> np.ndarray:
        del side
        down = np.array([cube[0], cube[1], max(GRASP_Z_CM, min(cube[2], 4.0))])
        if hand.effector[2] < down[2] + 0.8:
            self._next("close")
        return move(hand, down, self._kept(hand), -1.0)

    def _close(self, hand: Hand, cube: np.ndarray, side: float) -> np.ndarray:
        del side
        if self._ticks >= 4:
            self._next("lift")
        return move(hand, np.array([cube[0], cube[1], hand.effector[2]]), self._kept(hand), self._grip)

    def _lift(self, hand: Hand, cube: np.ndarray, side: float) -> np.ndarray:
        del cube, side
        if hand.effector[2] > self.carry_z - 1.5:
            self._next("carry")
        return move(hand, np.array([*hand.effector[:2], self.carry_z]), self._kept(hand), self._grip)

    def _carry(self, hand: Hand, cube: np.ndarray, side: float) -> np.ndarray:
        del cube, side
        if np.linalg.norm(hand.effector[:2] - self.goal) < NEAR_CM:
            self._next("lower")
        return move(hand, np.array([*self.goal, self.carry_z]), self._kept(hand), self._grip)

    def _lower(self, hand: Hand, cube: np.ndarray, side: float) -> np.ndarray:
        del cube, side
        if hand.effector[2] < self.release_z + 0.7:
            self._next("open")
        return move(hand, np.array([*self.goal, self.release_z]), self._kept(hand), self._grip)

    def _open(self, hand: Hand, cube: np.ndarray, side: float) -> np.ndarray:
        del cube, side
        if self._ticks >= 3:
            self._next("leave")
        return move(hand, hand.effector, self._kept(hand), -1.0)

    def _leave(self, hand: Hand, cube: np.ndarray, side: float) -> np.ndarray:
        del side
        self._ticks = min(self._ticks, PATIENCE - 1)  # it waits here as long as the cube is where it belongs
        if self._ticks > 4 and np.linalg.norm(cube[:2] - self.goal) > 3.0:
            self._begin()
        return move(hand, np.array([*self.goal, self.carry_z]), self._kept(hand), -1.0)

    @property
    def _grip(self) -> float:
        return 1.0 if self.closes else -1.0

    def _kept(self, hand: Hand) -> float:
        return hand.yaw if self._yaw is None else self._yaw
