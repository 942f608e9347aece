"""Other people's caches on our blocks: they run, agree with ours where they should, and leave nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from test_cache_policies import LANES, STEPS, hits, model, roll
from wcsim.backbones.cosmos2.tiny import tiny_world
from wcsim.cache import NoCache, parse_cache
from wcsim.cache.reuse import full_pass
from wcsim.errors import ConfigError, WcsimError
from wcsim.experiments.bench.adapter import Model, cached_tensors
from wcsim.experiments.bench.third_party import THIRD_PARTY, missing, third_party_config
from wcsim.spans import Spans
from wcsim.types import CachePolicy, Fidelity
from wcsim.world.stack import DenoiseStep, TransformerStack

pytestmark = pytest.mark.filterwarnings("ignore:cache '.*' skipped nothing")

EAGER = {"firstblock": {"threshold": 0.3}, "magcache": {"threshold": 9.0}, "pab": {"between": (-1, 1001)},
         "fastercache": {"below": 800}, "dbcache": {"threshold": 0.5, "warmup": 2}}
ALL = [pytest.param(*key, marks=pytest.mark.skipif(missing(key[0]) is not None, reason=str(missing(key[0]))))
       for key in THIRD_PARTY]


def eager(origin, policy):
    return third_party_config(origin, policy, EAGER.get(policy, {})).build()


class Bare(CachePolicy):
    """The modules with no cache on them."""

    def __init__(self, opened):
        self.model = Model(model().depth, opened=opened)

    def init(self, num_lanes, num_steps):
        return None

    def forward(self, stack, step, state):
        self.model.site.stack = stack
        return stack.velocity(self.model(stack.tokens)), None, full_pass(stack.lanes)


@pytest.mark.parametrize("opened", [False, True])
def test_without_a_cache_the_modules_are_the_blocks_bit_for_bit(opened):
    plain, _, _ = roll(NoCache(), [0, 1, 2])
    same, _, _ = roll(Bare(opened), [0, 1, 2])
    assert torch.equal(plain, same)


@pytest.mark.parametrize(("origin", "policy"), ALL)
def test_it_skips_stays_near_and_forgets(origin, policy):
    cache = eager(origin, policy)
    plain, _, _ = roll(NoCache(), [0, 1, 2])
    once, decisions, _ = roll(cache, [0, 1, 2])
    assert hits(decisions).any()
    assert not hits(decisions)[0].any()
    assert not torch.equal(plain, once)
    assert (once - plain).norm() / plain.norm() < 0.5
    roll(cache, [1], steps=STEPS + 3)
    again, repeated, _ = roll(cache, [0, 1, 2])
    assert torch.equal(once, again)
    assert torch.equal(hits(decisions), hits(repeated))
    last = cache.models[model().depth, STEPS]
    assert max(tensor.numel() for tensor in cached_tensors(last)) >= once[0, 0].numel()


@pytest.mark.parametrize(("origin", "policy"), ALL)
def test_it_decides_once_for_the_batch(origin, policy):
    _, decisions, _ = roll(eager(origin, policy), [0, 1, 2])
    assert all(decision.hit.shape == (LANES,) and len(decision.hit.unique()) == 1 for decision in decisions)


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.3])
def test_the_first_block_cache_is_ours_for_one_lane(threshold):
    ours = parse_cache({"preset": "firstblock", "threshold": threshold}).build()
    theirs = third_party_config("diffusers", "firstblock", {"threshold": threshold}).build()
    mine, decided, spent = roll(ours, [1])
    its, told, used = roll(theirs, [1])
    assert torch.equal(hits(decided), hits(told))
    torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.stack(spent), torch.stack(used))


@pytest.mark.parametrize("threshold", [0.02, 0.06, 0.24])
def test_magcache_is_ours_for_any_lanes(threshold):
    ours = parse_cache({"preset": "magcache", "threshold": threshold, "warmup": 0.25}).build()
    theirs = third_party_config("diffusers", "magcache", {"threshold": threshold, "retention": 0.25}).build()
    mine, decided, _ = roll(ours, [0, 1, 2])
    its, told, _ = roll(theirs, [0, 1, 2])
    assert torch.equal(hits(decided), hits(told))
    torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lite", [False, True])
def test_taylorseer_keeps_another_rhythm_than_ours(lite):
    theirs = third_party_config("diffusers", "taylorseer", {"interval": 4, "lite": lite}).build()
    _, told, _ = roll(theirs, [0])
    assert [step for step in range(STEPS) if not told[step].hit] == [0, 1, 2, 4, 8]
    _, decided, _ = roll(parse_cache({"preset": "taylorseer", "interval": 4}).build(), [0])
    assert [step for step in range(STEPS) if not decided[step].hit] == [0, 1, 2, 6, 10]


@pytest.mark.skipif(missing("cache-dit") is not None, reason="cache-dit is not installed")
@pytest.mark.parametrize("threshold", [0.1, 0.3])
def test_dbcache_with_one_block_in_front_is_our_first_block_cache(threshold):
    ours = parse_cache({"preset": "firstblock", "threshold": threshold, "min_warmup": 3}).build()
    theirs = third_party_config("cache-dit", "dbcache", {"threshold": threshold, "warmup": 3}).build()
    mine, decided, _ = roll(ours, [1])
    its, told, _ = roll(theirs, [1])
    assert torch.equal(hits(decided), hits(told))
    torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["pab", "fastercache"])
def test_a_cache_that_reaches_inside_the_blocks_is_refused_where_context_is_kept(policy):
    world = tiny_world()
    frames = torch.randint(0, 256, (1, 2, 96, 96, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    state, actions = world.init(frames.numpy(), np.full((1, 1, 2), 100.0), [0]), np.full((1, 1, 2), 100.0)
    with pytest.raises(ConfigError, match="context_refresh must be 0 for a cache that reaches inside"):
        world.advance(state, actions, Fidelity(12, eager("diffusers", policy), context_refresh=0.5))


def test_one_loop_at_a_time():
    cache, latents = eager("diffusers", "firstblock"), torch.zeros(1, 4, 3, 4, 4)
    constants = model().prepare(
        latents, torch.zeros(1, 3, 2), torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 1, 8))
    levels = torch.ones(1, 3)
    stack = TransformerStack(DenoiseStep(
        model(), latents, levels, torch.zeros(3), constants, model().modulations(levels[None], constants), 0, 0,
        (1.0, 0.5), Spans()))
    _, one, _ = cache.forward(stack, 0, cache.init(1, STEPS))
    cache.forward(stack, 0, cache.init(1, STEPS))
    with pytest.raises(WcsimError, match="one denoise loop at a time"):
        cache.forward(stack, 1, one)
    stack.branches = 2
    with pytest.raises(ConfigError, match="without guidance"):
        cache.forward(stack, 0, cache.init(1, STEPS))


def test_an_unknown_one_is_named():
    with pytest.raises(ConfigError, match="diffusers has no cache 'teacache' here; known: firstblock, magcache"):
        third_party_config("diffusers", "teacache", {})


def test_absence_is_told(monkeypatch):
    monkeypatch.setattr("wcsim.experiments.bench.third_party.find_spec", lambda name: None)
    assert "wcsim[bench]" in str(missing("cache-dit"))
    assert missing("diffusers") is None
