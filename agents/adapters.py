"""Third-party policies behind this project's contract: any callable, and Stable-Baselines3.

A source turns one lane's observation into one action or a chunk; `ChunkedPolicy` plays chunks and turns what they say
into the environment's units.  Easy to get wrong: a delta is relative to where the robot is when the chunk is made, and
all of a chunk is, not each action to the one before; only the task knows which action stands for where the robot is.
Shapes: k actions of a chunk, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from wcsim.agents.policies import Hold, Observation, Observations, Policy, active_of, masked
from wcsim.agents.randomness import SeededPolicy, seeded
from wcsim.errors import ActionError, ConfigError
from wcsim.estimate import Episode

if TYPE_CHECKING:
    from wcsim.agents.reports import ActReport
    from wcsim.types import ActionSpec

Source = Callable[[Observation], np.ndarray]
"""An observation to an action `[A]` or a chunk `[k, A]`, in the source's own units."""

Units = Literal["native", "unit"]
"""The environment's units, or [-1, 1] for low to high."""


class ChunkedPolicy:
    """A `LanePolicy` that plays what `source` says.

    units, delta: what its numbers mean; a delta is added to the action that `hold` says for what the source saw, and in
    `unit` one is half the action range.  execute: actions of a chunk to play before asking again (None: all).  restart:
    called at every reset.  seed: numbers, with the episode and the step, the global generators while the source runs.
    """

    def __init__(
        self, source: Source, action: ActionSpec, *, units: Units = "native", delta: bool = False,
        hold: Hold | None = None, execute: int | None = None, restart: Callable[[], object] = lambda: None,
        seed: int = 0,
    ) -> None:
        if units not in ("native", "unit"):
            raise ConfigError(f"units {units!r} are unknown; known: native, unit")
        if execute is not None and execute < 1:
            raise ConfigError(f"execute must be 1 or more actions, got {execute}")
        if delta and hold is None:
            raise ConfigError("deltas are added to the action that holds the robot where it is; give hold")
        self._source, self._restart, self._execute, self._seed = source, restart, execute, seed
        self._hold = hold if delta else None
        self._low, self._high = np.asarray(action.low, np.float64), np.asarray(action.high, np.float64)
        self._unit = units == "unit"
        self.reset(Episode(0, 0), quiet=True)

    def reset(self, episode: Episode, *, quiet: bool = False) -> None:
        """Drop what is left of the last chunk.  quiet: do not tell the source."""
        self._queue: list[np.ndarray] = []
        self._number, self._step = episode.number, 0
        if not quiet:
            with seeded(self._seed, self._number):
                self._restart()

    def act(self, observation: Observation, steps_left: int | None = None) -> np.ndarray:
        """The next action `[A]`, asking the source where its chunk has been played."""
        if not self._queue:
            self._queue = list(self.chunk(observation)[: self._execute])
        self._step += 1
        return np.array(self._queue.pop(0))

    def chunk(self, observation: Observation) -> np.ndarray:
        """What the source says now, `[k, A]` in the environment's units.  ActionError where that is no chunk."""
        with seeded(self._seed, self._number, self._step):
            answer = np.asarray(self._source(observation), dtype=np.float64)
        chunk = answer[None] if answer.ndim == 1 else answer
        if chunk.ndim != 2 or chunk.shape[1] != len(self._low) or len(chunk) < 1 or not np.isfinite(chunk).all():
            raise ActionError(f"a policy must return finite [{len(self._low)}] or [k >= 1, {len(self._low)}], got "
                              f"{list(answer.shape)}{'' if np.isfinite(answer).all() else ' with NaN or infinity'}")
        half = (self._high - self._low) / 2
        if self._unit:
            chunk = chunk * half + (0.0 if self._hold else self._low + half)
        if self._hold is not None:
            chunk = chunk + np.asarray(self._hold(observation), np.float64)
        return chunk


def part(observation: Mapping[str, Any], key: str) -> Any:
    """An entry of an observation: `agent_pos`, or `pixels/front` for one of several cameras.  ConfigError where there
    is none, with those that there are."""
    value: Any = observation
    for name in key.split("/"):
        if not isinstance(value, Mapping) or name not in value:
            raise ConfigError(f"a policy reads {key!r}; the observation has {', '.join(_keys(observation))}")
        value = value[name]
    if isinstance(value, Mapping):
        raise ConfigError(f"a policy reads {key!r}, which is of several cameras; name one of "
                          f"{', '.join(f'{key}/{name}' for name in value)}")
    return value


def _keys(observation: Mapping[str, Any]) -> list[str]:
    return [name for key, value in observation.items()
            for name in ([f"{key}/{camera}" for camera in value] if isinstance(value, Mapping) else [key])]


class Predictor(Protocol):
    """What Stable-Baselines3's algorithms offer."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]: ...


def reading(model: Predictor) -> Callable[[Observations], Any]:
    """What of the observations a model with a space of named entries was trained on.  ConfigError for another space."""
    names = list(getattr(getattr(model, "observation_space", None), "spaces", None) or ())
    if not names:
        raise ConfigError("the model was trained on observations without names; give read, a function of the "
                          "observations that returns what it was trained on")
    return lambda seen: {name: part(seen, name) for name in names}


class PredictingPolicy:
    """A `Policy` of an object with Stable-Baselines3's `predict`, recurrent or not: one call for all lanes."""

    def __init__(self, model: Predictor, action: ActionSpec, num_lanes: int, *, read: Callable[[Observations], Any],
                 deterministic: bool = True) -> None:
        self._model, self._read, self._deterministic = model, read, deterministic
        self._dim, self._state, self._begins = action.dim, None, np.ones(num_lanes, bool)
        self.reports: Sequence[ActReport | None] = [None] * num_lanes

    def reset(self, mask: np.ndarray, episodes: Sequence[Episode]) -> None:
        """See `Policy`."""
        self._begins[masked(mask, episodes, len(self._begins))] = True

    def act(self, observations: Observations, steps_left: int | None = None) -> np.ndarray:
        """See `Policy`."""
        lanes = len(self._begins)
        active = active_of(observations, lanes)
        seen = self._read({key: value for key, value in observations.items() if key != "active"})
        answer, self._state = self._model.predict(
            seen, state=self._state, episode_start=self._begins.copy(), deterministic=self._deterministic)
        self._begins[:] = False
        actions = np.asarray(answer, np.float64)
        if actions.shape != (lanes, self._dim) or not np.isfinite(actions).all():
            raise ActionError(f"predict must return finite [{lanes}, {self._dim}], got {list(actions.shape)}")
        return np.where(active[:, None], actions, 0.0)


def sb3_policy(
    model: Predictor, action: ActionSpec, *, num_lanes: int = 1, read: Callable[[Observations], Any] | None = None,
    deterministic: bool = True, seed: int = 0,
) -> Policy:
    """A Stable-Baselines3 model as a policy of `num_lanes` lanes, which share each call; its `predict` already speaks
    the environment's units.

    read: observations of N lanes to what the model was trained on; None: the entries that its space names.  What it
    draws follows from `seed`, and in each lane from its episode's number and step.
    """
    policy = PredictingPolicy(model, action, num_lanes, read=read or reading(model), deterministic=deterministic)
    return SeededPolicy(policy, num_lanes, seed=seed)
