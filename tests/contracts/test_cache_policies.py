"""What every cache policy promises, on a tiny transformer of the real class.

Policies are found by their presets; a new one needs no line here.  A `threshold` of 0, an `interval` of 1 say never.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from wcsim.backbones.cosmos2.tiny import tiny_world
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.cache import NoCache, parse_cache, preset, presets
from wcsim.cache.policy import KINDS
from wcsim.spans import Spans
from wcsim.types import CachePolicy, Decision, Fidelity
from wcsim.world.stack import DenoiseStep, TransformerStack

STEPS, LANES, CONTEXT, FRAMES = 12, 3, 1, 3
ACTING = [name for name in presets() if name != "none"]
STATIC = [name for name in presets() if preset(name).build().static_schedule([1.0, 0.5]) is not None]
GENTLE = (0.01, 0.02, 0.03, 0.05, 0.08, 0.13, 0.2, 0.3)
"""Thresholds to find one in at which a policy is torn."""

pytestmark = pytest.mark.filterwarnings("ignore:cache '.*' skipped nothing")


@cache
def model() -> ActionCosmosTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ActionCosmosTransformer(
            in_channels=5, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=4, text_embed_dim=8,
            adaln_lora_dim=4, max_size=(8, 8, 8), patch_size=(1, 2, 2), concat_padding_mask=False, action_features=2,
        ).eval()  # fmt: skip


def roll(
    policy: CachePolicy, lanes: list[int], steps: int = STEPS, actions_scale: float = 1.0
) -> tuple[Tensor, list[Decision], list[Tensor]]:
    """Euler steps from each lane's own noise: latents, decisions, and blocks run per step and lane."""
    noise = torch.randn(LANES, 4, FRAMES, 4, 4, generator=torch.Generator().manual_seed(1))
    actions = actions_scale * torch.randn(LANES, FRAMES, 2, generator=torch.Generator().manual_seed(2))
    latents, count = noise[lanes], len(lanes)
    clean = torch.tensor([1.0] * CONTEXT + [0.0] * (FRAMES - CONTEXT))
    constants = model().prepare(
        latents, actions[lanes], torch.ones(count, FRAMES, dtype=torch.bool), torch.zeros(1, 1, 8))
    state, decisions, blocks = policy.init(count, steps), [], []
    with torch.inference_mode():
        for step in range(steps):
            now, after = 1 - step / steps, 1 - (step + 1) / steps
            levels = now * (1 - clean).unsqueeze(0)
            modulations = model().modulations(levels.expand(1, count, -1), constants)
            stack = TransformerStack(DenoiseStep(
                model(), latents, levels, clean, constants, modulations, 0, CONTEXT, (now, after), Spans()))
            velocity, state, decision = policy.forward(stack, step, state)
            assert velocity.shape == (count, 1, FRAMES - CONTEXT, 4, 4, 4)
            assert velocity.dtype == torch.float32
            moved = latents[:, :, CONTEXT:] - velocity[:, 0].transpose(1, 2) * (now - after)
            latents = torch.cat([latents[:, :, :CONTEXT], moved], dim=2)
            decisions.append(decision)
            blocks.append(stack.blocks)
    return latents, decisions, blocks


def told(name: str, **words: float) -> CachePolicy:
    """The preset's policy, with the setting that it has of those named changed."""
    known = type(preset(name)).model_fields
    return parse_cache({"preset": name, **{key: value for key, value in words.items() if key in known}}).build()


def never(name: str) -> CachePolicy:
    return told(name, threshold=0.0, interval=1)


def eager(name: str) -> CachePolicy:
    return told(name, threshold=1e3, interval=4)


def hits(decisions: list[Decision]) -> Tensor:
    """`[S, N]` bool."""
    return torch.stack([decision.hit for decision in decisions])


@cache
def torn(name: str) -> CachePolicy:
    """The policy where it both hits and misses; if it can, with lanes that disagree."""
    if name == "none" or "threshold" not in type(preset(name)).model_fields:
        return preset(name).build()
    either = []
    for threshold in GENTLE:
        policy = told(name, threshold=threshold)
        _, decisions, _ = roll(policy, [0, 1, 2])
        share = hits(decisions).float().mean(1)
        if ((share > 0) & (share < 1)).any():
            return policy
        either += [policy] if 0 < share.mean() < 1 else []
    return either[0]


def same(one: list[Decision], other: list[Decision]) -> bool:
    return torch.equal(hits(one), hits(other))


def test_every_kind_is_tested():
    assert {preset(name).kind for name in presets()} == set(KINDS)


@pytest.mark.parametrize("name", presets())
def test_decisions_are_host_values_that_add_up(name):
    policy = torn(name)
    _, decisions, blocks = roll(policy, [0, 1, 2])
    always = getattr(preset(name), "always_run", model().depth)
    for decision, spent in zip(decisions, blocks, strict=True):
        assert decision.hit.shape == (LANES,)
        assert decision.hit.dtype == torch.bool
        assert decision.hit.device.type == "cpu"
        for numbers in (decision.drift, decision.threshold, decision.gain):
            assert numbers.shape == (LANES,)
            assert numbers.dtype == torch.float32
        assert torch.equal(spent, torch.where(decision.hit, always, model().depth))
        assert not (decision.hit & ~(decision.drift < decision.threshold)).any()


@pytest.mark.parametrize("name", presets())
def test_two_runs_are_identical(name):
    once, decisions, _ = roll(torn(name), [0, 1, 2])
    again, repeated, _ = roll(torn(name), [0, 1, 2])
    assert torch.equal(once, again)
    assert same(decisions, repeated)


@pytest.mark.parametrize("name", presets())
def test_a_lane_does_not_see_its_neighbours(name):
    together, decisions, _ = roll(torn(name), [0, 1, 2])
    for lane in range(LANES):
        alone, decided, _ = roll(torn(name), [lane])
        # Matrix products of another batch size round differently.
        torch.testing.assert_close(alone[0], together[lane], rtol=1e-4, atol=1e-4)
        assert hits(decided)[:, 0].tolist() == hits(decisions)[:, lane].tolist()


@pytest.mark.parametrize("name", ACTING)
def test_never_skipping_is_no_cache_bit_for_bit(name):
    plain, _, _ = roll(NoCache(), [0, 1, 2])
    cached, decisions, _ = roll(never(name), [0, 1, 2])
    assert torch.equal(plain, cached)
    assert not hits(decisions).any()


@pytest.mark.parametrize("name", ACTING)
def test_skipping_happens_and_stays_near(name):
    plain, _, full = roll(NoCache(), [0, 1, 2])
    cached, _, spent = roll(torn(name), [0, 1, 2])
    assert sum(map(torch.sum, spent)) < sum(map(torch.sum, full))
    assert not torch.equal(plain, cached)
    assert (cached - plain).norm() / plain.norm() < 0.5


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("steps", [3, STEPS, 40])
def test_the_static_schedule_is_what_runs(name, steps):
    policy = torn(name)
    _, decisions, blocks = roll(policy, [0, 1], steps=steps)
    ran = [step for step, spent in enumerate(blocks) if spent.any()]
    assert list(policy.static_schedule([1 - step / steps for step in range(steps)])) == ran
    assert hits(decisions).any(1).sum() == steps - len(ran)


@pytest.mark.parametrize("name", presets())
def test_actions_still_matter(name):
    one, _, _ = roll(torn(name), [0, 1, 2])
    other, _, _ = roll(torn(name), [0, 1, 2], actions_scale=-1.0)
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("name", presets())
def test_policies_are_immutable_values(name):
    policy = preset(name).build()
    assert policy == preset(name).build()
    assert hash(policy) == hash(preset(name).build())
    assert not hasattr(policy, "__dict__")
    with pytest.raises((AttributeError, TypeError)):
        policy.config = None


@pytest.mark.parametrize("name", presets())
def test_states_are_not_mutated(name):
    policy = torn(name)

    class Twice(CachePolicy):
        """Takes every step two times over."""

        init = policy.init

        def forward(self, stack: Any, step: int, state: Any) -> tuple[Tensor, Any, Decision]:
            before, given = copy.deepcopy(state), stack.tokens.clone()
            policy.forward(stack, step, state)
            assert_same(state, before)
            assert torch.equal(stack.tokens, given)
            return policy.forward(stack, step, state)

    twice, _, _ = roll(Twice(), [0, 1, 2])
    once, _, _ = roll(policy, [0, 1, 2])
    assert torch.equal(twice, once)


def assert_same(one: object, other: object) -> None:
    if isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, tuple):
        for mine, its in zip(one, other, strict=True):
            assert_same(mine, its)
    elif hasattr(one, "__slots__"):
        assert not hasattr(one, "__dict__")
        for name in one.__slots__:
            assert_same(getattr(one, name), getattr(other, name))
    else:
        assert one == other


@pytest.mark.parametrize("name", presets())
def test_nothing_is_left_behind_by_a_failure_or_by_other_steps(name):
    policy = torn(name)
    before, _, _ = roll(policy, [0, 1, 2])

    class Fails(CachePolicy):
        init = policy.init

        def forward(self, stack: Any, step: int, state: Any) -> tuple[Tensor, Any, Decision]:
            if step == STEPS // 2:
                raise RuntimeError("in the middle")
            return policy.forward(stack, step, state)

    with pytest.raises(RuntimeError, match="in the middle"):
        roll(Fails(), [0, 1, 2])
    roll(policy, [1, 0], steps=STEPS + 5)
    after, _, _ = roll(policy, [0, 1, 2])
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", ACTING)
def test_a_generous_setting_skips_in_a_real_world(name):
    world = tiny_world(layers=4)
    frames = torch.randint(0, 256, (2, 1, 96, 96, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    state = world.init(frames.numpy(), torch.zeros(2, 0, 2).numpy(), [1, 2])
    actions = torch.full((2, 1, 2), 100.0).numpy()
    _, plain, _ = world.advance(state, actions, Fidelity(STEPS, NoCache()))
    _, cached, trace = world.advance(state, actions, Fidelity(STEPS, eager(name)))
    assert trace.hit_rate > 0.1
    assert trace.skipped > 0.02
    assert cached.isfinite().all()
    assert not torch.equal(plain, cached)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ACTING)
def test_says_when_it_cannot_act(name):
    with pytest.warns(UserWarning, match=f"cache '{preset(name).kind}' has no effect: of 1 denoise steps"):
        preset(name).build().init(1, 1)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [name for name in ACTING if "threshold" in type(preset(name)).model_fields])
def test_says_when_it_never_acts(name):
    with pytest.warns(UserWarning, match=f"cache '{preset(name).kind}' skipped nothing in {STEPS} denoise steps"):
        roll(told(name, threshold=1e-9), [0, 1])
