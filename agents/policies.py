"""What acts: the contract, and the two policies that need no world.

Easy to get wrong: the first `act` after a `reset` answers the observation that `reset` was given, and every later one
answers what the last action led to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from wcsim.errors import ActionError, ConfigError

if TYPE_CHECKING:
    from wcsim.types import ActionSpec

Observation = Mapping[str, np.ndarray]
"""What an environment shows; `pixels` is `[H, W, 3]` uint8."""


class Policy(Protocol):
    """Acts on what it sees.  Everything random in it follows from its own seed and `episode`."""

    def reset(self, observation: Observation, *, episode: int = 0) -> None:
        """Forget the past; `observation` opens episode number `episode`."""
        ...

    def act(self, observation: Observation) -> np.ndarray:
        """The next action `[A]`, in the environment's units."""
        ...


class RandomPolicy:
    """Uniform in the bounds of `action`, each draw held for `hold` ticks."""

    def __init__(self, action: ActionSpec, *, hold: int = 1, seed: int = 0) -> None:
        if hold < 1:
            raise ConfigError(f"hold must be 1 or more ticks, got {hold}")
        self._spec, self._hold, self._seed = action, hold, seed
        self._rng = np.random.default_rng([seed, 0])
        self._tick = 0

    def reset(self, observation: Observation, *, episode: int = 0) -> None:
        """Start the stream of draws that belongs to `episode`."""
        self._rng = np.random.default_rng([self._seed, episode])
        self._tick = 0

    def act(self, observation: Observation) -> np.ndarray:
        """The action `[A]` held now."""
        if self._tick % self._hold == 0:
            self._action = self._rng.uniform(self._spec.low, self._spec.high)
        self._tick += 1
        return self._action.copy()


class ReplayPolicy:
    """Plays back `actions` `[T, A]` in every episode."""

    def __init__(self, actions: np.ndarray) -> None:
        self._actions = np.array(actions)
        self._tick = 0

    def reset(self, observation: Observation, *, episode: int = 0) -> None:
        """Rewind."""
        self._tick = 0

    def act(self, observation: Observation) -> np.ndarray:
        """The next recorded action `[A]`; raises ActionError after the last."""
        if self._tick == len(self._actions):
            raise ActionError(f"the recording holds {len(self._actions)} actions and all have been played")
        self._tick += 1
        action: np.ndarray = self._actions[self._tick - 1].copy()
        return action
