"""Rows of a product, and pictures of a convolution, do not depend on how many there are."""

import pytest
import torch
from torch import nn

from wcsim.world.batch_invariant import ROWS, BatchInvariantConv2d, BatchInvariantLinear, make_batch_invariant


@pytest.mark.parametrize("threads", [1, 2])
def test_one_row_is_rounded_as_many_are(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        for width, out in ((192, 576), (18, 768), (32, 96)):
            layer, rows = nn.Linear(width, out), torch.randn(128, width)
            make_batch_invariant(layer)
            whole = layer(rows)
            for count in (1, 2, 3, 5, 7, 11, ROWS, ROWS + 1, 64):
                assert torch.equal(layer(rows[5 : 5 + count]), whole[5 : 5 + count])
            assert layer(rows.view(4, 4, 8, width)).shape == (4, 4, 8, out)
            assert layer(rows[:0]).shape == (0, out)
    finally:
        torch.set_num_threads(before)


def test_it_reaches_every_plain_linear_layer_and_keeps_the_weights():
    class Other(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2)), Other(2, 2))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    make_batch_invariant(model)
    assert [type(part) for part in (model[0], model[1][0])] == [BatchInvariantLinear] * 2
    assert type(model[2]) is Other
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    rows = torch.randn(3, 4, requires_grad=True)
    model(rows).sum().backward()
    assert rows.grad.shape == (3, 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_one_picture_is_rounded_as_many_are(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        shapes = (4, 8, 12, 3, 1), (8, 24, 12, 1, 1), (16, 8, 48, 3, 1), (8, 8, 25, 3, 2)
        for width, out, size, kernel, stride in shapes:
            layer = BatchInvariantConv2d(width, out, kernel, stride=stride, padding=(kernel // 2) * (stride == 1))
            pictures = torch.randn(17, width, size, size)
            with torch.no_grad():
                whole = layer(pictures)
                for count in (1, 2, 5, 16):
                    assert torch.equal(layer(pictures[1 : 1 + count]), whole[1 : 1 + count])
            torch.testing.assert_close(layer(pictures), whole, atol=1e-5, rtol=1e-4)  # what learns, learns by the stock
    finally:
        torch.set_num_threads(before)
