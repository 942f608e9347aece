"""EasyCache on a scripted stack."""

from __future__ import annotations

import torch

from scripted import hits, play, scalars
from wcsim.cache import parse_cache


def test_hits_by_hand():
    # Two steps warm up; the output goes from 10 to 14 while the input goes from 1 to 2: rate 4.
    z = scalars([1.0, 2.0, 2.5, 3.0, 4.0, 4.0, 9.0])
    o = scalars([10.0, 14.0, 99.0, 99.0, 18.0, 99.0, 9.0])
    cache = parse_cache({"kind": "easycache", "threshold": 0.4, "min_warmup": 2}).build()
    got, decisions, _ = play(cache, z, z, o)
    # Predicted: 4 * .5 / 14, twice that, and with 4 * 1 / 14 on top .57: miss.  Then 0, and the last is forced.
    drifts = torch.cat([decision.drift for decision in decisions[2:6]])
    torch.testing.assert_close(drifts, torch.tensor([2 / 14, 4 / 14, 8 / 14, 0.0]))
    assert hits(decisions).flatten().int().tolist() == [0, 0, 1, 1, 0, 1, 0]
    # Output minus input of the last full pass is 12, then 14.
    assert got.flatten().tolist() == [10.0, 14.0, 14.5, 15.0, 18.0, 18.0, 9.0]


def test_the_rate_spans_from_full_pass_to_full_pass():
    z = scalars([1.0, 2.0, 2.5, 4.0, 5.0, 6.0])
    o = scalars([10.0, 14.0, 99.0, 20.0, 99.0, 99.0])
    cache = parse_cache({"kind": "easycache", "threshold": 0.2, "min_warmup": 2, "force_last": False}).build()
    _, decisions, _ = play(cache, z, z, o)
    assert hits(decisions).flatten().int().tolist()[:5] == [0, 0, 1, 0, 1]
    # From (2, 14) to (4, 20) the rate is 3; one step further 3 * 1 / 20.
    torch.testing.assert_close(decisions[4].drift, torch.tensor([0.15]))


def test_before_two_full_passes_nothing_is_predicted():
    still = scalars([1.0] * 6)
    cache = parse_cache({"kind": "easycache", "threshold": 9.0, "min_warmup": 2}).build()
    _, decisions, _ = play(cache, still * torch.arange(1.0, 7.0).view(6, 1, 1, 1), still, still)
    assert hits(decisions).any()
