"""The polynomial through the last full passes of a denoise loop, in Newton's form; they are uneven.

Easy to get wrong: the slope between two full passes is that of a place between them, not of the last.  A Taylor series
that takes it for the last one's (`wcsim.cache.forecast`, as published) overshoots wherever the slope is fading.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

MAX_ORDER = 3


@dataclass(frozen=True, slots=True)
class Polynomial:
    """What is known of a tensor at the last full passes.

    differences: f[0], f[0, 1], .. f[0 .. K], the divided differences of the values at the last K + 1 full passes,
    latest first, float32, of the values' shape.  back: how long before the last full pass the K earlier ones were.
    """

    differences: tuple[Tensor, ...]
    back: tuple[float, ...] = ()

    @classmethod
    def after(cls, before: Polynomial | None, value: Tensor, since: float, order: int) -> Polynomial:
        """The polynomial after a full pass, so long `since` the last; of lower order until there have been enough."""
        new = [value.float()]
        if before is None:
            return cls(tuple(new))
        back = (since, *(since + earlier for earlier in before.back))[:order]
        for old, distance in zip(before.differences, back, strict=False):
            new.append((new[-1] - old) / distance)
        return cls(tuple(new), back)

    def ahead(self, since: float) -> Tensor:
        """The value so long since the last full pass, float32: f[0] + f[0, 1] s + f[0, 1, 2] s (s + back_1) + ..."""
        value, factor = self.differences[0], since
        for difference, back in zip(self.differences[1:], self.back, strict=True):
            value = value + factor * difference
            factor *= since + back
        return value
