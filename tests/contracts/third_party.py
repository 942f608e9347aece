"""Policies from elsewhere, as somebody would write them: they draw from global generators and keep what they need."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from wcsim.estimate import Episode
from wcsim.experiments.policies import PolicyContext


def make_source(reach: float = 10.0) -> Callable[[Any], np.ndarray]:
    """Chunks of two offsets at random, from whatever library is at hand."""
    torch.rand(3)  # who knows what a constructor draws

    def source(seen: Any) -> np.ndarray:
        draws = [torch.rand(()).item(), np.random.rand(), random.random(), float(len(seen["task"]))]
        return reach * np.array(draws).reshape(2, 2)

    return source


class Drifter:
    """A `Policy` over lanes that walks right from wherever a lane is, a step further each time."""

    def __init__(self, context: PolicyContext, *, step: float) -> None:
        torch.rand(1)
        self._step, self._ticks = step, np.zeros(context.num_lanes)
        self.reports: Sequence[None] = [None] * context.num_lanes

    def reset(self, mask: np.ndarray, episodes: Sequence[Episode]) -> None:
        """Count anew."""
        self._ticks[mask] = 0

    def act(self, observations: Any, steps_left: int | None = None) -> np.ndarray:
        """One step further."""
        self._ticks[observations["active"]] += 1
        actions = observations["agent_pos"].astype(np.float64)
        actions[:, 0] += self._step * self._ticks
        return np.where(observations["active"][:, None], actions, 0.0)


class TinyRobot(nn.Module):
    """A LeRobot-like policy of one layer, which keeps its batch's last two observations."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.reset()

    def reset(self) -> None:
        """Forget the batch."""
        self.last: list[torch.Tensor] = []

    def select_action(self, batch: dict[str, Any]) -> torch.Tensor:
        """Actions of the batch."""
        self.last = [*self.last, batch["observation.state"] + batch["observation.image"].mean((1, 2, 3))[:, None]][-2:]
        action: torch.Tensor = self.layer(torch.stack(self.last).mean(0))
        return action
