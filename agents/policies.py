"""What acts: the contract, and the policies that need no model.

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


class StillPolicy:
    """Stays where it is first seen: the policy that any other must beat."""

    def reset(self, observation: Observation, *, episode: int = 0) -> None:
        """Remember the agent's place."""
        self._place = np.array(observation["agent_pos"], dtype=np.float64)

    def act(self, observation: Observation) -> np.ndarray:
        """That place."""
        return self._place.copy()


class NoisyPolicy:
    """Another policy with an unsteady hand: a mix of good and bad days from one expert.

    std: of the noise on every action, in the units of `action`.  memory: share of it that stays from one tick to the
    next, so that it wanders instead of cancelling out.  lapse: how often, per tick, it acts at random for `hold` ticks.
    """

    def __init__(
        self, policy: Policy, action: ActionSpec, *, std: float = 0.0, memory: float = 0.7, lapse: float = 0.0,
        hold: int = 4, seed: int = 0,
    ) -> None:
        if std < 0 or not 0 <= memory < 1 or not 0 <= lapse <= 1 or hold < 1:
            raise ConfigError(f"noise needs std >= 0, memory in [0, 1), lapse in [0, 1] and hold >= 1; got {std}, "
                              f"{memory}, {lapse}, {hold}")
        self._policy, self._low, self._high = policy, np.asarray(action.low), np.asarray(action.high)
        self._std, self._memory, self._lapse, self._hold, self._seed = std, memory, lapse, hold, seed

    def reset(self, observation: Observation, *, episode: int = 0) -> None:
        """Start the noise that belongs to `episode`."""
        self._rng = np.random.default_rng([self._seed, episode])
        self._noise, self._lapsed = np.zeros(len(self._low)), 0
        self._policy.reset(observation, episode=episode)

    def act(self, observation: Observation) -> np.ndarray:
        """The other policy's action `[A]`, disturbed, within the bounds."""
        fresh = self._rng.normal(0.0, self._std, len(self._low))
        self._noise = self._memory * self._noise + np.sqrt(1.0 - self._memory**2) * fresh
        wish = self._policy.act(observation)
        slips, random = self._rng.uniform() < self._lapse, self._rng.uniform(self._low, self._high)
        if slips and not self._lapsed:
            self._lapsed, self._random = self._hold, random
        if self._lapsed:
            self._lapsed -= 1
            return self._random.copy()
        return np.clip(wish + self._noise, self._low, self._high)
