"""`torch.compile` of what every step runs: each part and block range one graph, made once, and the cache outside."""

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from wcsim.backbones.cosmos2.tiny import tiny_clip_world, tiny_parts, tiny_state_model, tiny_world
from wcsim.cache import NoCache, parse_cache
from wcsim.types import Fidelity
from wcsim.world.compiled import compile_world
from wcsim.world.world import World

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


@pytest.mark.parametrize("make", [tiny_world, tiny_clip_world])
def test_every_range_is_one_graph_and_the_numbers_stay(make):
    torch.compiler.reset()
    world, counter = make(), CompileCounter()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 1, *world.spec.frame_size, 3), dtype=np.uint8)
    state = world.init(frames, np.zeros((2, 0, world.spec.action.dim), np.float32), np.arange(2))
    chunk = (2, world.spec.max_chunk, world.spec.action.dim)
    actions = rng.uniform(world.spec.action.low, world.spec.action.high, chunk).astype(np.float32)
    cache = parse_cache({"preset": "worldcache", "threshold": 9.0, "max_skips": 1}).build()
    fidelities = [Fidelity(6, NoCache(), "unipc"), Fidelity(6, cache, "unipc")]
    plain = [world.advance(state, actions, fidelity)[1:] for fidelity in fidelities]
    compile_world(world.parts, backend=counter)
    for fidelity, (latents, trace) in zip(fidelities, plain, strict=True):
        _, compiled, told = world.advance(state, actions, fidelity)
        torch.testing.assert_close(compiled, latents, rtol=1e-4, atol=1e-4 if make is tiny_world else 2e-2)
        np.testing.assert_array_equal(told.hit, trace.hit)
    assert plain[1][1].hit.any()
    made = counter.frame_count
    assert made == 4, "all blocks; the probe; what lies behind it; their modulation"
    world.advance(state, actions, fidelities[1])
    assert counter.frame_count == made


@pytest.mark.parametrize("make", [tiny_world, tiny_clip_world])
def test_a_kept_context_makes_two_graphs_and_the_numbers_stay(make):
    torch.compiler.reset()
    world, counter = make(), CompileCounter()
    spec, rng = world.spec, np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 1, *spec.frame_size, 3), dtype=np.uint8)
    state = world.init(frames, np.zeros((2, 0, spec.action.dim), np.float32), np.arange(2))
    chunk = (2, spec.max_chunk, spec.action.dim)
    actions = rng.uniform(spec.action.low, spec.action.high, chunk).astype(np.float32)
    held = Fidelity(6, NoCache(), "unipc", context_refresh=0.3)
    _, plain, _ = world.advance(state, actions, held)
    compile_world(world.parts, backend=counter)
    _, compiled, _ = world.advance(state, actions, held)
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4 if make is tiny_world else 2e-2)
    assert counter.frame_count == 3, "reading the context; looking back on it; the modulation"
    world.advance(state, actions, held)
    assert counter.frame_count == 3


def test_state_model_and_decoder_are_a_graph_each_and_the_numbers_stay():
    torch.compiler.reset()
    world, counter = World(*tiny_parts(control_channels=4), state_model=tiny_state_model()), CompileCounter()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 3, *world.spec.frame_size, 3), dtype=np.uint8)
    known = rng.uniform(0, 512, (2, 2, 2)).astype(np.float32)
    state = world.init(frames, known, np.arange(2))
    action, fidelity = rng.uniform(0, 512, (2, 1, 2)).astype(np.float32), Fidelity(3, NoCache(), "unipc")
    after, latents, _ = world.advance(state, action, fidelity)
    pictures = world.decode(latents)
    compile_world(world.parts, backend=counter)
    for _ in range(2):
        compiled, again, _ = world.advance(state, action, fidelity)
        torch.testing.assert_close(again, latents, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(compiled.model_memory, after.model_memory, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(world.decode(latents).astype(int), pictures, atol=1)
        assert counter.frame_count == 5, "all blocks; their modulation; the predicted state; what is read; the decoder"
