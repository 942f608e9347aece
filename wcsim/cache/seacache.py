"""SeaCache (arXiv 2602.18993): TeaCache's gate on what a Wiener filter leaves of the input, so without coefficients.

At noise level s only the low frequencies stand out of the noise, and only their change counts.  Our reading, from the
paper's published WAN code: the modulated input of the first block is filtered over frames, rows and columns, one axis
after the other, by

    H(f) = a^2 / (a^2 + s^2 |f|^p),   a = 1 - s,

the optimal filter for content of power |f|^-p up to a factor, which drops out as the whole filter is scaled to mean 1.
It differs in that steps of the warm-up are filtered too (there, the first comparison is with an unfiltered one), and
that context frames, which are clean, are filtered as if they were noisy.  Guided branches are filtered each by itself,
though their frames alternate; tokens that belong to no frame are not watched.  The form that Cosmos 3 runs continues
the residual in a straight line and skips at most twice: `{preset: seacache, threshold: 0.25, order: 1, max_skips: 2,
min_warmup: 2}`.  Easy to get wrong: at s = 1 nothing but the mean is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from wcsim.cache.teacache import InputConfig, InputGate
from wcsim.types import BlockStack

LEAST_SIGNAL = 1e-6
"""The signal's share that is left at noise level 1, so that the mean survives."""


def wiener_filter(shape: tuple[int, ...], sigma: float, power: float, device: torch.device) -> Tensor:
    """H over the frequencies of a grid of this shape, scaled to mean 1."""
    signal, noise = max(1 - sigma, LEAST_SIGNAL) ** 2, sigma**2
    response = torch.ones((), device=device, dtype=torch.float64)
    for size in shape:
        spectrum = torch.fft.fftfreq(size, device=device, dtype=torch.float64).abs() ** power
        response = response[..., None] * (signal / (signal + noise * spectrum))
    return (response / response.mean()).float()


@dataclass(frozen=True, slots=True)
class SeaCache(InputGate):
    """The policy."""

    class Config(InputConfig):
        kind: Literal["seacache"] = "seacache"
        threshold: float = Field(default=0.2, ge=0)
        """Summed relative change of the filtered input below which the blocks are skipped; 0 never skips."""
        power: float = Field(default=3.0, gt=0)
        """How fast the power of content falls with frequency (p)."""

        def build(self) -> SeaCache:
            """The policy."""
            return SeaCache(self)

    config: Config

    def _watch(self, stack: BlockStack, tokens: Tensor, probe: Tensor) -> Tensor:
        frames, rows, columns = stack.grid[0] // stack.branches, *stack.grid[1:]
        read = stack.modulated(tokens).float()
        places = read[:, : read.shape[1] - stack.tail].unflatten(1, (frames, stack.branches, rows, columns))
        response = wiener_filter((frames, rows, columns), stack.sigma, self.config.power, tokens.device)
        spectrum = torch.fft.fftn(places, dim=(1, 3, 4)) * response[:, None, :, :, None]
        tokens_NLD: Tensor = torch.fft.ifftn(spectrum, dim=(1, 3, 4)).real.flatten(1, 4)
        return tokens_NLD
