"""What every cache policy promises, on a tiny transformer of the real class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wcsim.cache import NoCache, parse_cache, presets
from wcsim.types import CachePolicy, Decision
from wcsim.world.transformer import ActionCosmosTransformer, Conditioning

STEPS, LANES, CONTEXT, FRAMES = 8, 3, 1, 3
GATED = [name for name in presets() if name != "none"]
MIXED = {"authors_cosmos": 0.03, "dicache": 0.05, "paper": 0.02, "wcsim": 0.07}
"""Thresholds at which the lanes of this toy disagree at some steps."""


class TransformerStack:
    """The blocks of a transformer under one conditioning."""

    def __init__(self, model: ActionCosmosTransformer, given: Conditioning) -> None:
        self.depth, self.grid, self.context = model.depth, given.grid, CONTEXT
        self.block_lanes = 0
        self._model, self._given = model, given

    def run(self, tokens: Tensor, first: int, last: int, lanes: Tensor | None = None) -> Tensor:
        self.block_lanes += (last - first) * len(tokens)
        given = self._given if lanes is None else self._given.select(lanes)
        return self._model.run_blocks(tokens, first, last, given)


@pytest.fixture(scope="module")
def model() -> ActionCosmosTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ActionCosmosTransformer(
            in_channels=5, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=4, text_embed_dim=8,
            adaln_lora_dim=4, max_size=(8, 8, 8), patch_size=(1, 2, 2), concat_padding_mask=False, action_features=2,
        ).eval()  # fmt: skip


def roll(
    model: ActionCosmosTransformer, policy: CachePolicy, lanes: list[int], actions_scale: float = 1.0
) -> tuple[Tensor, list[Decision], list[int]]:
    """Euler steps from each lane's own noise: latents, decisions, and block-lane products per step."""
    noise = torch.randn(LANES, 4, FRAMES, 4, 4, generator=torch.Generator().manual_seed(1))
    actions = actions_scale * torch.randn(LANES, FRAMES, 2, generator=torch.Generator().manual_seed(2))
    latents, actions = noise[lanes], actions[lanes]
    count = len(lanes)
    clean = torch.tensor([1.0] * CONTEXT + [0.0] * (FRAMES - CONTEXT))
    given = {
        "known_NT": torch.ones(count, FRAMES, dtype=torch.bool),
        "text_NSE": torch.zeros(count, 1, 8),
        "clean_T": clean,
        "rope": model.position(latents),
    }
    state, decisions, blocks = policy.init(count, STEPS), [], []
    with torch.inference_mode():
        for step in range(STEPS):
            sigma = (1 - step / STEPS) * (1 - clean).expand(count, -1)
            tokens, conditioning = model.embed(latents, sigma, actions, **given)
            stack = TransformerStack(model, conditioning)
            output, state, decision = policy.forward(stack, step, tokens, state)
            assert output.shape == tokens.shape
            assert output.dtype == tokens.dtype
            velocity = model.unembed(output, conditioning) * (1 - clean).view(1, 1, -1, 1, 1)
            latents = latents - velocity / STEPS
            decisions.append(decision)
            blocks.append(stack.block_lanes)
    return latents, decisions, blocks


def policy_of(name: str, threshold: float | None = None) -> CachePolicy:
    """The preset with another threshold: by default one at which this toy both hits and misses."""
    if name == "none":
        return NoCache()
    return parse_cache({"preset": name, "threshold": MIXED.get(name, 0.1) if threshold is None else threshold}).build()


@pytest.mark.parametrize("name", presets())
def test_decisions_are_host_values_that_add_up(model, name):
    policy = policy_of(name)
    _, decisions, blocks = roll(model, policy, [0, 1, 2])
    probe = getattr(getattr(policy, "config", None), "probe", model.depth)
    for decision, spent in zip(decisions, blocks, strict=True):
        assert decision.hit.shape == (LANES,)
        assert decision.hit.dtype == torch.bool
        assert decision.hit.device.type == "cpu"
        for numbers in (decision.drift, decision.threshold, decision.gain):
            assert numbers.shape == (LANES,)
            assert numbers.dtype == torch.float32
        hits = int(decision.hit.sum())
        assert spent == LANES * model.depth - hits * (model.depth - probe)
        assert not (decision.hit & ~(decision.drift < decision.threshold)).any()


@pytest.mark.parametrize("name", presets())
def test_two_runs_are_identical(model, name):
    policy = policy_of(name)
    once, decisions, _ = roll(model, policy, [0, 1, 2])
    again, repeated, _ = roll(model, policy, [0, 1, 2])
    assert torch.equal(once, again)
    for one, other in zip(decisions, repeated, strict=True):
        assert torch.equal(one.hit, other.hit)


@pytest.mark.parametrize("name", presets())
def test_a_lane_does_not_see_its_neighbours(model, name):
    policy = policy_of(name)
    together, decisions, _ = roll(model, policy, [0, 1, 2])
    for lane in range(LANES):
        alone, decided, _ = roll(model, policy, [lane])
        # Matrix products of another batch size round differently.
        torch.testing.assert_close(alone[0], together[lane], rtol=1e-4, atol=1e-4)
        assert [bool(d.hit[0]) for d in decided] == [bool(d.hit[lane]) for d in decisions]


@pytest.mark.parametrize("name", GATED)
def test_threshold_zero_is_no_cache_bit_for_bit(model, name):
    plain, _, _ = roll(model, NoCache(), [0, 1, 2])
    cached, decisions, _ = roll(model, policy_of(name, 0.0), [0, 1, 2])
    assert torch.equal(plain, cached)
    assert not any(decision.hit.any() for decision in decisions)


@pytest.mark.parametrize("name", GATED)
def test_skipping_happens_and_stays_near(model, name):
    plain, _, full = roll(model, NoCache(), [0, 1, 2])
    cached, _, spent = roll(model, policy_of(name), [0, 1, 2])
    assert sum(spent) < sum(full)
    assert not torch.equal(plain, cached)
    assert (cached - plain).norm() / plain.norm() < 0.5


@pytest.mark.parametrize("name", presets())
def test_actions_still_matter(model, name):
    one, _, _ = roll(model, policy_of(name), [0, 1, 2])
    other, _, _ = roll(model, policy_of(name), [0, 1, 2], actions_scale=-1.0)
    assert (one - other).abs().max() > 1e-4
