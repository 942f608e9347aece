"""iCEM (Pinneri et al., arXiv 2008.06389): CEM for few candidates, with smooth noise and a memory for good ones.

Easy to get wrong: coloured noise is scaled to unit variance per tick, or a higher `beta` would also search wider.
"""

from __future__ import annotations

from typing import Unpack

import numpy as np

from wcsim.agents.search import Plan, Settings, search
from wcsim.errors import ConfigError
from wcsim.types import CostFn


def icem(
    cost: CostFn, mean: np.ndarray, std: np.ndarray, *, elites: int, beta: float = 2.0, keep: float = 0.3,
    decay: float = 1.25, momentum: float = 0.1, **settings: Unpack[Settings],
) -> Plan:
    """`search` with coloured noise, elites carried over, a shrinking population and a slow mean.

    beta: exponent of the noise's spectrum, 0 white, 2 brown.  keep: share of the elites scored again.  decay: factor by
    which each round has fewer candidates.  momentum: share of the last mean and std that stays.  Noise comes at every
    tick; `knots` has no effect here and is refused (ConfigError).
    """
    if "knots" in settings and settings["knots"] != len(mean):
        raise ConfigError(f"icem draws coloured noise and has no knots, got knots = {settings['knots']}")
    if beta < 0 or not 0 <= keep <= 1 or decay < 1 or not 0 <= momentum < 1:
        raise ConfigError(f"icem needs beta >= 0, keep in [0, 1], decay >= 1 and momentum in [0, 1); got {beta}, "
                          f"{keep}, {decay}, {momentum}")
    now = [mean, std]

    def refit(actions: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        del costs
        now[:] = (momentum * old + (1.0 - momentum) * new
                  for old, new in zip(now, (actions.mean(axis=0), actions.std(axis=0)), strict=True))
        return now[0], now[1]

    return search(cost, mean, std, refit=refit, elites=elites, keep=int(np.ceil(keep * elites)), decay=decay,
                  noise=lambda rng, width, count: width * coloured(rng, count, *width.shape, beta=beta), **settings)


def coloured(rng: np.random.Generator, count: int, ticks: int, dims: int, *, beta: float) -> np.ndarray:
    """Noise `[count, ticks, dims]` of unit variance whose power falls with frequency to the power of -beta.

    Timmer and Koenig (1995): random phases and amplitudes in the spectrum; the mean's frequency takes that of the
    slowest wave, so that whole sequences may lie to one side.
    """
    frequency = np.fft.rfftfreq(ticks)
    frequency[0] = 1.0 / ticks
    scale = frequency ** (-beta / 2)
    real, imaginary = rng.standard_normal((2, count, dims, len(scale)))
    imaginary[..., 0] = 0.0
    real[..., 0] *= np.sqrt(2)
    if ticks % 2 == 0:  # the fastest wave has no phase either
        imaginary[..., -1] = 0.0
        real[..., -1] *= np.sqrt(2)
    weight = np.full(len(scale), 2.0)
    weight[0] = 1.0
    if ticks % 2 == 0:
        weight[-1] = 1.0
    variance = 2 * (weight * scale**2).sum() / ticks**2
    waves = np.fft.irfft((real + 1j * imaginary) * scale, n=ticks, axis=-1)
    return np.asarray(waves.swapaxes(1, 2) / np.sqrt(variance))
