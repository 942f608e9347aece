"""What acts: the contract over many lanes, the one over a single lane, and the policies that need no model.

Easy to get wrong: the first `act` after a `reset` answers the observation that opens the episode, and policies return
what they mean, even beyond the bounds; the rollout clips them and counts that.
Shapes: N lanes, A action, T recorded ticks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wcsim.actions import check_action
from wcsim.errors import ActionError, ConfigError
from wcsim.estimate import Episode

if TYPE_CHECKING:
    from wcsim.agents.reports import ActReport
    from wcsim.types import ActionSpec

Observation = Mapping[str, Any]
"""What one lane shows.  pixels: `[H, W, 3]` uint8, or a mapping of them by camera.  agent_pos: `[R]` the robot's own
state.  environment_state: `[E]` what is estimated of the scene, NaN where not found.  task: the instruction."""

Observations = Mapping[str, Any]
"""The same of N lanes, with a leading axis (`task` is a list of N texts), and `active` `[N]` bool: which lanes act."""

Hold = Callable[[Observation], np.ndarray]
"""An observation to the action `[A]` that keeps the robot where it is."""


class Policy(Protocol):
    """Acts in N lanes.  Everything random in a lane follows from the policy's own seed, the number of the lane's
    episode and the step.  A policy that plans may have `reports`, too; see `reports_of`."""

    def reset(self, mask: np.ndarray, episodes: Sequence[Episode]) -> None:
        """Episodes begin in the lanes of `mask` `[N]` bool.  episodes: one per lane; the others' are not read."""
        ...

    def act(self, observations: Observations, steps_left: int | None = None) -> np.ndarray:
        """The next actions `[N, A]` float64; rows of lanes that are not active are zero and mean nothing.  steps_left:
        ticks until the episodes end at the latest, the next one included; None: not known."""
        ...


def reports_of(policy: Policy, lanes: Sequence[int]) -> list[ActReport | None]:
    """What `policy.reports` says of the last `act` in these lanes; None where the policy says nothing."""
    reports: Sequence[ActReport | None] | None = getattr(policy, "reports", None)
    return [None if reports is None else reports[lane] for lane in lanes]


class LanePolicy(Protocol):
    """Acts in one lane; `PerLane` makes a `Policy` of several."""

    def reset(self, episode: Episode) -> None:
        """Forget the past; the next observation opens `episode`."""
        ...

    def act(self, observation: Observation, steps_left: int | None = None) -> np.ndarray:
        """The next action `[A]`."""
        ...


def lane_of(observations: Observations, lane: int) -> dict[str, Any]:
    """What one lane of N shows."""
    return {key: {name: view[lane] for name, view in value.items()} if isinstance(value, Mapping) else value[lane]
            for key, value in observations.items() if key != "active"}


def active_of(observations: Observations, lanes: int) -> np.ndarray:
    """`[N]` bool, which lanes act; all where the observations do not say.  ConfigError where N is not `lanes`."""
    active = np.asarray(observations.get("active", np.ones(lanes, bool)), bool)
    if active.shape != (lanes,):
        raise ConfigError(f"the policy has {lanes} lanes, the observations {list(active.shape)}")
    return active


def masked(mask: np.ndarray, episodes: Sequence[Episode], lanes: int) -> list[int]:
    """The lanes where episodes begin.  ConfigError unless mask and episodes are of N = `lanes`."""
    if np.shape(mask) != (lanes,) or len(episodes) != lanes:
        raise ConfigError(f"the policy has {lanes} lanes; reset got a mask of {list(np.shape(mask))} and "
                          f"{len(episodes)} episodes")
    return [int(lane) for lane in np.flatnonzero(mask)]


def stack(rows: Mapping[int, np.ndarray], lanes: int) -> np.ndarray:
    """Actions `[N, A]` of the lanes that acted, zero in the others."""
    actions = np.zeros((lanes, len(next(iter(rows.values()))) if rows else 0))
    for lane, row in rows.items():
        actions[lane] = row
    return actions


class PerLane:
    """A `Policy` of one `LanePolicy` per lane; it asks those of active lanes alone."""

    def __init__(self, lanes: Sequence[LanePolicy]) -> None:
        self.lanes = tuple(lanes)
        self.reports: Sequence[ActReport | None] = [None] * len(self.lanes)

    def reset(self, mask: np.ndarray, episodes: Sequence[Episode]) -> None:
        """See `Policy`."""
        for lane in masked(mask, episodes, len(self.lanes)):
            self.lanes[lane].reset(episodes[lane])

    def act(self, observations: Observations, steps_left: int | None = None) -> np.ndarray:
        """See `Policy`."""
        acting = np.flatnonzero(active_of(observations, len(self.lanes))).tolist()
        rows = {lane: np.asarray(self.lanes[lane].act(lane_of(observations, lane), steps_left)) for lane in acting}
        self.reports = [getattr(policy, "report", None) if lane in rows else None
                        for lane, policy in enumerate(self.lanes)]
        return stack(rows, len(self.lanes))


def announced(policy: Policy, lanes: Sequence[int], ticks: int) -> np.ndarray | None:
    """At most `ticks` actions `[n, k, A]` from the last `act` on, that one first, where all `lanes` know theirs.

    Policies per lane know them where each has a method `ahead(ticks)`; a world of clips then imagines them together.
    """
    knowing = [getattr(policy.lanes[lane], "ahead", None) for lane in lanes] if isinstance(policy, PerLane) else [None]
    if any(ahead is None for ahead in knowing):
        return None
    rows = [np.asarray(ahead(ticks)) for ahead in knowing if ahead is not None]
    return np.stack([row[: min(map(len, rows))] for row in rows])


class RandomPolicy:
    """Uniform in the bounds of `action`, each draw held for `hold` ticks."""

    def __init__(self, action: ActionSpec, *, hold: int = 1, seed: int = 0) -> None:
        if hold < 1:
            raise ConfigError(f"hold must be 1 or more ticks, got {hold}")
        self._spec, self._hold, self._seed = action, hold, seed

    def reset(self, episode: Episode) -> None:
        """Start the stream of draws that belongs to the episode's number."""
        self._rng = np.random.default_rng([self._seed, episode.number])
        self._tick = 0

    def act(self, observation: Observation, steps_left: int | None = None) -> np.ndarray:
        """The action `[A]` held now."""
        if self._tick % self._hold == 0:
            self._action = self._rng.uniform(self._spec.low, self._spec.high)
        self._tick += 1
        return self._action.copy()


class ReplayPolicy:
    """Plays `actions` `[T, A]` in every episode; None: those recorded with each (`Episode.actions`).

    ActionError for actions of another shape, or not finite, and for given ones beyond the bounds; recorded ones may lie
    beyond them, as they were meant.
    """

    def __init__(self, action: ActionSpec, actions: np.ndarray | None = None) -> None:
        self._spec, self._given = action, actions
        if actions is not None:
            self._check(actions)
            check_action(action, actions)

    def reset(self, episode: Episode) -> None:
        """Rewind.  ConfigError where nothing was given and nothing is recorded."""
        actions = episode.actions if self._given is None else self._given
        if actions is None:
            raise ConfigError(f"episode {episode.number} has no recorded actions to play; use a task of recordings, or "
                              "another policy than recorded")
        self._check(actions)
        self._actions, self._tick = np.array(actions, np.float64), 0

    def act(self, observation: Observation, steps_left: int | None = None) -> np.ndarray:
        """The next action `[A]`; ActionError after the last."""
        if self._tick == len(self._actions):
            raise ActionError(f"the recording holds {len(self._actions)} actions and all have been played; ask for "
                              "fewer steps")
        self._tick += 1
        return np.array(self._actions[self._tick - 1])

    def ahead(self, ticks: int) -> np.ndarray:
        """At most so many actions `[k, A]` from the last one on."""
        return np.array(self._actions[self._tick - 1 : self._tick - 1 + ticks])

    def _check(self, actions: np.ndarray) -> None:
        array = np.asarray(actions)
        if array.ndim != 2 or not len(array) or array.shape[1] != self._spec.dim or not np.isfinite(array).all():
            raise ActionError(f"recorded actions must be finite [T >= 1, {self._spec.dim}], got {list(array.shape)}")


class HoldPolicy:
    """Holds the robot where it is first seen, by what `hold` says then: the policy that any other must beat."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    def reset(self, episode: Episode) -> None:
        """Forget the place."""
        self._action: np.ndarray | None = None

    def act(self, observation: Observation, steps_left: int | None = None) -> np.ndarray:
        """The action `[A]` that holds it."""
        if self._action is None:
            self._action = np.asarray(self._hold(observation), np.float64)
        return self._action.copy()


class NoisyPolicy:
    """Another policy with an unsteady hand: a mix of good and bad days from one expert.

    std: of the noise on every action, in the units of `action`.  memory: share of it that stays from one tick to the
    next, so that it wanders instead of cancelling out.  lapse: how often, per tick, it acts at random for `hold` ticks.
    Noise ends at the bounds: its actions are clipped.
    """

    def __init__(
        self, policy: LanePolicy, action: ActionSpec, *, std: float = 0.0, memory: float = 0.7, lapse: float = 0.0,
        hold: int = 4, seed: int = 0,
    ) -> None:
        if std < 0 or not 0 <= memory < 1 or not 0 <= lapse <= 1 or hold < 1:
            raise ConfigError(f"noise needs std >= 0, memory in [0, 1), lapse in [0, 1] and hold >= 1; got {std}, "
                              f"{memory}, {lapse}, {hold}")
        self._policy, self._low, self._high = policy, np.asarray(action.low), np.asarray(action.high)
        self._std, self._memory, self._lapse, self._hold, self._seed = std, memory, lapse, hold, seed

    def reset(self, episode: Episode) -> None:
        """Start the noise that belongs to the episode's number."""
        self._rng = np.random.default_rng([self._seed, episode.number])
        self._noise, self._lapsed = np.zeros(len(self._low)), 0
        self._policy.reset(episode)

    def act(self, observation: Observation, steps_left: int | None = None) -> np.ndarray:
        """The other policy's action `[A]`, disturbed, within the bounds."""
        fresh = self._rng.normal(0.0, self._std, len(self._low))
        self._noise = self._memory * self._noise + np.sqrt(1.0 - self._memory**2) * fresh
        wish = self._policy.act(observation, steps_left)
        slips, random = self._rng.uniform() < self._lapse, self._rng.uniform(self._low, self._high)
        if slips and not self._lapsed:
            self._lapsed, self._random = self._hold, random
        if self._lapsed:
            self._lapsed -= 1
            return self._random.copy()
        return np.clip(wish + self._noise, self._low, self._high)
