"""A value that is not finite ends a step with one error, and is never shown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from wcsim.backbones.cosmos2.tiny import tiny_clip_world, tiny_world
from wcsim.cache import NoCache
from wcsim.errors import NotFiniteError
from wcsim.types import Fidelity
from wcsim.world.world import World

FIDELITY = Fidelity(2, NoCache())


def begun(world: World, lanes: int = 2) -> tuple[object, np.ndarray]:
    """A state, and actions `[N, k, A]` of a whole chunk."""
    spec = world.spec
    frames = np.full((lanes, 1, *spec.frame_size, 3), 99, np.uint8)
    actions = np.tile(np.asarray(spec.action.low, np.float32), (lanes, spec.max_chunk, 1))
    return world.init(frames, actions[:, :0], list(range(lanes))), actions


def spoil(module: torch.nn.Module) -> None:
    """As a cosmic ray, or a thousandfold weight in half precision, would."""
    next(iter(module.parameters())).data.fill_(torch.nan)


@pytest.mark.parametrize("tiny", [tiny_world, tiny_clip_world])
def test_weights_that_are_not_finite_end_the_step(tiny: Callable[[], World]) -> None:
    world = tiny()
    state, actions = begun(world)
    kept = {name: value.clone() for name, value in state.tensors().items()}  # type: ignore[attr-defined]
    spoil(world.transformer)
    with pytest.raises(NotFiniteError, match=f"world '{world.spec.name}' .*not finite.* frame .*steps=2, solver=euler"):
        world.advance(state, actions, FIDELITY)  # type: ignore[arg-type]
    for name, value in kept.items():
        assert torch.equal(value, getattr(state, name)), "the state is as it was"


def test_the_lane_and_the_frame_are_named() -> None:
    world = tiny_world()
    state, actions = begun(world, lanes=3)
    latents = state.latents.clone()  # type: ignore[attr-defined]
    latents[1] = torch.inf
    from dataclasses import replace
    with pytest.raises(NotFiniteError, match="not finite in frame 1 of lane 1, at fidelity steps=2"):
        world.advance(replace(state, latents=latents), actions[:, :2], FIDELITY)  # type: ignore[type-var]


@pytest.mark.parametrize("tiny", [tiny_world, tiny_clip_world])
def test_nothing_that_is_not_finite_is_decoded_or_taken_in(tiny: Callable[[], World]) -> None:
    world = tiny()
    state, actions = begun(world)
    frames = np.zeros((2, *world.spec.frame_size, 3), np.uint8)
    latents = world.encode(frames).clone()
    latents[0, 0, 0, 0] = torch.nan
    with pytest.raises(NotFiniteError, match=f"world '{world.spec.name}' is to decode values that are not finite"):
        world.decode(latents)
    with pytest.raises(NotFiniteError, match="is to observe values"):
        world.observe(state, latents, actions[:, 0])  # type: ignore[arg-type]


def test_a_codec_that_is_not_finite_is_told() -> None:
    world = tiny_world()
    latents = world.encode(np.zeros((1, *world.spec.frame_size, 3), np.uint8))
    spoil(world.codec.vae.decoder)
    with pytest.raises(NotFiniteError, match=f"world '{world.spec.name}' decoded pixels that are not finite"):
        world.decode(latents)
    spoil(world.codec.vae.encoder)
    with pytest.raises(NotFiniteError, match="encodes frames to values that are not finite"):
        world.encode(np.zeros((1, *world.spec.frame_size, 3), np.uint8))
