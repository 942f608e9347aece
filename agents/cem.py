"""Cross-entropy search: every round is drawn around the elites of the one before."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from wcsim.agents.search import Plan, Settings, search
from wcsim.types import CostFn


def cem(cost: CostFn, mean: np.ndarray, std: np.ndarray, *, elites: int, **settings: Unpack[Settings]) -> Plan:
    """`search` whose mean and std are those of the last round's elites.  elites: candidates to keep per round."""

    def refit(actions: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        del costs
        return actions.mean(axis=0), actions.std(axis=0)

    return search(cost, mean, std, refit=refit, elites=elites, **settings)
