"""TeaCache on a scripted stack, where the modulated input is the embedded tokens."""

from __future__ import annotations

import numpy as np
import torch

from scripted import hits, play, scalars
from wcsim.cache import parse_cache
from wcsim.cache.teacache import polynomial


def test_polynomial_is_highest_power_first():
    x = torch.linspace(-1, 1, 5)
    torch.testing.assert_close(polynomial((2.0, -1.0, 0.5), x).double(), torch.from_numpy(np.polyval([2, -1, 0.5], x)))


def test_hits_by_hand():
    # changes .25, .2, .5, 0, .1 of the step before; rescaled by 2 x + .1: .6, .5, 1.1, .1, .3; threshold 1.2
    z = scalars([4.0, 5.0, 6.0, 9.0, 9.0, 9.9, 1.0])
    cache = parse_cache({"kind": "teacache", "threshold": 1.2, "coefficients": [2.0, 0.1]}).build()
    got, decisions, stacks = play(cache, z, z, 3 * z)
    assert hits(decisions).flatten().int().tolist() == [0, 1, 1, 0, 1, 1, 0]
    drifts = torch.cat([decision.drift for decision in decisions[1:6]])
    torch.testing.assert_close(drifts, torch.tensor([0.6, 1.1, 2.2, 0.1, 0.4]))
    torch.testing.assert_close(got.flatten(), torch.tensor([12.0, 13.0, 14.0, 27.0, 27.0, 27.9, 3.0]))
    assert [stack.block_lanes for stack in stacks] == [2, 0, 0, 2, 0, 0, 2]
