"""A world as a cost model of stable-worldmodel, so that its solvers (CEM, iCEM, MPPI) plan in it.

Easy to get wrong: its solvers draw actions around zero, so they want the environment with `action_space="unit"`; its
infos have a batch, a candidate and a time axis before the frame.

Shapes: B environments, S candidates, T actions, A action, H W frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wcsim.agents.objectives import LatentGoal, imagined_cost
from wcsim.errors import ConfigError
from wcsim.types import Fidelity
from wcsim.world.checks import check_frames
from wcsim.world.noise import PLANNING, stream_seeds
from wcsim.world.world import World


class WorldCost:
    """The model of a solver: how far imagined frames end from a goal frame, in latent standard deviations.

    fidelity: of the imagination.  unit: whether actions are in [-1, 1] instead of the world's units; either way they
    are clipped to the bounds, as the solvers know none.  pixels, goal: keys of the frames, uint8 `[H, W, 3]` of the
    world's size (no transform), in the infos.  discount: see `LatentGoal`.  max_lanes: most candidates at a time.
    """

    def __init__(self, world: World, fidelity: Fidelity, *, unit: bool = True, pixels: str = "pixels",
                 goal: str = "goal", discount: float = 0.0, max_lanes: int = 64) -> None:
        self.world, self.fidelity, self.unit, self.keys = world, fidelity, unit, (pixels, goal)
        self.discount, self.max_lanes = discount, max_lanes

    @torch.no_grad()
    def get_cost(self, info_dict: Mapping[str, Any], action_candidates: Tensor) -> Tensor:
        """Costs `[B, S]` of candidates `[B, S, T, n A]`, n actions in a block; lower is better.  ConfigError where the
        infos lack a frame, or hold another one than the world takes."""
        given = action_candidates.detach().cpu().numpy().astype(np.float64)
        dim = self.world.spec.action.dim
        actions = self.to_world(given.reshape(*given.shape[:2], -1, dim))
        costs = [self._costs(info_dict, number, one) for number, one in enumerate(actions)]
        return torch.as_tensor(np.stack(costs), dtype=torch.float32, device=action_candidates.device)

    def criterion(self, info_dict: Mapping[str, Any], action_candidates: Tensor) -> Tensor:
        """As `get_cost`."""
        return self.get_cost(info_dict, action_candidates)

    def to_world(self, actions: np.ndarray) -> np.ndarray:
        """Actions `[..., A]` in the world's units and within its bounds, float32."""
        low, high = np.asarray(self.world.spec.action.low), np.asarray(self.world.spec.action.high)
        found = low + (actions + 1.0) / 2.0 * (high - low) if self.unit else actions
        clipped: np.ndarray = np.clip(found, low, high).astype(np.float32)
        return clipped

    def _costs(self, info: Mapping[str, Any], number: int, actions: np.ndarray) -> np.ndarray:
        now, goal = (self._frame(info, key, number) for key in self.keys)
        state = self.world.init(now[None, None], np.zeros((1, 0, actions.shape[-1]), np.float32), [0])
        state.seed.copy_(stream_seeds(state.seed, PLANNING))
        objective = LatentGoal(self.world.encode(goal[None])[0], self.discount)
        cost = imagined_cost(self.world, state, fidelity=self.fidelity, objective=objective, max_lanes=self.max_lanes)
        return cost(actions)

    def _frame(self, info: Mapping[str, Any], key: str, number: int) -> np.ndarray:
        """The newest frame of an environment; all candidates have the same."""
        if key not in info:
            raise ConfigError(f"the infos have no {key!r}; they have {', '.join(map(str, info))}")
        frames = np.asarray(info[key][number])
        while frames.ndim > 3:
            frames = frames[-1]
        check_frames(self.world.spec, frames)
        return np.ascontiguousarray(frames)
