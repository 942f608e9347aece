"""Faults that recordings may have, and the numbers of many episodes side by side in which they are looked for.

Easy to get wrong: differences and lags are taken within an episode, never across the seam of two.

Shapes: E episodes, T actions of one, A action, R robot state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wcsim.data.recordings import RecordedEpisode, Signal
from wcsim.errors import DataError

KINDS = ("fps", "action_count", "action_lag", "action_scale", "gripper_sign", "nan", "frozen_frames", "black_frames",
         "outliers", "timestamps", "drift", "missing")
"""What `wcsim data check` finds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.  episode: its id, empty where it is of all."""

    kind: str
    episode: str
    detail: str

    def to_json(self) -> dict[str, str]:
        """As check.json has it."""
        return {"kind": self.kind, "episode": self.episode, "detail": self.detail}

    @classmethod
    def of(cls, error: DataError) -> Fault:
        """What a reader refused."""
        return cls(error.kind, error.episode, str(error))


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of some episodes.

    actions: of each `[T, A]`.  states: of each `[T+1, R]`, empty where there are none.  motion: of each `[T]`, how much
    the picture changes between frames; empty where nobody looked.
    """

    action: Signal
    state: Signal | None
    actions: Sequence[np.ndarray]
    states: Sequence[np.ndarray]
    motion: Sequence[np.ndarray] = ()

    @classmethod
    def gather(cls, episodes: Sequence[RecordedEpisode], action: Signal, state: Signal | None,
               motion: Sequence[np.ndarray] = ()) -> Numbers:
        """Of episodes whose numbers are finite."""
        kept = [number for number, one in enumerate(episodes)
                if np.isfinite(one.actions).all() and (one.state is None or np.isfinite(one.state).all())]
        states = [np.asarray(one.state, np.float64) for one in (episodes[number] for number in kept)
                  if one.state is not None]
        return cls(action, state, [episodes[number].actions.astype(np.float64) for number in kept],
                   states if state is not None else [], [motion[number] for number in kept] if motion else ())

    @property
    def all_actions(self) -> np.ndarray:
        """`[sum of T, A]`."""
        return np.concatenate(self.actions) if self.actions else np.zeros((0, self.action.dim))


def gripper_of(signal: Signal) -> int | None:
    """Which number is the gripper's, by its name; None where none is called so, or several are."""
    found = [number for number, name in enumerate(signal.names) if "grip" in name.lower()]
    return found[0] if len(found) == 1 else None


def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of every column of `a` `[n, A]` with every one of `b` `[n, B]`, `[A, B]`; 0 for what is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    size = np.sqrt(np.outer(np.square(a).sum(0), np.square(b).sum(0)))
    scale = np.outer(np.abs(a).max(0, initial=0.0), np.abs(b).max(0, initial=0.0))
    found: np.ndarray = np.where(size > 1e-9 * np.maximum(scale, 1e-30), a.T @ b / np.maximum(size, 1e-300), 0.0)
    return found
