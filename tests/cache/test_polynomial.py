"""The polynomial through the last full passes, on values that are polynomials of when they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wcsim.cache.polynomial import MAX_ORDER, Polynomial


def after(values: list[torch.Tensor], gaps: list[float], order: int) -> Polynomial:
    """The polynomial once these values have been computed, so far apart."""
    known = None
    for value, gap in zip(values, gaps, strict=True):
        known = Polynomial.after(known, value, gap, order)
    assert known is not None
    return known


@settings(deadline=None)
@given(
    order=st.integers(0, MAX_ORDER), extra=st.integers(0, 2), seed=st.integers(0, 99),
    gaps=st.lists(st.floats(0.25, 1.0), min_size=6, max_size=6), ahead=st.floats(0.0, 1.0),
)
def test_a_polynomial_of_its_order_is_continued_exactly(order, extra, seed, gaps, ahead):
    curve = np.polynomial.Polynomial(np.random.default_rng(seed).uniform(-1, 1, order + 1))
    times = np.cumsum(gaps[: order + 1 + extra]) - sum(gaps[: order + 1 + extra])
    known = after([torch.full((2, 3, 4), curve(time)) for time in times], gaps[: len(times)], order)
    assert len(known.differences) == order + 1
    np.testing.assert_allclose(known.ahead(ahead), curve(ahead), atol=1e-3)


@pytest.mark.parametrize("known", [1, 2, 3])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_with_fewer_values_it_is_of_lower_order(order, known):
    values = [torch.full((2, 1, 1), value) for value in (1.0, 3.0, 9.0)[:known]]
    expected = {1: 1.0, 2: 5.0, 3: 15.0 if order == 1 else 19.0}[known]
    assert after(values, [1.0, 1.0, 1.0][:known], order).ahead(1.0).flatten().tolist() == [expected] * 2


def test_uneven_values_are_met():
    # 0, 1, 9 at 0, 1, 3: the parabola t^2.
    known = after([torch.full((1,), value) for value in (0.0, 1.0, 9.0)], [1.0, 1.0, 2.0], 2)
    assert known.back == (2.0, 3.0)
    assert known.ahead(1.0).item() == pytest.approx(16.0)


def test_differences_are_kept_in_float32():
    known = after([torch.ones(2, 3, 4).bfloat16()] * 3, [1.0, 1.0, 1.0], 2)
    assert {difference.dtype for difference in known.differences} == {torch.float32}
    assert known.ahead(1.0).dtype == torch.float32
