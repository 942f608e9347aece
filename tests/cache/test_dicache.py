"""DiCache on a scripted stack."""

from __future__ import annotations

import torch

from scripted import hits, play, scalars
from wcsim.cache import parse_cache


def test_hits_by_hand():
    # changes .25 (step 2), .2, .35, .2, .2; warm-up 1 of 8 steps, the last step is not forced; path below .5 skips
    p = scalars([4.0, 4.0, 5.0, 4.0, 5.4, 6.48, 7.776, 7.776])
    z = torch.ones_like(p)
    _, decisions, _ = play(parse_cache({"preset": "dicache", "threshold": 0.5}).build(), z, p, 2 * p)
    # paths: 0, .25, .45, .8 miss, .2, .4, .4
    assert hits(decisions).flatten().int().tolist() == [0, 1, 1, 1, 0, 1, 1, 1]
    torch.testing.assert_close(decisions[4].drift, torch.tensor([0.8]))
    torch.testing.assert_close(decisions[4].threshold, torch.tensor([0.5]))


def test_output_leans_on_by_the_ratio_of_distances():
    # q = 0, 1, 1.5 with r = 0, 10: gain 1.5, so the skipped output is z + 15
    z = scalars([1.0, 1.0, 1.0])
    q, r = scalars([1.0, 2.0, 2.5]), scalars([0.0, 10.0, 99.0])
    cache = parse_cache({"preset": "dicache", "threshold": 9.0, "min_warmup": 2}).build()
    got, decisions, _ = play(cache, z, z + q, z + r)
    assert decisions[2].hit
    torch.testing.assert_close(got[2].flatten(), torch.tensor([16.0]))
