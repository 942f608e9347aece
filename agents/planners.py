"""Planners by name, for configurations."""

from __future__ import annotations

from typing import Literal, Unpack

import numpy as np

from wcsim.agents.cem import cem
from wcsim.agents.icem import icem
from wcsim.agents.mppi import mppi
from wcsim.agents.search import Plan, Settings
from wcsim.agents.shooting import shooting
from wcsim.types import CostFn

PlannerName = Literal["cem", "icem", "mppi", "shooting"]


def plan_with(
    name: PlannerName, cost: CostFn, mean: np.ndarray, std: np.ndarray, *, elites: int, **settings: Unpack[Settings]
) -> Plan:
    """The plan of the planner called `name`.  elites: for those that keep some; icem takes noise at every tick."""
    if name == "mppi":
        return mppi(cost, mean, std, **settings)
    if name == "shooting":
        return shooting(cost, mean, std, **settings)
    if name == "icem":
        settings.pop("knots", None)
        return icem(cost, mean, std, elites=elites, **settings)
    return cem(cost, mean, std, elites=elites, **settings)
