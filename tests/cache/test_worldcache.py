"""WorldCache on a scripted stack: which steps are skipped, what they return, and what is remembered."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scripted import ScriptedStack, hits, play, scalars
from wcsim.cache import WorldCache, parse_cache
from wcsim.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:cache 'worldcache' skipped nothing")  # some tests see to it


def policy(**settings: object) -> WorldCache:
    """Constant threshold, no saliency, unless told otherwise."""
    plain = {"kind": "worldcache", "alpha": 0.0, "beta_s": 0.0, "beta_d": 0.0, "max_skips": None}
    return parse_cache({**plain, **settings}).build()


def trajectory(steps: int = 10, lanes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slow random walks: tokens, probe and output of a grid of 3 frames by 2 by 2 tokens, width 8."""
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(3, steps, lanes, 12, 8, generator=generator)
    size = 0.02 * (1 + torch.arange(lanes).view(1, 1, lanes, 1, 1))
    walk = torch.cat([walk[:, :1], size * walk[:, 1:]], dim=1).cumsum(1)
    return walk[0], walk[0] + 0.1 * walk[1], walk[0] + walk[2]


PROBE = scalars([4.0, 4.0, 5.0, 4.0, 5.4, 6.48, 7.776, 7.776])


@pytest.mark.parametrize(
    ("drift", "expected"),
    [
        # Relative changes from one step to the next are .25 (step 2), .2, .35, .2, .2; warm-up 2, last step forced.
        ("accumulate", [0, 0, 1, 0, 0, 1, 0, 0]),  # .25 | .45 miss | .35 miss | .2 | .4 miss
        ("anchor", [0, 0, 1, 1, 0, 1, 0, 0]),  # from 4: .25, 0, .35 miss; from 5.4: .2, .44 miss
        ("literal", [0, 0, 1, 1, 0, 1, 1, 0]),  # each change alone
    ],
)
def test_hits_by_hand(drift, expected):
    z = torch.ones_like(PROBE)
    _, decisions, stacks = play(policy(threshold=0.3, drift=drift), z, PROBE, 2 * PROBE)
    assert hits(decisions).flatten().int().tolist() == expected
    assert [stack.block_lanes for stack in stacks] == [1 if hit else 2 for hit in expected]


def test_threshold_zero_never_skips_even_where_nothing_moves():
    still = scalars([1.0] * 6)
    _, decisions, _ = play(policy(threshold=0.0), still, still, still)
    assert not hits(decisions).any()


def test_longest_run_of_skips():
    still = scalars([1.0] * 9)
    _, decisions, _ = play(policy(threshold=0.3, max_skips=2), still, still, still)
    assert hits(decisions).flatten().int().tolist() == [0, 0, 1, 1, 0, 1, 1, 0, 0]


def test_warm_up_is_the_larger_of_share_and_minimum():
    still = scalars([1.0] * 10)
    _, decisions, _ = play(policy(threshold=0.3, warmup=0.5, force_last=False), still, still, still)
    assert hits(decisions).flatten().int().tolist() == [0] * 5 + [1] * 5
    _, decisions, _ = play(policy(threshold=0.3, warmup=0.1, min_warmup=3), still, still, still)
    assert hits(decisions).flatten().int().tolist() == [0] * 3 + [1] * 6 + [0]


def test_forced_steps_measure_nothing():
    still = scalars([1.0] * 4)
    _, decisions, _ = play(policy(threshold=0.3), still, still, still)
    for step, known in enumerate([False, False, True, False]):
        numbers = torch.stack([decisions[step].drift, decisions[step].threshold, decisions[step].gain])
        assert bool(numbers.isfinite().all()) == known


@pytest.mark.parametrize(
    ("mode", "thresholds"),
    [
        # z changes by .5 of 1 (step 2, a hit), then 1 of 1 over two steps; or by .5 of 1.5 since the step before
        ("anchor", [0.3 / 2, 0.3 / 2]),
        ("previous", [0.3 / 2, 0.3 / (1 + 2 / 3)]),
    ],
)
def test_motion_lowers_the_threshold(mode, thresholds):
    z, still = scalars([1.0, 1.0, 1.5, 2.0, 2.0]), scalars([4.0] * 5)
    _, decisions, _ = play(policy(threshold=0.3, alpha=2.0, velocity=mode), z, still, still)
    torch.testing.assert_close(torch.cat([decisions[step].threshold for step in (2, 3)]), torch.tensor(thresholds))


def test_schedule_raises_the_threshold():
    still = scalars([1.0] * 5)
    _, decisions, _ = play(policy(threshold=0.1, beta_d=4.0), still, still, still)
    torch.testing.assert_close(decisions[3].threshold, torch.tensor([0.1 * (1 + 4 * 3 / 5)]))
    _, decisions, _ = play(policy(threshold=0.1, beta_d="budget"), still, still, still)
    u = 5 / 35
    torch.testing.assert_close(decisions[3].threshold, torch.tensor([0.1 * (1 + (u * u / 6 + u / 2 + 10 / 3) * 3 / 5)]))


def test_context_frames_do_not_dilute():
    z = torch.ones(5, 1, 2, 1)
    p = torch.ones(5, 1, 2, 1)
    p[2:, :, 1] = 1.4  # the second of two frames moves by .4, the mean over both by .2
    grid = {"grid": (2, 1, 1), "context": 1}
    _, decisions, _ = play(policy(threshold=0.3), z, p, p, **grid)
    assert decisions[2].drift.item() == pytest.approx(0.4, abs=1e-5)
    assert not decisions[2].hit
    _, decisions, _ = play(policy(threshold=0.3, mask_context=False), z, p, p, **grid)
    assert decisions[2].drift.item() == pytest.approx(0.2, abs=1e-5)
    assert decisions[2].hit


def test_saliency_turns_the_drift_towards_varied_tokens():
    z = torch.zeros(4, 1, 2, 2)
    p = torch.tensor([[1.0, 1.0], [0.0, 2.0]]).expand(4, 1, 2, 2).clone()
    p[2, :, 1] += 0.2  # only the token whose channels vary moves: drift .2 / 2 = .1 unweighted
    weighted = {"threshold": 0.3, "beta_s": 1.0}
    _, decisions, _ = play(policy(**weighted), z, p, p, grid=(1, 1, 2))
    assert decisions[2].drift.item() == pytest.approx(0.1 * 2 / 1.5, rel=1e-4)
    _, decisions, _ = play(policy(**weighted, normalise_weights=False), z, p, p, grid=(1, 1, 2))
    assert decisions[2].drift.item() == pytest.approx(0.1 * 2, rel=1e-4)


def test_hits_are_exact_where_residuals_move_in_a_straight_line():
    generator = torch.Generator().manual_seed(0)
    z, q0, q_slope, r0, r_slope = torch.randn(5, 1, 3, 12, 8, generator=generator)
    time = torch.arange(6.0).view(6, 1, 1, 1)
    tokens = z.expand(6, -1, -1, -1)
    output = tokens + r0 + time * r_slope
    got, decisions, _ = play(policy(threshold=99.0, max_skips=1), tokens, tokens + q0 + time * q_slope, output)
    assert hits(decisions)[:, 0].int().tolist() == [0, 0, 1, 0, 1, 0]
    torch.testing.assert_close(decisions[2].gain, torch.full((3,), 2.0))  # from 0, 1 to 2
    torch.testing.assert_close(decisions[4].gain, torch.full((3,), 1.5))  # from 1, 3 to 4
    torch.testing.assert_close(got, output)


def test_deep_blocks_run_on_misses_only():
    still = torch.ones(3, 4, 1, 1)
    p = still.clone()
    p[2, [1, 3]] = 2.0
    got, decisions, stacks = play(policy(threshold=0.3, force_last=False), still, p, 5 * still)
    assert hits(decisions)[2].tolist() == [True, False, True, False]
    assert stacks[2].calls == [(0, 1, None), (1, 2, [1, 3])]
    assert [stack.block_lanes for stack in stacks] == [8, 8, 4 + 2]
    torch.testing.assert_close(got, 5 * still)


def test_no_gather_where_lanes_agree():
    still = torch.ones(3, 4, 1, 1)
    moved = torch.cat([still[:2], 2 * still[2:]])
    _, _, stacks = play(policy(threshold=0.3, force_last=False), still, still, still)
    assert stacks[2].calls == [(0, 1, None)]
    _, _, stacks = play(policy(threshold=0.3, force_last=False), still, moved, still)
    assert stacks[2].calls == [(0, 1, None), (1, 2, None)]


PRESETS = ["worldcache", "paper", "authors_cosmos", "authors_wan", "dicache"]
GRID = {"grid": (3, 2, 2), "context": 1}


@pytest.mark.parametrize("preset", PRESETS)
def test_batch_equals_singles(preset):
    cache = parse_cache({"preset": preset, "threshold": 0.25, "probe": 1}).build()
    z, p, o = trajectory(steps=16)
    together, decisions, _ = play(cache, z, p, o, **GRID)
    assert 0 < hits(decisions).float().mean() < 1
    for lane in range(z.shape[1]):
        one = slice(lane, lane + 1)
        alone, decided, _ = play(cache, z[:, one], p[:, one], o[:, one], **GRID)
        assert torch.equal(alone, together[:, one])
        for mine, ours in zip(decided, decisions, strict=True):
            for name in ("hit", "drift", "threshold", "gain"):
                same = getattr(mine, name), getattr(ours, name)[one]
                torch.testing.assert_close(*same, rtol=0, atol=0, equal_nan=True)


def test_lanes_of_one_step_can_differ():
    _, decisions, _ = play(policy(threshold=0.3), *trajectory(), **GRID)
    per_step = hits(decisions).float().mean(1)
    assert ((per_step > 0) & (per_step < 1)).any()


@pytest.mark.parametrize("preset", PRESETS)
def test_state_is_not_mutated(preset):
    cache = parse_cache({"preset": preset, "threshold": 0.25, "probe": 1}).build()
    z, p, o = trajectory()
    state = cache.init(z.shape[1], len(z))
    for step in range(len(z)):
        before, tokens = copy.deepcopy(state), z[step].clone()
        stack = ScriptedStack(z[step], [p[step] - z[step], (o - p)[step] / 2, (o - p)[step] / 2], **GRID)
        first = cache.forward(stack, step, state)
        again = cache.forward(stack, step, state)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[2].hit, again[2].hit)
        assert torch.equal(z[step], tokens)
        assert_same(state, before)
        state = first[1]


def assert_same(one: object, other: object) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif hasattr(one, "__slots__"):
        for name in one.__slots__:
            assert_same(getattr(one, name), getattr(other, name))
    else:
        assert one == other


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(0.125, 10, width=32), min_size=4, max_size=24),
    low=st.floats(0, 2),
    more=st.floats(0, 2),
    beta_d=st.floats(0, 4),
    max_skips=st.one_of(st.none(), st.integers(1, 4)),
)
def test_raising_the_threshold_never_adds_full_passes(values, low, more, beta_d, max_skips):
    p = scalars(values)
    z = torch.ones_like(p)
    hit_count = [
        hits(play(policy(threshold=threshold, beta_d=beta_d, max_skips=max_skips), z, p, p)[1]).sum()
        for threshold in (low, low + more)
    ]
    assert hit_count[0] <= hit_count[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tokens(dtype):
    z, p, o = (x.to(dtype) for x in trajectory())
    got, decisions, _ = play(policy(threshold=0.5), z, p, o, **GRID)
    assert got.dtype == dtype
    assert hits(decisions).any()
    assert decisions[2].drift.dtype == torch.float32
    assert got.isfinite().all()


def test_nothing_is_kept_of_tokens_that_nobody_reads():
    z, p, o = trajectory()
    cache, state = parse_cache("worldcache").build(), None
    for context, tokens in ((0, 12), (1, 8), (2, 4)):
        state = cache.init(z.shape[1], len(z))
        for step in range(4):
            stack = ScriptedStack(z[step], [p[step] - z[step], o[step] - p[step]], grid=(3, 2, 2), context=context)
            _, state, _ = cache.forward(stack, step, state)
        memory = state.memory
        parts = (memory.window.q1, memory.window.q2, memory.z_ref, memory.p_ref)
        assert [part.shape[1] for part in parts] == [tokens] * 4
        assert [part.untyped_storage().nbytes() for part in parts] == [part.nbytes for part in parts]
        assert memory.window.r1.shape[1] == memory.window.r2.shape[1] == 12


def test_nan_is_never_reused():
    p = scalars([1.0, 1.0, float("nan"), 1.0, 1.0])
    _, decisions, _ = play(policy(threshold=99.0), torch.ones_like(p), p, p)
    assert not decisions[2].hit


def test_warns_where_no_step_can_be_skipped():
    cache = policy(threshold=0.3)
    with pytest.warns(UserWarning, match="no effect: of 3 denoise steps, 2 warm up and the last is forced"):
        cache.init(1, 3)
    cache.init(1, 4)


def test_probe_must_leave_a_block():
    cache = policy(threshold=0.3, probe=2)
    stack = ScriptedStack(torch.zeros(1, 1, 1), [torch.zeros(1, 1, 1)] * 2)
    with pytest.raises(ConfigError, match="probe is 2, but of 2 blocks"):
        cache.forward(stack, 0, cache.init(1, 8))


def test_a_late_start_computes_what_it_has_no_history_for():
    cache = policy(threshold=0.3)
    stack = ScriptedStack(torch.zeros(1, 1, 1), [torch.ones(1, 1, 1)] * 2)
    _, _, decision = cache.forward(stack, 5, cache.init(1, 8))
    assert not decision.hit.any()
