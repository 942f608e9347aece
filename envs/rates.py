"""Frames per second in the form that writers of videos take.

Easy to get wrong: PyAV wants a numerator and a denominator, which a float does not have; imageio and Gymnasium want a
number, which a fraction is not to all of them.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np


class Rate(np.float64):
    """A rate that is not whole: a float for imageio and Gymnasium, a rational for PyAV."""

    @property
    def numerator(self) -> int:
        """Of the nearest fraction with a denominator up to 1001, which that of NTSC is."""
        return Fraction(float(self)).limit_denominator(1001).numerator

    @property
    def denominator(self) -> int:
        """See `numerator`."""
        return Fraction(float(self)).limit_denominator(1001).denominator


def rate(fps: float) -> int | Rate:
    """`fps` as an integer where it is whole, else as a `Rate`."""
    return int(fps) if float(fps).is_integer() else Rate(fps)
