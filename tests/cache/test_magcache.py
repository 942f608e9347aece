"""MagCache: ratios brought to other step counts, and steps skipped by hand."""

from __future__ import annotations

import pytest
import torch

from scripted import hits, play, scalars
from wcsim.cache import parse_cache
from wcsim.cache.magcache import nearest


def test_ratios_of_another_number_of_steps():
    ratios = (1.0, 0.9, 0.8, 0.7, 0.6)
    assert [nearest(ratios, step, 5) for step in range(5)] == list(ratios)
    assert [nearest(ratios, step, 3) for step in range(3)] == [1.0, 0.8, 0.6]
    assert [nearest(ratios, step, 9) for step in range(9)] == [1.0, 0.9, 0.9, 0.8, 0.8, 0.7, 0.7, 0.6, 0.6]
    assert nearest(ratios, 0, 1) == 1.0


def test_hits_by_hand():
    # products since the last full pass: .9, .72 miss; .9, .9, .9 miss (three in a row are too many)
    z = scalars([1.0] * 8)
    settings = {"ratios": [1.0, 0.9, 0.8, 0.9, 1.0, 1.0, 0.5, 1.0], "warmup": 0.0, "threshold": 0.35, "max_skips": 2}
    cache = parse_cache({"kind": "magcache", **settings}).build()
    got, decisions, _ = play(cache, z, z, scalars([5.0, 9.0, 6.0, 9.0, 9.0, 7.0, 8.0, 9.0]))
    assert hits(decisions).flatten().int().tolist() == [0, 1, 0, 1, 1, 0, 0, 1]
    drifts = torch.cat([decision.drift for decision in decisions[1:]])
    torch.testing.assert_close(drifts, torch.tensor([0.1, 0.1 + 0.28, 0.1, 0.2, 0.3, 0.5, 0.0]))
    assert got.flatten().tolist() == [5.0, 5.0, 6.0, 6.0, 6.0, 7.0, 8.0, 8.0]


def test_every_lane_skips_the_same_steps():
    z = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    _, decisions, _ = play(parse_cache({"preset": "magcache", "warmup": 0.0}).build(), z, z, z, grid=(1, 1, 2))
    per_step = hits(decisions).float().mean(1)
    assert per_step.unique().tolist() == pytest.approx([0.0, 1.0])
