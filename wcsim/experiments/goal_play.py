"""One episode towards a goal, and one look at how the ways of imagining rank the same candidates.

Easy to get wrong: costs of two objectives or fidelities are ranked against each other, never subtracted; what a wrong
choice costs is told in the costs of the one that is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from wcsim.agents.mpc import MPCAgent
from wcsim.agents.objectives import Objective, imagined_cost
from wcsim.agents.policies import Observation, Policy
from wcsim.agents.reports import ActReport
from wcsim.agents.search import knot_noise
from wcsim.envs.tasks import Task
from wcsim.experiments.goal_task import Goal
from wcsim.experiments.lanes import Lanes, Sight
from wcsim.track.correlation import kendall, top_regret
from wcsim.types import Fidelity, WorldState
from wcsim.world.world import World

Limits = tuple[float, float]
"""Pixels and degrees within which a goal counts as reached."""


@dataclass(slots=True)
class Attempt:
    """What an agent did.  offs: `[3]` per step, see `Goal.distances`.  act_ms: of each action.  reports: a
    planner's."""

    offs: list[np.ndarray] = field(default_factory=list)
    act_ms: list[float] = field(default_factory=list)
    reports: list[ActReport] = field(default_factory=list)
    reached: bool = False
    block_reached: bool = False


def attempt(
    task: Task, lanes: Lanes, goal: Goal, player: Policy | MPCAgent, *, episode: int, max_steps: int, limits: Limits
) -> Attempt:
    """Act until the goal is reached or for `max_steps`.  Reached is judged by the state in the truth, by the judge in a
    world: agent and block together within the pixels (the norm of both offsets), the turn within the degrees."""
    sight, told = Sight(task, [goal.start]), Attempt()
    player.reset(sight.observation(0), episode=episode)
    for step in range(max_steps):
        began = perf_counter()
        action = act(player, sight.observation(0), max_steps - step)
        told.act_ms.append(1e3 * (perf_counter() - began))
        report = getattr(player, "last", None)
        if report is not None:
            told.reports.append(report)
        frames, exact = lanes.step(np.asarray(action)[None])
        judged = sight.look(frames)
        off = goal.distances(judged if exact is None else exact)
        told.offs.append(off)
        told.reached = bool(np.hypot(off[0], off[1]) < limits[0] and off[2] < limits[1])
        told.block_reached |= bool(off[1] < limits[0] and off[2] < limits[1])
        if told.reached:
            break
    lanes.keep(np.arange(0))
    return told


def act(player: Policy | MPCAgent, observation: Observation, steps_left: int) -> np.ndarray:
    """A planner is told when the episode ends."""
    if isinstance(player, MPCAgent):
        return player.act(observation, steps_left=steps_left)
    return player.act(observation)


def attempt_row(told: Attempt) -> dict[str, Any]:
    """An attempt as numbers; `act_ms` alone may differ between two of the same."""
    kept = [report.kept for report in told.reports if report.kept is not None]
    plans = [report for report in told.reports if report.replanned]
    return {
        "steps": len(told.offs), "reached": told.reached, "block_reached": told.block_reached,
        **dict(zip(("agent_px", "block_px", "block_deg"), told.offs[-1].tolist(), strict=True)),
        "plans": len(plans), "calls": sum(report.calls for report in plans),
        "promised": [promised for promised, _ in kept], "came": [came for _, came in kept],
        "rank_agreement": _known(report.rank_agreement for report in plans),
        "regret": _known(report.regret for report in plans),
        "prediction": _known(report.error.latent for report in told.reports if report.error is not None),
        "act_ms": told.act_ms,
    }


def _known(values: Any) -> list[float]:
    return [float(value) for value in values if value is not None]


@dataclass(frozen=True, slots=True)
class Opinion:
    """How one arm scores candidates; fidelity as in `imagined_cost`."""

    objective: Objective
    fidelity: Fidelity | None


def audit(
    world: World, task: Task, goal: Goal, opinions: Mapping[str, Opinion], *, reference: str, candidates: int,
    horizon: int, std_fraction: float, knots: int | None, seed: int,
) -> dict[str, Any]:
    """How every opinion ranks the same candidates from the goal's start, against `reference` and against the truth.

    Candidates: the demonstrator's own actions, to stay, and noise around that.  Per opinion: Kendall's tau of its costs
    to the reference's and to the truth's, what its favourite costs more than theirs, and milliseconds per candidate.
    """
    actions = draw(task, goal, candidates=candidates, horizon=horizon, std_fraction=std_fraction, knots=knots,
                   seed=seed)
    state = world.init(goal.start.frames[None], goal.start.actions[None], [seed])
    costs, ms = {}, {}
    for name, opinion in opinions.items():
        began = perf_counter()
        costs[name] = _costs(world, state, actions, opinion)
        ms[name] = 1e3 * (perf_counter() - began) / len(actions)
    true = true_costs(world, task, goal, actions, opinions[reference].objective)
    told = {name: {"tau": kendall(cost, costs[reference]), "regret": top_regret(cost, costs[reference]),
                   "true_tau": kendall(cost, true), "true_regret": top_regret(cost, true)}
            for name, cost in costs.items()}
    return {"opinions": told, "ms": ms, "spread": float(np.std(true))}


def _costs(world: World, state: WorldState, actions: np.ndarray, opinion: Opinion) -> np.ndarray:
    return imagined_cost(world, state, fidelity=opinion.fidelity, objective=opinion.objective, max_lanes=64)(actions)


def draw(
    task: Task, goal: Goal, *, candidates: int, horizon: int, std_fraction: float, knots: int | None, seed: int
) -> np.ndarray:
    """Candidates `[N, T, A]` within the bounds: the demonstrator's, to stay, and noise around staying."""
    low, high = np.asarray(task.action.low), np.asarray(task.action.high)
    mean = np.repeat(np.asarray(task.stay(goal.start.frames[-1]))[None], horizon, axis=0)
    std = np.broadcast_to(std_fraction * (high - low), mean.shape)
    noise = knot_noise(np.random.default_rng([seed, 3]), std, candidates, min(knots or horizon, horizon))
    noise[0] = 0.0
    actions = np.clip(mean + noise, low, high)
    shown = goal.actions[:horizon]
    actions[-1] = np.concatenate([shown, np.repeat(shown[-1:], horizon - len(shown), axis=0)])
    return np.asarray(actions)


def true_costs(world: World, task: Task, goal: Goal, actions: np.ndarray, objective: Objective) -> np.ndarray:
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
