"""A tensor continued over denoise steps by its finite differences: constant (order 0), linear (1), curved (2 and up).

f_0 is the value at the last full pass, f_{j+1} the change of f_j per step between the last two (arXiv 2503.06923, where
they stand in for derivatives).  A "step" is a denoise step, or any other measure of how far ago something was.  Easy to
get wrong: lanes differ in how long ago their last full pass was.

Shape suffixes: N lanes, L tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wcsim.cache.reuse import Split, per_lane


@dataclass(frozen=True, slots=True)
class Forecast:
    """differences: f_0 .. f_order, each `[N, L, D]` in the dtype of the values."""

    differences: tuple[Tensor, ...]

    @classmethod
    def after(
        cls, before: Forecast | None, split: Split, value_NLD: Tensor, since_N: Tensor, order: int = 0
    ) -> Forecast:
        """The forecast after a step: lanes that computed have a new value, so long `since` their last.

        Without one before, one value is known and its differences are taken as 0.
        """
        if before is None:
            return cls((value_NLD, *[torch.zeros_like(value_NLD)] * order))
        if not split.any_miss:
            return before
        new = [value_NLD]
        for old in before.differences[:-1]:
            slope = (new[-1].float() - old.float()) / per_lane(since_N, old)
            new.append(slope.to(value_NLD.dtype))
        return cls(tuple(split.update(old, fresh) for old, fresh in zip(before.differences, new, strict=True)))

    def ahead(self, since_N: Tensor) -> Tensor:
        """The value so long since the last, float32: sum of f_j since^j / j!."""
        value, *slopes = (difference.float() for difference in self.differences)
        factor_N = torch.ones(len(since_N))
        for order, slope in enumerate(slopes, start=1):
            factor_N = factor_N * since_N / order
            value = value + per_lane(factor_N, value) * slope
        return value

    def added_to(self, tokens_NLD: Tensor, since_N: Tensor) -> Tensor:
        """Tokens plus the value so long since the last, in the dtype of the tokens."""
        return (tokens_NLD.float() + self.ahead(since_N)).to(tokens_NLD.dtype)


def check_order(order: int, min_warmup: int) -> None:
    """Raise ValueError where the first skip would come before all differences are known."""
    if order >= min_warmup:
        raise ValueError(f"order {order} needs min_warmup {order + 1} or more, given {min_warmup}: one full pass per "
                         "difference, and one to start from")
