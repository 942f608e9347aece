"""The memory estimate against what torch holds at once, and lots of lanes against all lanes together."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wcsim.backbones.cosmos2.tiny import tiny_clip_world, tiny_world
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.cache import NoCache, parse_cache
from wcsim.errors import ConfigError
from wcsim.types import Fidelity
from wcsim.world.clips import Sampling, sample_clip
from wcsim.world.guidance import Guidance
from wcsim.world.memory import VARIABLE, Need, lots, memory_limit, rollout_memory
from wcsim.world.rollout import Parts
from wcsim.world.world import World

pytestmark = pytest.mark.filterwarnings("ignore:cache .* skipped nothing")
FULL = {"threshold": 0.5, "warmup": 0.0}
HUNGRIEST = {"preset": "worldcache", **FULL}


class LiveBytes(TorchDispatchMode):
    """peak: most bytes of tensors made inside that were alive at once."""

    def __init__(self, *known):
        super().__init__()
        self.now = self.peak = 0
        self._alive = {id(tensor.untyped_storage()) for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage):
        if id(storage) not in self._alive:
            self._alive.add(id(storage))
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, key, size):
        self._alive.discard(key)
        self.now -= size


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ActionCosmosTransformer(
        in_channels=17, out_channels=16, num_attention_heads=2, attention_head_dim=48, num_layers=2, text_embed_dim=16,
        adaln_lora_dim=8, max_size=(8, 32, 32), patch_size=(1, 2, 2), action_features=0,
    ).eval()  # fmt: skip


@pytest.mark.parametrize(("cache", "scale", "decide", "dtype", "hold"), [
    (None, 0.0, "together", torch.float32, 0.0), (HUNGRIEST, 0.0, "together", torch.float32, 0.0),
    ({"preset": "seacache", **FULL}, 0.0, "together", torch.float32, 0.0),
    (HUNGRIEST, 2.0, "together", torch.float32, 0.0), (HUNGRIEST, 2.0, "apart", torch.float32, 0.0),
    ({"preset": "worldcache", **FULL}, 0.0, "together", torch.bfloat16, 0.0),
    (None, 0.0, "together", torch.float32, 0.3), (HUNGRIEST, 2.0, "together", torch.float32, 0.3),
])  # fmt: skip
@torch.no_grad()
def test_the_estimate_holds_and_is_not_wild(model, cache, scale, decide, dtype, hold):
    lanes, frames, side, texts = 3, 4, 32, 16
    model = model.float()
    model.set_precision(dtype)
    noise, prompt = torch.randn(lanes, frames, 16, side, side), torch.randn(2, 1, texts, 16)
    policy = parse_cache(cache).build() if cache else NoCache()
    fidelity = Fidelity(4, policy, "unipc", guidance=scale, decide=decide, context_refresh=hold)
    spec = replace(tiny_clip_world().spec, latent_shape=(16, side, side), max_chunk=12)
    need = rollout_memory(model.geometry, spec, fidelity, text_tokens=texts,
                          size=model.patch_embed.proj.weight.element_size())
    guidance = Guidance(scale, prompt[1], decide=decide) if scale else None
    sampling = Sampling(4, "unipc", guidance=guidance, context_refresh=hold)
    with LiveBytes(noise, prompt, *model.parameters()) as live:
        sample_clip(model, noise[:, :1], noise, prompt[0], sampling, policy)
    assert live.peak <= need.total(lanes) <= 4 * live.peak


def test_what_fits():
    need = Need(fixed=100, per_lane=50)
    assert [need.lanes_within(limit) for limit in (99, 149, 150, 349, 350)] == [0, 0, 1, 4, 5]
    assert lots(5, need, 10_000) == [[0, 1, 2, 3, 4]]
    assert lots(5, need, 350) == [[0, 1, 2, 3, 4]]
    assert lots(5, need, 300) == [[0, 1, 2], [3, 4]]
    assert lots(5, need, 160) == [[0], [1], [2], [3], [4]]
    with pytest.raises(ConfigError, match=r"one lane needs about 1.5e-07 GB beside the weights; allowed are 1.4e-07"):
        lots(5, need, 140)


@pytest.mark.parametrize("make", [tiny_world, tiny_clip_world])
def test_lots_of_lanes_are_all_lanes_together(make, monkeypatch):
    world = make()
    spec, rng = world.spec, np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 1, *spec.frame_size, 3), dtype=np.uint8)
    state = world.init(frames, np.zeros((5, 0, spec.action.dim), np.float32), np.arange(5))
    actions = rng.uniform(spec.action.low, spec.action.high, (5, spec.max_chunk, spec.action.dim)).astype(np.float32)
    cache = parse_cache({"preset": "worldcache", "threshold": 0.3, "max_skips": 1}).build()
    fidelity = Fidelity(5, cache, "unipc")
    after, latents, trace = world.advance(state, actions, fidelity)
    world.memory_limit = world.memory(fidelity).total(2)
    small_after, small_latents, small_trace = world.advance(state, actions, fidelity)
    tight = {"rtol": 0, "atol": 0} if make is tiny_world else {"rtol": 1e-3, "atol": 2e-2}  # pictures are rounded
    torch.testing.assert_close(small_latents, latents, **tight)
    for name, value in after.tensors().items():
        torch.testing.assert_close(getattr(small_after, name), value, **tight)
    np.testing.assert_array_equal(small_trace.hit, trace.hit)
    np.testing.assert_array_equal(small_trace.blocks, trace.blocks)
    assert small_trace.depth == trace.depth
    assert small_trace.spans_ms.keys() == trace.spans_ms.keys()
    world.memory_limit = 1000
    with pytest.raises(ConfigError, match="one lane needs about"):
        world.advance(state, actions, fidelity)
    world.memory_limit = None
    monkeypatch.setenv(VARIABLE, "0.000001")
    with pytest.raises(ConfigError, match=r"memory_limit, or WCSIM_MEMORY_GB"):
        world.advance(state, actions, fidelity)


def test_branches_share_a_batch_where_memory_allows(monkeypatch):
    world = tiny_world()
    prompts = torch.randn(2, 1, 3, 8, generator=torch.Generator().manual_seed(0))
    told = World(world.spec, world.transformer, world.codec,
                 {"conditional": prompts[0], "unconditional": prompts[1]})
    frames = np.zeros((2, 1, *world.spec.frame_size, 3), np.uint8)
    state = told.init(frames, np.zeros((2, 0, 2), np.float32), np.arange(2))
    actions, fidelity = np.full((2, 2, 2), 256.0), Fidelity(3, NoCache(), guidance=2.0)
    seen = []
    guidance = Parts.guidance
    monkeypatch.setattr(Parts, "guidance", lambda *given: seen.append(given[-1].batched) or guidance(*given))
    _, together, _ = told.advance(state, actions, fidelity)
    assert seen[-1] is True
    told.memory_limit = told.memory(replace(fidelity, batched=False)).total(1)
    assert told.memory(fidelity).lanes_within(told.memory_limit) == 0
    _, in_turn, trace = told.advance(state, actions, fidelity)
    assert seen[-1] is False
    torch.testing.assert_close(in_turn, together, rtol=1e-4, atol=1e-5)
    assert trace.blocks.shape == (1, 3, 2)


def test_the_limit_is_the_machines(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert memory_limit(torch.device("cpu")) is None
    monkeypatch.setenv(VARIABLE, "1.5")
    assert memory_limit(torch.device("cpu")) == 1_500_000_000
    monkeypatch.setenv(VARIABLE, "plenty")
    with pytest.raises(ConfigError, match="WCSIM_MEMORY_GB is 'plenty'; it must be a number"):
        memory_limit(torch.device("cpu"))
