"""Answers continued in a straight line, a difference raised by frequency, and who is computed when."""

from __future__ import annotations

import pytest
import torch

from test_cache_policies import STEPS, hits, roll
from wcsim.cache import parse_cache
from wcsim.cache.fastercache import Attention, continued, raised

GRID = (2, 6, 6)


def test_a_line_is_continued_exactly_and_a_single_answer_held():
    older, newer = torch.randn(2, 1, 3, 4).unbind(0)
    torch.testing.assert_close(continued((newer, older), 1.0), 2 * newer - older)
    assert continued((newer, older), 0.0).equal(newer)
    assert continued((newer,), 1.0).equal(newer)


def test_what_is_continued_is_not_noted_as_an_answer():
    computed = Attention((), None)
    first = computed(0, lambda: torch.ones(1, 2, 3))
    again = Attention(tuple(computed.noted), None)
    again(0, lambda: 2 * first)
    between = Attention(tuple(again.noted), 0.5)
    answer = between(0, lambda: pytest.fail("computed"))
    torch.testing.assert_close(answer, 2.5 * first)
    assert between.noted == again.noted


def test_nothing_raised_is_what_it_was():
    difference = torch.randn(2, 2 * 36, 5)
    torch.testing.assert_close(raised(difference, GRID, 1.0, 1.0), difference, atol=1e-5, rtol=1e-5)


def test_low_and_high_are_raised_apart_in_every_frame_and_branch():
    row = torch.arange(6.0)
    slow = torch.cos(torch.pi / 3 * row)[:, None].expand(6, 6)  # one wave over the grid, within the radius of 6 // 5
    fast = ((-1.0) ** row)[:, None] * ((-1.0) ** row)[None, :]
    for pattern, factor in ((torch.ones(6, 6), 3.0), (slow, 3.0), (fast, 7.0)):
        tokens = pattern.reshape(1, 1, 36, 1).repeat(1, 2, 1, 2).flatten(1, 2)
        torch.testing.assert_close(raised(tokens, GRID, 3.0, 7.0), factor * tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("interval", "computed"), [(2, [0, 1, 2, 3, 5, 7, 9, 11]), (4, [0, 1, 2, 3, 7, 11])])
def test_the_rhythm_begins_where_the_warm_up_ends(interval, computed):
    policy = parse_cache({"preset": "fastercache", "interval": interval, "warmup": 0.34}).build()
    _, decisions, blocks = roll(policy, [0, 1])
    assert [step for step in range(STEPS) if not decisions[step].hit.any()] == computed
    assert all((ran == 4).all() for ran in blocks)
    assert (hits(decisions)[:, 0] == hits(decisions)[:, 1]).all()


def test_the_weight_rises_to_the_last_step():
    policy = parse_cache({"preset": "fastercache", "weights": [0.2, 0.6]}).build()
    begin = policy.config.warm_steps(35)
    assert policy._weight(begin, 35) == pytest.approx(0.2)
    assert policy._weight(34, 35) == pytest.approx(0.6)
