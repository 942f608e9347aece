"""Random shooting: every round is drawn around the warm start; the baseline that a cleverer planner must beat."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from wcsim.agents.search import Plan, Settings, search
from wcsim.types import CostFn


def shooting(cost: CostFn, mean: np.ndarray, std: np.ndarray, **settings: Unpack[Settings]) -> Plan:
    """`search` that never refits, so that rounds only say where it may stop."""
    return search(cost, mean, std, refit=lambda actions, costs: (mean, std), elites=1, **settings)
