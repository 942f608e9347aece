"""Fixed rhythms on a scripted stack: which steps are skipped, and what stands in."""

from __future__ import annotations

import pytest
import torch

from scripted import hits, play, scalars
from wcsim.cache import parse_cache


def run(output: list[float], **settings: object) -> tuple[list[int], list[float]]:
    """Hits and outputs where the embedded tokens are 1 and the blocks lead to `output`."""
    o = scalars(output)
    z = torch.ones_like(o)
    got, decisions, _ = play(parse_cache(settings).build(), z, z, o)
    return hits(decisions).flatten().int().tolist(), got.flatten().tolist()


@pytest.mark.parametrize(
    ("interval", "expected"), [(1, [0] * 8), (2, [0, 0, 1, 0, 1, 0, 1, 0]), (3, [0, 0, 1, 1, 0, 1, 1, 0])]
)
def test_rhythm_starts_where_the_warm_up_ends(interval, expected):
    assert run([1.0] * 8, kind="interval", interval=interval)[0] == expected


def test_last_step_can_be_forced():
    assert run([1.0] * 5, kind="interval", interval=9, force_last=True)[0] == [0, 0, 1, 1, 0]


def test_order_zero_holds_the_residual():
    assert run([1.0, 3.0, 9.0, 9.0], kind="interval", interval=3, order=0)[1] == [1.0, 3.0, 3.0, 3.0]


def test_order_one_goes_on_straight():
    assert run([1.0, 3.0, 9.0, 9.0], kind="interval", interval=3, order=1)[1] == [1.0, 3.0, 5.0, 7.0]


def test_taylorseer_follows_a_curve():
    # 0, 1, 4 then two steps skipped: see test_forecast
    hit, output = run([1.0, 2.0, 5.0, 0.0, 0.0, 7.0], kind="taylorseer", interval=3, order=2)
    assert hit == [0, 0, 0, 1, 1, 0]
    assert output == [1.0, 2.0, 5.0, 1 + 4 + 3 + 1, 1 + 4 + 6 + 4, 7.0]
