"""How several ways of scoring rank the same candidates, against each other and against the truth.

Easy to get wrong: costs of two objectives or fidelities are ranked against each other, never subtracted; what a wrong
choice costs is measured in the costs of the one that is trusted.  Shapes: N candidates, T ticks, A action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from wcsim.agents.objectives import Objective, imagined_cost
from wcsim.agents.search import knot_noise
from wcsim.config import StrictConfig
from wcsim.envs.tasks import Task
from wcsim.experiments.goal_starts import GoalStart
from wcsim.metrics.correlation import kendall, top_regret
from wcsim.types import Fidelity
from wcsim.world.world import World


@dataclass(frozen=True, slots=True)
class Scoring:
    """One way to score candidates; fidelity as in `imagined_cost`."""

    objective: Objective
    fidelity: Fidelity | None


class DrawConfig(StrictConfig):
    """How the candidates of an audit are drawn."""

    candidates: int = 16
    horizon: int = 8
    std_fraction: float = 0.15
    knots: int | None = 4


def audit(
    world: World, task: Task, goal: GoalStart, scorings: Mapping[str, Scoring], draws: DrawConfig, *, reference: str,
    seed: int,
) -> dict[str, Any]:
    """How every scoring ranks the same candidates from the goal's start, against `reference` and against the truth.

    Candidates: the demonstrator's own actions, to hold, and noise around that.  Per scoring: Kendall's tau of its costs
    to the reference's and to the truth's, what its favourite costs more than theirs, and milliseconds per candidate.
    """
    actions = draw(task, goal, draws, seed=seed)
    state = world.init(goal.start.frames[None], goal.start.actions[None], [seed])
    costs, ms = {}, {}
    for name, scoring in scorings.items():
        began = perf_counter()
        costs[name] = imagined_cost(world, state, fidelity=scoring.fidelity, objective=scoring.objective,
                                    max_lanes=64)(actions)
        ms[name] = 1e3 * (perf_counter() - began) / len(actions)
    true = true_costs(world, task, goal, actions, scorings[reference].objective)
    ranks = {name: {"tau": kendall(cost, costs[reference]), "regret": top_regret(cost, costs[reference]),
                    "true_tau": kendall(cost, true), "true_regret": top_regret(cost, true)}
             for name, cost in costs.items()}
    return {"scorings": ranks, "ms": ms, "spread": float(np.std(true))}


def draw(task: Task, goal: GoalStart, draws: DrawConfig, *, seed: int) -> np.ndarray:
    """Candidates `[N, T, A]` within the bounds: the demonstrator's, to hold, and noise around holding."""
    low, high = np.asarray(task.action.low), np.asarray(task.action.high)
    horizon = draws.horizon
    mean = np.repeat(np.asarray(task.hold_action(goal.start.frames[-1]))[None], horizon, axis=0)
    std = np.broadcast_to(draws.std_fraction * (high - low), mean.shape)
    noise = knot_noise(np.random.default_rng([seed, 3]), std, draws.candidates, min(draws.knots or horizon, horizon))
    noise[0] = 0.0
    actions = np.clip(mean + noise, low, high)
    shown = goal.actions[:horizon]
    actions[-1] = np.concatenate([shown, np.repeat(shown[-1:], horizon - len(shown), axis=0)])
    return np.asarray(actions)


def true_costs(world: World, task: Task, goal: GoalStart, actions: np.ndarray, objective: Objective) -> np.ndarray:
    """Costs `[N]` of what candidates `[N, T, A]` really lead to, seen through the codec as imagined ones are."""
    truth = task.make_truth()
    try:
        costs = []
        for plan in actions:
            truth.restore(goal.start.truth)
            frames = np.stack([truth.step(action).pixels for action in plan])
            costs.append(float(objective(world.encode(frames)[None], world.decode)[0]))
        return np.array(costs)
    finally:
        truth.close()
