"""The settings of WorldCache that go beyond the paper, and its parts switched off, on a scripted stack."""

from __future__ import annotations

import pytest
import torch

from scripted import ScriptedStack, hits, play, scalars
from test_worldcache import GRID, policy, trajectory


@pytest.mark.parametrize(("reuse", "last"), [("osi", 16.0), ("distance", 16.0), ("hold", 11.0)])
def test_how_far_a_hit_goes(reuse, last):
    # q = 0, 1, 1.5 with r = 0, 10: the skipped output is z + 15 by gain, z + 10 as is
    z = scalars([1.0] * 3)
    q, r = scalars([0.0, 1.0, 1.5]), scalars([0.0, 10.0, 99.0])
    cache = policy(threshold=9.0, drift="literal", reuse=reuse, force_last=False)
    got, _, _ = play(cache, z, z + q, z + r)
    torch.testing.assert_close(got[2].flatten(), torch.tensor([last]), rtol=1e-4, atol=0)


def test_frames_have_gains_of_their_own():
    # Two frames; the first goes on at the old pace, the second stands still: one gain for both fits neither.
    z = torch.ones(3, 1, 2, 1)
    q = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 1.0]]).view(3, 1, 2, 1)
    settings = {"threshold": 9.0, "force_last": False, "mask_context": False}
    grid = {"grid": (2, 1, 1)}
    got, decisions, _ = play(policy(gain="frame", **settings), z, z + q, z + 10 * q, **grid)
    assert hits(decisions).flatten().tolist() == [False, False, True]
    torch.testing.assert_close(got[2].flatten(), torch.tensor([21.0, 11.0]), rtol=1e-4, atol=0)
    assert decisions[2].gain.item() == pytest.approx(1.5, abs=1e-4)
    got, _, _ = play(policy(gain="lane", **settings), z, z + q, z + 10 * q, **grid)
    torch.testing.assert_close(got[2].flatten(), torch.tensor([16.0, 16.0]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.7])
@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.5])
def test_a_rate_is_met_from_any_threshold(rate, threshold):
    z, p, o = trajectory(steps=60)
    _, decisions, _ = play(policy(threshold=threshold, rate=rate), z, p, o, **GRID)
    gated = hits(decisions)[2:-1].float().mean(0)
    assert gated.shape == (4,)
    assert (gated - rate).abs().max() < 0.08


def test_rate_by_hand():
    # The probe grows by a tenth per step: a step of 1 owed gets through.
    p = scalars([1.0, 1.0, 1.1, 1.21, 1.331, 1.4641])
    z = torch.ones_like(p)
    _, decisions, _ = play(policy(threshold=0.05, rate=0.5, drift="literal", force_last=False), z, p, p)
    owed = torch.tensor([0.0, 0.5, 1.0, 0.5])
    assert hits(decisions).flatten().int().tolist() == [0, 0, 0, 0, 1, 0]
    torch.testing.assert_close(torch.cat([d.threshold for d in decisions[2:]]), 0.05 * owed.exp())


def test_error_budget_by_hand():
    # The second channel is not on the line: .2 of a probe of length 1 unexplained, at noise steps of .2.
    z = torch.ones(5, 1, 1, 2)
    q = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.2], [1.0, 0.2], [1.0, 0.2]]).view(5, 1, 1, 2)
    missed = 0.2 / 1.04**0.5
    _, decisions, _ = play(policy(error=0.15, force_last=False, threshold=0.0), z, z + q, z + q)
    told = torch.cat([torch.stack([d.drift, d.threshold], dim=1) for d in decisions[2:]])
    spent, allowed = missed * 0.2, 0.15 * torch.tensor([0.6, 0.8, 1.0])
    torch.testing.assert_close(told[:, 0], spent * torch.tensor([1.0, 2.0, 3.0]), rtol=1e-4, atol=0)
    torch.testing.assert_close(told[:, 1], allowed)
    assert hits(decisions).flatten().int().tolist() == [0, 0, 1, 1, 1]
    _, decisions, _ = play(policy(error=0.08, force_last=False), z, z + q, z + q)
    # .039 of .048, then .078 of .064: computed, which costs nothing, and moves the line onto the probe.
    assert hits(decisions).flatten().int().tolist() == [0, 0, 1, 0, 1]
    assert decisions[4].drift.item() == pytest.approx(spent, rel=1e-3)


def test_an_error_budget_keeps_the_window_only():
    z, p, o = trajectory()
    cache = policy(error=0.1)
    state = cache.init(4, 10)
    _, state, _ = cache.forward(ScriptedStack(z[0], [(p - z)[0], (o - p)[0]], **GRID), 0, state)
    assert state.memory.z_ref is None
    assert state.memory.p_ref is None
