"""From a world and an objective to the one thing that a planner knows: a cost.

All candidates branch from one lane, so they share its seed and therefore its noise: differences in cost come from the
actions alone.  Easy to get wrong: planning in latents never decodes, and `StateGoal` decodes only the frames it reads.
Where a world has a state model, a cost may ask it alone, and no frame is rendered.
Shapes: N candidates, T imagined frames, C h w latent, H W frame, M frames that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from wcsim.errors import ConfigError
from wcsim.estimate import Episode, Estimate, Goal
from wcsim.spec import Quantity, StateSpec, Values
from wcsim.types import CostFn, Fidelity, Trace, WorldState

if TYPE_CHECKING:
    from wcsim.world.world import World

Decode = Callable[[Tensor], np.ndarray]
"""Latents `[..., C, h, w]` to uint8 frames `[..., H, W, 3]`."""


class Objective(Protocol):
    """Scores imagined latents `[N, T, C, h, w]`: `[N]` float64, lower is better.  Some read decoded frames."""

    def __call__(self, latents: Tensor, decode: Decode) -> np.ndarray: ...


class Estimator(Protocol):
    """What an objective of states needs of a task."""

    @property
    def state(self) -> StateSpec: ...

    def estimate(self, frames: np.ndarray) -> Estimate:
        """What frames uint8 `[M, H, W, 3]` show."""
        ...

    def estimate_state(self, values: Values) -> Estimate:
        """What quantities `[M, size]` mean, as if they had been seen."""
        ...


def imagined_cost(
    world: World,
    state: WorldState,
    *,
    fidelity: Fidelity | None,
    objective: Objective,
    max_lanes: int,
    watch: Callable[[Trace], None] = lambda trace: None,
) -> CostFn:
    """The cost of imagining actions `[N, T, A]` (in the world's units) from `state`, a single lane.

    fidelity: None asks the world's state model alone, which takes a thousandth of the time; ConfigError where the world
    has none or the objective reads latents.  At most `max_lanes` candidates are imagined together: memory is bounded,
    costs stay the same to rounding.  `watch` gets the trace of each batch.
    """
    if state.num_lanes != 1:
        raise ConfigError(f"a cost is imagined from one lane, got {state.num_lanes}; use state.select([lane])")
    if max_lanes < 1:
        raise ConfigError(f"max_lanes must be 1 or more, got {max_lanes}")
    if fidelity is None:
        return predicted_cost(world, state, objective)

    def cost(actions: np.ndarray) -> np.ndarray:
        scores = []
        for start in range(0, len(actions), max_lanes):
            part = actions[start : start + max_lanes]
            _, latents, trace = world.advance(state.branch(len(part)), part, fidelity)
            watch(trace)
            scores.append(objective(latents, world.decode))
        return np.concatenate(scores)

    return cost


def predicted_cost(world: World, state: WorldState, objective: Objective) -> CostFn:
    """The cost of what the world's state model predicts of actions `[N, T, A]` from `state`, a single lane."""
    if not isinstance(objective, StateGoal):
        raise ConfigError(f"{type(objective).__name__} reads latents; a state model predicts states: use the "
                          "objective state_goal")

    def cost(actions: np.ndarray) -> np.ndarray:
        return objective.of_states(world.predict_state(state, actions))

    return cost


@dataclass(frozen=True, slots=True)
class LatentGoal:
    """Root-mean-square distance to `goal` `[C, h, w]`, in latent standard deviations.

    A frame n ticks before the last weighs `discount ** n` (0: the last frame alone); weights are normalised.
    """

    goal: Tensor
    discount: float = 0.0

    def __post_init__(self) -> None:
        _check_discount(self.discount)

    def __call__(self, latents: Tensor, decode: Decode) -> np.ndarray:
        """Costs `[N]` of latents `[N, T, C, h, w]`."""
        ticks, weights = frame_weights(latents.shape[1], discount=self.discount)
        difference = (latents[:, ticks] - self.goal).double()
        distances: np.ndarray = difference.square().mean(dim=(-3, -2, -1)).sqrt().cpu().numpy()
        return np.asarray(distances @ weights)


@dataclass(frozen=True, slots=True)
class StateGoal:
    """Distance of what is estimated in decoded frames to `goal`; in the unit of the task's first quantity.

    cost = sum over the goal's quantities of weight x error + approach |robot - goal quantity| - progress_weight x
    progress, with rotations in radians.  The approach is from the robot's first position to the first of the scene's
    that the goal holds: it draws the robot to a thing that it does not yet touch.  Quantities of the robot in which the
    task does not tell its own goal weigh `reach` times as much.  A frame in which any of these was not found costs
    `lost`.  weights: instead of those of `task.state`.  every: read the last frame and every
    `every`-th before it.  discount: as in `LatentGoal`.
    """

    task: Estimator
    goal: Goal
    every: int = 1
    discount: float = 0.0
    approach: float = 0.1
    progress_weight: float = 50.0
    reach: float = 0.0
    lost: float = 1000.0
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_discount(self.discount)
        if self.every < 1:
            raise ConfigError(f"every must be 1 or more, got {self.every}")
        for name in (*self.goal.values, *self.weights):
            self.task.state[name]  # raises where it is unknown

    def __call__(self, latents: Tensor, decode: Decode) -> np.ndarray:
        """Costs `[N]` of latents `[N, T, C, h, w]`."""
        ticks, weights = frame_weights(latents.shape[1], every=self.every, discount=self.discount)
        frames = decode(latents[:, ticks])
        costs = self.frame_costs(self.task.estimate(frames.reshape(-1, *frames.shape[2:])))
        return np.asarray(costs.reshape(len(latents), -1) @ weights)

    def of_states(self, values: Values) -> np.ndarray:
        """Costs `[N]` of quantities `[N, T, size]`."""
        count, ticks_in_all = next(iter(values.values())).shape[:2]
        ticks, weights = frame_weights(ticks_in_all, every=self.every, discount=self.discount)
        read = {name: value[:, ticks].reshape(-1, value.shape[2]) for name, value in values.items()}
        return np.asarray(self.frame_costs(self.task.estimate_state(read)).reshape(count, -1) @ weights)

    def frame_costs(self, estimate: Estimate) -> np.ndarray:
        """Costs `[M]` of estimates of M frames."""
        spec, values = self.task.state, estimate.values
        held = [quantity for quantity in spec if quantity.name in self.goal.values]
        cost = np.zeros(len(estimate))
        for quantity in held:
            if quantity.goal or quantity.role == "scene":
                cost = cost + self._weighted(quantity, values)
        robot, thing = (next((q for q in among if q.role == role and q.kind == "position"), None)
                        for among, role in ((spec, "robot"), (held, "scene")))
        if robot is not None and thing is not None and robot.size == thing.size:
            cost = cost + self.approach * np.linalg.norm(values[robot.name] - values[thing.name], axis=1)
        cost = cost - self.progress_weight * estimate.progress
        for quantity in held:
            if quantity.role == "robot" and not quantity.goal and self.reach:
                cost = cost + self.reach * self._weighted(quantity, values)
        return np.where(np.isfinite(cost), cost, self.lost)

    def _weighted(self, quantity: Quantity, values: Values) -> np.ndarray:
        weight = self.weights.get(quantity.name, quantity.weight)
        return weight * distance(quantity, values[quantity.name], self.goal.values[quantity.name])


def distance(quantity: Quantity, value: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """How far `value` `[M, size]` is from `goal` `[size]`: `[M]` in the quantity's unit, rotations in radians."""
    if quantity.kind == "angle":
        return np.asarray(np.abs(np.mod(value[:, 0] - goal[0] + np.pi, 2 * np.pi) - np.pi))
    if quantity.kind in ("position", "scalar"):
        return np.asarray(np.linalg.norm(value - goal, axis=1))
    error = quantity.error(value, np.broadcast_to(goal, value.shape))
    return np.asarray(np.radians(error) if quantity.kind == "quaternion" else error)


def objective_of(
    episode: Episode, objective: Objective | None, aim: Callable[[Goal | None], Objective] | None
) -> Objective:
    """What to plan for in an episode: what `aim` makes of its goal; `objective` where there is no goal or no `aim`."""
    if aim is not None and (episode.goal is not None or objective is None):
        return aim(episode.goal)
    if objective is None:
        raise ConfigError(f"episode {episode.number} has no goal, and the planner no objective of its own")
    return objective


def frame_weights(count: int, *, every: int = 1, discount: float) -> tuple[list[int], np.ndarray]:
    """Which of `count` frames to read, oldest first, and their weights (sum 1); frames without weight are left out."""
    ages = np.arange(0, count, every)[::-1]
    weights = np.power(float(discount), ages)
    read = weights > 0
    return (count - 1 - ages[read]).tolist(), weights[read] / weights.sum()


def _check_discount(discount: float) -> None:
    if not 0.0 <= discount <= 1.0:
        raise ConfigError(f"discount must be in [0, 1], got {discount}")


def relative_distance(imagined: Tensor, seen: Tensor) -> float:
    """|imagined - seen| / |seen|, Euclidean, over all of two latents of one shape."""
    return float(torch.linalg.vector_norm((imagined - seen).double()) / torch.linalg.vector_norm(seen.double()))
