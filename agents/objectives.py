"""From a world and an objective to the one thing that a planner knows: a cost.

All candidates branch from one lane, so they share its seed and therefore its noise: differences in cost come from the
actions alone.  Easy to get wrong: planning in latents never decodes, and `Judged` decodes only the frames it reads.
Where a world has a state model, a cost may ask it alone and look at no frame.
Shapes: N candidates, T imagined frames, C h w latent, H W frame, M judged frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from wcsim.errors import ConfigError
from wcsim.types import CostFn, Fidelity, Trace, WorldState

if TYPE_CHECKING:
    from wcsim.world.world import World

Decode = Callable[[Tensor], np.ndarray]
"""Latents `[..., C, h, w]` to uint8 frames `[..., H, W, 3]`."""


class Objective(Protocol):
    """Scores imagined latents `[N, T, C, h, w]`: `[N]` float64, lower is better.  `decode`: for those that look."""

    def __call__(self, latents: Tensor, decode: Decode) -> np.ndarray: ...


class Poses(Protocol):
    """What an objective reads of a judgement of M frames, in the judge's units (pixels, radians).

    agent: `[M, 2]`.  block: `[M, 3]` x, y, angle.  coverage: `[M]`, 0 to 1.  block_found: `[M]` bool.  Poses that were
    not found are NaN.
    """

    @property
    def agent(self) -> np.ndarray: ...
    @property
    def block(self) -> np.ndarray: ...
    @property
    def coverage(self) -> np.ndarray: ...
    @property
    def block_found(self) -> np.ndarray: ...


Judge = Callable[[np.ndarray], Poses]
"""uint8 frames `[M, H, W, 3]` to what they show."""


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
    has none or the objective reads pictures.  At most `max_lanes` candidates are imagined together: memory is bounded,
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
    score = getattr(objective, "of_quantities", None)
    if score is None:
        raise ConfigError(f"{type(objective).__name__} reads latents; a state model predicts quantities: use the "
                          "objective judged")

    def cost(actions: np.ndarray) -> np.ndarray:
        return np.asarray(score(world.predict_state(state, actions)))

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
class Judged:
    """Distance of the block to its goal pose, judged in decoded frames; in the judge's pixels.

    cost = |block - goal| + angle_px |wrapped angle error, rad| + approach |agent - block| - coverage_px coverage.  The
    approach term is what draws the agent to a block that it does not yet touch.  A frame whose block or agent is not
    found costs `lost_px`.  goal: x, y, angle.  every: judge the last frame and every `every`-th before it.
    discount: as in `LatentGoal`.  agent_goal: where the agent should be, if anywhere; a pixel off costs `reach`.
    judge_quantities: what the judge says of quantities `[M, size]` by name, instead of frames.
    """

    judge: Judge
    goal: tuple[float, float, float]
    every: int = 1
    discount: float = 0.0
    angle_px: float = 60.0
    approach: float = 0.1
    coverage_px: float = 50.0
    lost_px: float = 1000.0
    agent_goal: tuple[float, ...] | None = None
    reach: float = 0.0
    judge_quantities: Callable[[Mapping[str, np.ndarray]], Poses] | None = None

    def __post_init__(self) -> None:
        _check_discount(self.discount)
        if self.every < 1:
            raise ConfigError(f"every must be 1 or more, got {self.every}")

    def __call__(self, latents: Tensor, decode: Decode) -> np.ndarray:
        """Costs `[N]` of latents `[N, T, C, h, w]`."""
        ticks, weights = frame_weights(latents.shape[1], every=self.every, discount=self.discount)
        frames = decode(latents[:, ticks])
        costs = self.frame_costs(self.judge(frames.reshape(-1, *frames.shape[2:])))
        return np.asarray(costs.reshape(len(latents), -1) @ weights)

    def of_quantities(self, quantities: Mapping[str, np.ndarray]) -> np.ndarray:
        """Costs `[N]` of quantities `[N, T, size]` (`World.predict_state`); ConfigError for a judge of frames alone."""
        if self.judge_quantities is None:
            raise ConfigError("this task's judge reads frames alone and cannot score what a state model predicts")
        count, length = next(iter(quantities.values())).shape[:2]
        ticks, weights = frame_weights(length, every=self.every, discount=self.discount)
        some = {name: value[:, ticks].reshape(-1, value.shape[-1]) for name, value in quantities.items()}
        costs = self.frame_costs(self.judge_quantities(some))
        return np.asarray(costs.reshape(count, -1) @ weights)

    def frame_costs(self, poses: Poses) -> np.ndarray:
        """Costs `[M]` of judged frames."""
        *xy, angle = self.goal
        turn = np.abs(np.mod(poses.block[:, 2] - angle + np.pi, 2 * np.pi) - np.pi)
        cost = np.linalg.norm(poses.block[:, :2] - xy, axis=1) + self.angle_px * turn
        cost = cost + self.approach * np.linalg.norm(poses.agent - poses.block[:, :2], axis=1)
        cost = cost - self.coverage_px * poses.coverage
        if self.agent_goal is not None:
            cost = cost + self.reach * np.linalg.norm(poses.agent - self.agent_goal, axis=1)
        return np.where(poses.block_found & np.isfinite(cost), cost, self.lost_px)


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
