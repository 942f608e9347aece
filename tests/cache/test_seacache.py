"""SeaCache: its filter against the formula and its limits, and the gate behind it."""

from __future__ import annotations

import pytest
import torch

from scripted import ScriptedStack, hits, play
from wcsim.cache import parse_cache
from wcsim.cache.seacache import wiener_filter
from wcsim.world.guidance import apart, beside

CPU = torch.device("cpu")


def test_filter_by_hand():
    # frequencies 0, 1/4, 1/2, 1/4; a = s = 1/2, so H = 1 / (1 + f^2) before scaling
    response = torch.tensor([1.0, 1 / (1 + 1 / 16), 1 / (1 + 1 / 4), 1 / (1 + 1 / 16)])
    torch.testing.assert_close(wiener_filter((4,), 0.5, 2.0, CPU), response / response.mean())


def test_filter_is_a_product_over_axes():
    rows, columns = wiener_filter((4,), 0.7, 3.0, CPU), wiener_filter((5,), 0.7, 3.0, CPU)
    torch.testing.assert_close(wiener_filter((4, 5), 0.7, 3.0, CPU), rows[:, None] * columns)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4)])
def test_no_noise_passes_everything_and_pure_noise_the_mean(shape):
    torch.testing.assert_close(wiener_filter(shape, 0.0, 3.0, CPU), torch.ones(shape))
    alone = wiener_filter(shape, 1.0, 3.0, CPU)
    assert alone.flatten()[0] == pytest.approx(alone.numel())
    assert alone.flatten()[1:].max() < 1e-6


def test_fine_detail_counts_only_once_it_stands_out_of_the_noise():
    """A checkerboard flips at every step: unseen at a high noise level, counted at a low one."""
    board = torch.tensor([1.0, -1.0, -1.0, 1.0]).view(1, 1, 4, 1)
    still = (4 + board).expand(20, 1, 4, 1)
    flips = 4 + board * torch.tensor([1.0, -1.0] * 10).view(20, 1, 1, 1)
    never = parse_cache({"kind": "seacache", "threshold": 0.0}).build()
    added = []
    for z in (still, flips):
        _, decisions, _ = play(never, z, z, z, grid=(1, 2, 2))
        added.append(torch.cat([decision.drift for decision in decisions]))
    more = added[1] - added[0]
    assert more[1] < 0.01
    assert more[18] > 0.4


def test_guided_branches_are_filtered_apart():
    """Their frames alternate; the filter over time must not take one branch for the change of the other."""
    branches = torch.randn(2, 6, 1, 3, 4, 2, generator=torch.Generator().manual_seed(0))  # b, T, N, rows, columns, D
    policy = parse_cache("seacache").build()
    alone = ScriptedStack(torch.zeros(1), [torch.zeros(1)], grid=(6, 3, 4), sigma=0.7)
    both = ScriptedStack(torch.zeros(1), [torch.zeros(1)], grid=(12, 3, 4), sigma=0.7, branches=2)
    joined = beside([branch.movedim(1, 0).flatten(1, 3) for branch in branches], 6)
    filtered = apart(policy._watch(both, joined, joined), 6, 2)
    for branch, seen in zip(branches, filtered, strict=True):
        tokens = branch.movedim(1, 0).flatten(1, 3)
        torch.testing.assert_close(seen, policy._watch(alone, tokens, tokens))


def test_straight_residual_for_cosmos_3():
    settings = {"preset": "seacache", "threshold": 9.0, "order": 1, "max_skips": 2, "min_warmup": 2}
    z = torch.ones(6, 1, 1, 1)
    o = z + torch.arange(6.0).view(6, 1, 1, 1)
    got, decisions, _ = play(parse_cache(settings).build(), z, z, o)
    assert hits(decisions).flatten().int().tolist() == [0, 0, 1, 1, 0, 0]
    torch.testing.assert_close(got, o)
