"""FirstBlockCache on a scripted stack."""

from __future__ import annotations

import torch

from scripted import hits, play, scalars
from wcsim.cache import parse_cache


def test_hits_by_hand():
    # first residuals 4, 4, 5, 6.5, 6.5; relative to the last full pass 0, .25, .625 miss, 0; threshold .3
    z = scalars([1.0, 2.0, 3.0, 4.0, 5.0])
    q, r = scalars([4.0, 4.0, 5.0, 6.5, 6.5]), scalars([10.0, 99.0, 99.0, 20.0, 99.0])
    cache = parse_cache({"kind": "firstblock", "threshold": 0.3}).build()
    got, decisions, stacks = play(cache, z, z + q, z + r)
    assert hits(decisions).flatten().int().tolist() == [0, 1, 1, 0, 1]
    torch.testing.assert_close(torch.cat([d.drift for d in decisions[1:]]), torch.tensor([0.0, 0.25, 0.625, 0.0]))
    # What the other blocks added last, 6 and then 13.5, on top of the fresh first block.
    assert got.flatten().tolist() == [11.0, 2 + 4 + 6, 3 + 5 + 6, 24.0, 5 + 6.5 + 13.5]
    assert [stack.block_lanes for stack in stacks] == [2, 1, 1, 2, 1]
