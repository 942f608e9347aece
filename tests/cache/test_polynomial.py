"""The polynomial through the last full passes, on values that are polynomials of when they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wcsim.cache.polynomial import MAX_ORDER, Polynomial
from wcsim.cache.reuse import Split

EVERY = Split(torch.zeros(2, dtype=torch.bool), torch.device("cpu"))


def after(values: list[torch.Tensor], gaps: list[float], order: int) -> Polynomial:
    """The polynomial once both lanes have computed these values, so far apart."""
    known = None
    for value, gap in zip(values, gaps, strict=True):
        known = Polynomial.after(known, EVERY, value, torch.full((2,), gap), order)
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
    np.testing.assert_allclose(known.ahead(torch.full((2,), ahead)), curve(ahead), atol=1e-3)


@pytest.mark.parametrize("known", [1, 2, 3])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_with_fewer_values_it_is_of_lower_order(order, known):
    values = [torch.full((2, 1, 1), value) for value in (1.0, 3.0, 9.0)[:known]]
    expected = {1: 1.0, 2: 5.0, 3: 15.0 if order == 1 else 19.0}[known]
    assert after(values, [1.0, 1.0, 1.0][:known], order).ahead(torch.ones(2)).flatten().tolist() == [expected] * 2


def test_lanes_have_their_own_past():
    first = after([torch.zeros(2, 1, 1), torch.ones(2, 1, 1)], [1.0, 1.0], 2)
    one = Split(torch.tensor([True, False]), torch.device("cpu"))
    # The second lane has 0, 1, 9 at 0, 1, 3: the parabola t^2.
    second = Polynomial.after(first, one, torch.full((2, 1, 1), 9.0), torch.tensor([2.0, 2.0]), 2)
    assert second.ahead(torch.tensor([3.0, 1.0])).flatten().tolist() == pytest.approx([4.0, 16.0])
    assert second.back.tolist()[0] == [1.0, 2.0]


def test_hits_alone_change_nothing():
    first = after([torch.ones(2, 1, 1)], [1.0], 2)
    both = Split(torch.ones(2, dtype=torch.bool), torch.device("cpu"))
    assert Polynomial.after(first, both, torch.zeros(2, 1, 1), torch.ones(2), 2) is first


def test_prediction_keeps_the_dtype():
    known = after([torch.ones(2, 3, 4).bfloat16()] * 3, [1.0, 1.0, 1.0], 2)
    assert {difference.dtype for difference in known.differences} == {torch.bfloat16}
    assert known.added_to(torch.ones(2, 3, 4).bfloat16(), torch.tensor([1.0, 2.0])).dtype == torch.bfloat16
