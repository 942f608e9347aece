"""The polynomial through the last full passes, in Newton's form; they are uneven, and differ from lane to lane.

Easy to get wrong: the slope between two full passes is that of a place between them, not of the last.  A Taylor series
that takes it for the last one's (`wcsim.cache.forecast`, as published) overshoots wherever the slope is fading.

Shape suffixes: N lanes, L tokens, D width, K order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wcsim.cache.reuse import Split, per_lane

FAR = 1e12
"""How long ago a full pass was that there never was: differences towards it vanish, and the order is lower."""

MAX_ORDER = 3
"""Beyond it the products of distances leave the range of float32 where a knot is `FAR`."""


@dataclass(frozen=True, slots=True)
class Polynomial:
    """What is known of a tensor at the last full pass of each lane.

    differences: f[0], f[0, 1], .. f[0 .. K], the divided differences of the values at the last K + 1 full passes,
    latest first, each `[N, L, D]` in the dtype of the values.  back: `[K, N]` float32 on the host, how long before the
    last full pass the earlier ones were.
    """

    differences: tuple[Tensor, ...]
    back: Tensor

    @classmethod
    def after(
        cls, before: Polynomial | None, split: Split, value_NLD: Tensor, since_N: Tensor, order: int
    ) -> Polynomial:
        """The polynomial after a step: lanes that computed have a new value, so long `since` their last."""
        if before is None:
            unknown = [torch.zeros_like(value_NLD)] * order
            return cls((value_NLD, *unknown), torch.full((order, len(value_NLD)), FAR))
        if not split.any_miss:
            return before
        back = since_N + torch.cat([torch.zeros(1, len(since_N)), before.back])[:order]
        new = [value_NLD]
        for old, distance_N in zip(before.differences[:-1], back, strict=True):
            new.append(((new[-1].float() - old.float()) / per_lane(distance_N, old)).to(value_NLD.dtype))
        renewed = tuple(split.renew(old, fresh) for old, fresh in zip(before.differences, new, strict=True))
        return cls(renewed, torch.where(split.hit, before.back, back))

    def ahead(self, since_N: Tensor) -> Tensor:
        """The value so long since the last full pass, float32: f[0] + f[0, 1] s + f[0, 1, 2] s (s + back_1) + ..."""
        value, factor_N = self.differences[0].float(), since_N
        for difference, back_N in zip(self.differences[1:], self.back, strict=True):
            value = value + difference.float() * per_lane(factor_N, value)
            factor_N = factor_N * (since_N + back_N)
        return value

    def added_to(self, tokens_NLD: Tensor, since_N: Tensor) -> Tensor:
        """Tokens plus the value so long since the last full pass, in the dtype of the tokens."""
        return (tokens_NLD.float() + self.ahead(since_N)).to(tokens_NLD.dtype)
