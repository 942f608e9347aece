"""Successive halving: all candidates imagined cheaply, those that look well imagined better, and so on.

It is a cost made of two costs, either of which may be such a one, so any planner takes it.  Easy to get wrong: a
candidate that fell out keeps its place behind every survivor, but its number is no longer a measured cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from wcsim.agents.objectives import Objective, imagined_cost
from wcsim.errors import ConfigError
from wcsim.metrics.correlation import kendall, top_regret
from wcsim.types import CostFn, Fidelity, Trace, WorldState

if TYPE_CHECKING:
    from wcsim.world.world import World


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung of the ladder: candidates are imagined at `fidelity` (None: predicted by the state model, see
    `imagined_cost`), for the first `ticks` (None: all); `survivors` go on, and with 0 this rung has the last word."""

    fidelity: Fidelity | None
    survivors: int
    ticks: int | None = None


@dataclass(frozen=True, slots=True)
class RungReport:
    """The two opinions of one round.  low: costs `[N]` of all.  high: costs `[S]` of the survivors.  survivors: `[S]`
    their indices, candidate 0 first whatever it costs, then the best by `low`."""

    low: np.ndarray
    high: np.ndarray
    survivors: np.ndarray

    @property
    def rank_agreement(self) -> float:
        """Kendall's tau-a of both costs over the survivors: 1 the same order, -1 the reverse; NaN for fewer than 2."""
        return kendall(self.low[self.survivors], self.high)

    @property
    def regret(self) -> float:
        """What trusting `low` for the best of the survivors would have cost, in units of `high`."""
        return top_regret(self.low[self.survivors], self.high)


def successive_halving(
    low: CostFn, high: CostFn, *, survivors: int, ticks: int | None = None,
    watch: Callable[[RungReport], None] = lambda report: None,
) -> CostFn:
    """A cost that asks `low` about all candidates and `high` about the best `survivors` of them and candidate 0.

    Those that fell out follow the worst survivor in the order of `low`.  ticks: how much of a plan `low` is shown.
    """
    if survivors < 1:
        raise ConfigError(f"survivors must be 1 or more, got {survivors}")

    def cost(actions: np.ndarray) -> np.ndarray:
        first = np.asarray(low(actions[:, :ticks]), dtype=np.float64)
        first = np.where(np.isfinite(first), first, np.inf)
        order = np.argsort(first, kind="stable")
        # The warm start is always scored properly, by a rung within `high`, too, for which it must stay the first.
        chosen = np.concatenate([[0], order[order != 0][: survivors - 1]])
        exact = np.asarray(high(actions[chosen]), dtype=np.float64)
        watch(RungReport(first, exact, chosen))
        known = exact[np.isfinite(exact)]
        behind = first - np.min(first[np.isfinite(first)], initial=np.inf)
        costs = (known.max() if known.size else np.inf) + behind
        costs[chosen] = exact
        return np.where(np.isnan(costs), np.inf, costs)

    return cost


def halving_cost(
    world: World, state: WorldState, *, fidelity: Fidelity | None, objective: Objective, max_lanes: int,
    rungs: Sequence[Rung], watch: Callable[[Trace], None], report: Callable[[RungReport], None],
) -> CostFn:
    """`imagined_cost` at `fidelity`, behind `rungs` (see `check_rungs`) where there are any; `report` is given what
    every rung said."""
    cost = imagined_cost(world, state, fidelity=fidelity, objective=objective, max_lanes=max_lanes, watch=watch)
    for rung in reversed(rungs):
        low = imagined_cost(world, state, fidelity=rung.fidelity, objective=objective, max_lanes=max_lanes,
                            watch=watch)
        cost = low if rung.survivors == 0 else successive_halving(
            low, cost, survivors=rung.survivors, ticks=rung.ticks, watch=report)
    return cost


def check_rungs(rungs: Sequence[Rung]) -> None:
    """Raise ConfigError unless each rung lets fewer through than the one before, and the last one sees
    whole plans."""
    counts = [rung.survivors for rung in rungs]
    if any(after >= before for before, after in pairwise(counts)):
        raise ConfigError(f"survivors of the rungs are {counts}; each must let fewer through than the one before")
    if rungs and rungs[-1].survivors == 0 and rungs[-1].ticks is not None:
        raise ConfigError(f"ticks of the last rung is {rungs[-1].ticks}; without survivors it has the last word, and "
                          "must see whole plans")
