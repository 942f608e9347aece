"""Reuse across rollout steps, by hand: what a loop leaves for the next, and when it is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripted import hits, play, scalars
from wcsim.backbones.cosmos2.tiny import tiny_world
from wcsim.cache import NoCache
from wcsim.experiments.across import Across
from wcsim.types import Fidelity


def policy(**settings):
    return Across.Config(**settings).build()


def test_the_first_loop_has_nothing_to_take():
    cache, still = policy(), scalars([1.0] * 4)
    got, decisions, _ = play(cache, still, still, still + 1)
    assert not hits(decisions).any()
    assert torch.equal(got, still + 1)


@pytest.mark.parametrize(("form", "expected"), [
    ("same", [6.0, 11.0, 8.0, 13.0]),  # step 1: z + 10; step 3: z + 12, as in the first loop
    ("change", [6.0, 7.0, 8.0, 9.0]),  # step 1: z + 6 + (10 - 9); step 3: z + 8 + (12 - 11)
])
def test_the_second_loop_by_hand(form, expected):
    cache, z = policy(form=form), scalars([0.0, 1.0, 0.0, 1.0])
    play(cache, z, z, z + scalars([9.0, 10.0, 11.0, 12.0]))
    # One loop has ended: steps 1 and 3 are even in turn, 0 and 2 odd; step 0 is always computed.
    z2, o2 = scalars([0.0, 1.0, 0.0, 1.0]), scalars([6.0, 0.0, 8.0, 0.0])
    cache.past.loops = 2
    got, decisions, _ = play(cache, z2, z2, o2)
    assert hits(decisions).flatten().tolist() == [False, True, False, True]
    expected = torch.tensor(expected)
    if form == "change":
        expected[1::2] += 1.0  # z is 1 there
    torch.testing.assert_close(got.flatten(), expected)


def test_loops_take_turns_so_that_nothing_grows_old():
    cache, still = policy(), scalars([1.0] * 6)
    skipped = [hits(play(cache, still, still, still)[1]).flatten().int().tolist() for _ in range(3)]
    assert skipped == [[0] * 6, [0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]]


def test_other_lanes_and_other_steps_begin_afresh():
    cache = policy()
    play(cache, *[scalars([[1.0, 2.0]] * 4)] * 3)
    _, decisions, _ = play(cache, *[scalars([1.0] * 4)] * 3)
    assert not hits(decisions).any()
    _, decisions, _ = play(cache, *[scalars([1.0] * 5)] * 3)
    assert not hits(decisions).any()


def test_in_a_rollout_it_acts_from_the_second_chunk_on():
    world = tiny_world()
    frames = torch.randint(0, 256, (2, 4, 96, 96, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    state = world.init(frames.numpy(), np.full((2, 3, 2), 100.0), [1, 2])
    actions = np.full((2, 8, 2), 100.0)
    _, plain, _ = world.advance(state, actions, Fidelity(4, NoCache()))
    _, cached, trace = world.advance(state, actions, Fidelity(4, policy()))
    assert torch.equal(plain[:, :4], cached[:, :4])
    assert not torch.equal(plain[:, 4:], cached[:, 4:])
    assert trace.hit[0].sum() == 0
    assert trace.hit[1].sum() == 2  # one step of three, two lanes
