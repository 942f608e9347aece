"""The loop that every sampling planner shares: draw candidates, score them, keep the best, refit, stop in time.

A planner is a rule for refitting; everything else lives here once.  Easy to get wrong: the answer is the best candidate
ever scored, not the final mean, which was never scored.  Shapes: N candidates, T ticks, A action, K knots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NotRequired, TypedDict, Unpack

import numpy as np

from wcsim.errors import ConfigError, WcsimError
from wcsim.timing.budget import Budget
from wcsim.types import CostFn

Refit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Elite actions `[E, T, A]` and their costs `[E]`, best first, to the next mean and std `[T, A]`."""

Noise = Callable[[np.random.Generator, np.ndarray, int], np.ndarray]
"""Generator, std `[T, A]` and a count N to noise `[N, T, A]`."""


class PlanningError(WcsimError):
    """A planner has nothing to choose from."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a planner found, and what that took.

    actions: `[T, A]` the best candidate scored, or the clipped warm start where none was.  mean, std: `[T, A]` where
    the search stood at the end.  cost: of `actions`, infinite where nothing was scored.  cost_of_mean: of the warm
    start, likewise; `cost` is never above it.  rounds: completed.  calls: candidates scored.  invalid: how many of them
    cost NaN or infinity.  seconds: by the budget's clock.  exhausted: the budget ended the search before its last
    round.  trace: per round the best cost and the mean cost of the elites.
    """

    actions: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    cost: float
    cost_of_mean: float
    rounds: int
    calls: int
    invalid: int
    seconds: float
    exhausted: bool
    trace: tuple[tuple[float, float], ...]


class Settings(TypedDict):
    """What every planner takes by keyword.

    low, high: inclusive bounds, `[A]` or `[T, A]`.  rounds: at most.  candidates: per round.  budget: its calls are
    candidates.  knots: see `knot_noise`; every tick is one if left out.  reserve_ms: time to leave for what follows.
    proposals: `[P, T, A]` other candidates (a policy's, say), scored in the first round in place of drawn ones.
    """

    low: np.ndarray
    high: np.ndarray
    rng: np.random.Generator
    rounds: int
    candidates: int
    budget: Budget
    knots: NotRequired[int]
    reserve_ms: NotRequired[float]
    proposals: NotRequired[np.ndarray]


def search(
    cost: CostFn, mean: np.ndarray, std: np.ndarray, *, refit: Refit, elites: int, noise: Noise | None = None,
    keep: int = 0, decay: float = 1.0, score_last: bool = False, **settings: Unpack[Settings],
) -> Plan:
    """The best of several rounds of action sequences drawn around `mean` `[T, A]` with `std` `[T, A]`.

    Candidates are clipped to the bounds; candidate 0 of every round is the mean itself.  A round begins only where the
    budget still holds its candidates and the time that the last one took.  A NaN or infinite cost counts as worst.
    noise: instead of `knot_noise`.  keep: elites scored again in the next round.  decay: each round has this many times
    fewer candidates than the last, though never fewer than twice the elites.  score_last: also score the final mean.
    Raises ConfigError for settings that make no search, PlanningError where all costs of a round are NaN or infinite.
    """
    low, high, budget = settings["low"], settings["high"], settings["budget"]
    knots, reserve_ms = settings.get("knots", len(mean)), settings.get("reserve_ms", 0.0)
    proposals = settings.get("proposals", np.zeros((0, *mean.shape)))
    _check(mean, std, low, high, proposals, rounds=settings["rounds"], candidates=settings["candidates"],
           elites=elites, knots=knots)
    tally = _Tally(cost, budget, np.clip(mean, low, high))
    kept, round_ms, count = proposals, 0.0, settings["candidates"]
    while len(tally.trace) < settings["rounds"]:
        if budget.exhausted or budget.would_exceed(round_ms + reserve_ms, count):
            break
        started_ms = budget.elapsed_ms
        drawn = noise(settings["rng"], std, count) if noise else knot_noise(settings["rng"], std, count, knots)
        actions = mean + drawn
        actions[0] = mean
        kept = kept[: count - 1]
        actions[1 : 1 + len(kept)] = kept
        best, costs = tally.score(np.clip(actions, low, high), elites)
        mean, std = refit(best, costs)
        kept, count = best[:keep], max(min(2 * elites, count), round(count / decay))
        round_ms = budget.elapsed_ms - started_ms
    finished = len(tally.trace) == settings["rounds"]
    if score_last and finished and not (budget.exhausted or budget.would_exceed(round_ms + reserve_ms, 1)):
        tally.score(np.clip(mean, low, high)[None], 1, count_round=False)
    return tally.plan(mean, std, exhausted=not finished)


class _Tally:
    """What a search has scored so far."""

    def __init__(self, cost: CostFn, budget: Budget, fallback: np.ndarray) -> None:
        self._cost, self._budget, self._began_ms = cost, budget, budget.elapsed_ms
        self._best, self._best_cost, self._cost_of_mean = fallback, np.inf, np.inf
        self._calls = self._invalid = 0
        self.trace: list[tuple[float, float]] = []

    def score(self, actions: np.ndarray, elites: int, *, count_round: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Score candidates `[N, T, A]`; the elites among them and their costs, best first."""
        costs = _score(self._cost, actions)
        self._budget.spend(len(actions))
        valid = int(np.isfinite(costs).sum())
        chosen = np.argsort(costs, kind="stable")[: min(elites, valid)]  # stable: the mean wins a tie
        if not self._calls:
            self._cost_of_mean = float(costs[0])
        self._calls += len(actions)
        self._invalid += len(actions) - valid
        if costs[chosen[0]] < self._best_cost:
            self._best, self._best_cost = actions[chosen[0]], float(costs[chosen[0]])
        if count_round:
            self.trace.append((float(costs[chosen[0]]), float(costs[chosen].mean())))
        return actions[chosen], costs[chosen]

    def plan(self, mean: np.ndarray, std: np.ndarray, *, exhausted: bool) -> Plan:
        """The result."""
        return Plan(
            self._best, mean, std, self._best_cost, self._cost_of_mean, rounds=len(self.trace), calls=self._calls,
            invalid=self._invalid, seconds=1e-3 * (self._budget.elapsed_ms - self._began_ms), exhausted=exhausted,
            trace=tuple(self.trace),
        )


def knot_noise(rng: np.random.Generator, std: np.ndarray, count: int, knots: int) -> np.ndarray:
    """Normal noise `[count, T, A]`, drawn at `knots` evenly spread ticks with their `std` and linear between them.

    The first and the last tick are knots; `std` `[T, A]` is not read between knots.  One knot moves all ticks alike.
    """
    ticks = np.linspace(0, len(std) - 1, knots).round().astype(int)
    drawn = rng.standard_normal((count, knots, std.shape[1])) * std[ticks]
    weights = np.stack([np.interp(np.arange(len(std)), ticks, one) for one in np.eye(knots)], axis=1)
    noise: np.ndarray = np.einsum("tk,nka->nta", weights, drawn)
    return noise


def _score(cost: CostFn, actions: np.ndarray) -> np.ndarray:
    """Costs `[N]`, infinite where not finite."""
    costs = np.asarray(cost(actions), dtype=np.float64)
    if costs.shape != (len(actions),):
        raise PlanningError(f"a cost must return one number per candidate: [{len(actions)}], got {list(costs.shape)}")
    costs = np.where(np.isfinite(costs), costs, np.inf)
    if np.isinf(costs).all():
        raise PlanningError(f"all {len(actions)} candidates cost NaN or infinity; the world or the objective is broken "
                            f"for this state")
    return costs


def _check(
    mean: np.ndarray, std: np.ndarray, low: np.ndarray, high: np.ndarray, proposals: np.ndarray, **counts: int
) -> None:
    """Raise ConfigError where a search could not begin."""
    if mean.ndim != 2 or mean.size == 0 or mean.shape != std.shape:
        raise ConfigError(f"mean and std must both be [T, A] and not empty, got {list(mean.shape)}, {list(std.shape)}")
    if not np.isfinite(mean).all() or not np.isfinite(std).all() or (std < 0).any():
        raise ConfigError("mean and std must be finite and std not negative")
    shapes = (mean.shape[1:], mean.shape)
    if np.shape(low) not in shapes or np.shape(high) not in shapes or not np.all(low <= high):
        raise ConfigError(f"low and high must be [A] or [T, A] with low <= high, got {low} and {high}")
    if proposals.shape[1:] != mean.shape or not np.isfinite(proposals).all():
        raise ConfigError(f"proposals must be finite [P, {mean.shape[0]}, {mean.shape[1]}], got "
                          f"{list(proposals.shape)}")
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} must be 1 or more, got {count}")
    if counts["elites"] > counts["candidates"]:
        raise ConfigError(f"elites must be at most candidates ({counts['candidates']}), got {counts['elites']}")
    if counts["knots"] > len(mean):
        raise ConfigError(f"knots must be at most the plan's {len(mean)} ticks, got {counts['knots']}")
