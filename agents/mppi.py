"""MPPI (Williams et al., arXiv 1707.02342): every candidate has a say, the cheaper the louder.

Easy to get wrong: the weighted mean is no candidate, so it is scored at the end before it may be the answer.
"""

from __future__ import annotations

from typing import Unpack

import numpy as np

from wcsim.agents.search import Plan, Settings, search
from wcsim.errors import ConfigError
from wcsim.types import CostFn


def mppi(
    cost: CostFn, mean: np.ndarray, std: np.ndarray, *, temperature: float = 0.1, **settings: Unpack[Settings]
) -> Plan:
    """`search` whose mean is that of all candidates, weighed by exp(-cost / scale); its std never changes.

    temperature: scale, as a share of the round's standard deviation of cost, so that it needs no unit.  Near 0 the best
    candidate decides, far above 1 all count alike.
    """
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}")

    def refit(actions: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (weights_of(costs, temperature)[:, None, None] * actions).sum(axis=0), std

    return search(cost, mean, std, refit=refit, elites=settings["candidates"], score_last=True, **settings)


def weights_of(costs: np.ndarray, temperature: float) -> np.ndarray:
    """Weights `[N]`, sum 1, of finite costs `[N]`; equal where all costs are."""
    spread = float(costs.std())
    scores = np.exp(-(costs - costs.min()) / (temperature * spread)) if spread > 0 else np.ones(len(costs))
    return np.asarray(scores / scores.sum())
