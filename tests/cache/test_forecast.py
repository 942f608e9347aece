"""Finite differences on values that are polynomials of the step."""

from __future__ import annotations

import pytest
import torch

from wcsim.cache.forecast import Forecast
from wcsim.cache.reuse import Split


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed))


def after(values: list[torch.Tensor], gaps: list[int], order: int) -> Forecast:
    """The forecast once all lanes have computed these values, so many steps apart."""
    every = Split(torch.zeros(2, dtype=torch.bool), torch.device("cpu"))
    forecast = None
    for value, gap in zip(values, gaps, strict=True):
        forecast = Forecast.after(forecast, every, value, torch.tensor([gap, gap]), order)
    return forecast


@pytest.mark.parametrize("order", [0, 1, 2])
def test_exact_up_to_its_order_on_straight_lines(order):
    start, slope = drawn(0), drawn(1) * min(order, 1)
    forecast = after([start, start + slope, start + 4 * slope], [1, 1, 3], order)
    ahead = forecast.ahead(torch.tensor([2, 2]))
    torch.testing.assert_close(ahead, start + 6 * slope)


def test_second_order_by_hand():
    # 0, 1, 4 at steps 0, 1, 2: differences 4, 3, 2; two steps on 4 + 3 * 2 + 2 * 2 ** 2 / 2
    values = [torch.full((2, 1, 1), value) for value in (0.0, 1.0, 4.0)]
    forecast = after(values, [1, 1, 1], 2)
    assert [difference.flatten()[0].item() for difference in forecast.differences] == [4.0, 3.0, 2.0]
    assert forecast.ahead(torch.tensor([2, 2])).flatten().tolist() == [14.0, 14.0]


def test_lanes_have_their_own_past():
    first = after([torch.zeros(2, 1, 1)], [1], 1)
    one = Split(torch.tensor([True, False]), torch.device("cpu"))
    second = Forecast.after(first, one, torch.full((2, 1, 1), 6.0), torch.tensor([2, 3]), 1)
    assert second.ahead(torch.tensor([3, 1])).flatten().tolist() == [0.0, 8.0]


def test_prediction_keeps_the_dtype():
    forecast = after([drawn(0).bfloat16()] * 2, [1, 1], 1)
    assert {difference.dtype for difference in forecast.differences} == {torch.bfloat16}
    assert forecast.added_to(drawn(1).bfloat16(), torch.tensor([1, 2])).dtype == torch.bfloat16
