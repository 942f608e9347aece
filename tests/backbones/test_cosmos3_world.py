"""A world of Cosmos 3: stepped chunk after chunk, saved, cached, as any other world of clips."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from official3 import official_chunk, official_pipeline  # type: ignore[import-not-found]  # beside this file
from wcsim.backbones.cosmos3.tiny import PLANE, tiny_cosmos3_world, tiny_omni, tiny_parts, tiny_vae
from wcsim.cache import NoCache, parse_cache, preset, presets
from wcsim.errors import CheckpointError
from wcsim.types import Fidelity, WorldState
from wcsim.world.checkpoints import save_world
from wcsim.world.noise import chunk_noise
from wcsim.world.world import World

PLAIN = Fidelity(3, NoCache(), "unipc")
TOLERANCE: dict[str, Any] = {"atol": 2e-2, "rtol": 1e-3}  # pictures are rounded to 1/127.5, which may fall either way

pytestmark = pytest.mark.filterwarnings("ignore:cache '.*' skipped nothing")


@cache
def world(form: str = "nano") -> World:
    return tiny_cosmos3_world(form=form, layers=4)


def begin(lanes: int = 2, of: World | None = None) -> tuple[WorldState, np.ndarray]:
    pictures = np.random.default_rng(5).integers(0, 256, (lanes, 1, 32, 64, 3), dtype=np.uint8)
    return (of or world()).init(pictures, np.zeros((lanes, 0, 2), np.float32), np.arange(lanes)), pictures


def draw(lanes: int, ticks: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 512, (lanes, ticks, 2)).astype(np.float32)


def test_a_rollout_is_the_official_pipeline_again_and_again() -> None:
    """From the last frame of a chunk comes the next; frames = actions, none doubled or lost at the seam."""
    canvas = (192, 320)
    made = tiny_cosmos3_world(layers=3, canvas=canvas)
    pipeline = official_pipeline(tiny_omni(layers=3), tiny_vae())
    (state, pictures), actions = begin(1, made), draw(1, 16)
    picture = pictures[0, 0]
    for start in (0, 8):
        chunk = actions[:, start : start + 8]
        noise = chunk_noise(torch.tensor([0]), torch.tensor([start]), 3, (4, 2, 4)).transpose(1, 2)
        given = made.codec.encode(picture[None, None])  # the pipeline wants the clean latent in its noise
        noise[:, :, :1] = given.transpose(1, 2)
        theirs = official_chunk(
            pipeline, torch.from_numpy(picture).permute(2, 0, 1) / 255.0, torch.from_numpy(chunk[0] / 256.0 - 1.0),
            domain="pusht", tier=256, fps=10.0, steps=3, latents=noise, output="np", chunk=8).video
        expected = (theirs * 255).round().astype(int)[1:]
        state, shown, _ = made.advance(state, chunk, PLAIN)
        frames = made.decode(shown)[0]
        assert frames.shape == expected.shape == (8, 32, 64, 3)
        assert np.abs(frames.astype(int) - expected).max() <= 1
        picture = frames[-1]
    assert state.frame.tolist() == [16]


def test_single_steps_end_where_the_chunk_ends() -> None:
    """The eighth single step knows all that the chunk knew; before it, the last target is held."""
    state, _ = begin()
    actions = draw(2, 9)
    whole_state, whole, _ = world().advance(state, actions[:, :8], PLAIN)
    held = np.repeat(actions[:, :1], 8, axis=1)
    _, first, _ = world().advance(state, held, PLAIN)
    shown = list[Tensor]()
    for tick in range(9):
        state, new, _ = world().advance(state, actions[:, tick : tick + 1], PLAIN)
        shown.append(new[:, 0])
        if tick == 7:
            for name, value in whole_state.tensors().items():
                assert torch.equal(value, getattr(state, name)), name
    assert torch.equal(shown[0], first[:, 0])
    assert torch.equal(shown[7], whole[:, 7])
    assert state.frame.tolist() == [9, 9]


def test_what_is_carried() -> None:
    """The last frame, encoded again; or the last latents, two of them where the world looks back on two."""
    after, shown, _ = world().advance(begin()[0], draw(2, 8), PLAIN)
    assert torch.equal(after.latents, world().codec.encode(world().decode(shown[:, -1:])))
    latents = tiny_cosmos3_world(carry="latents", max_context=2)
    state = latents.init(np.zeros((2, 5, 32, 64, 3), np.uint8), np.zeros((2, 4, 2), np.float32), [0, 1])
    after, shown, _ = latents.advance(state, draw(2, 16), PLAIN)
    assert shown.shape[1] == 16
    assert after.length.tolist() == [2, 2]


@pytest.mark.parametrize("fidelity", [
    PLAIN, Fidelity(3, NoCache(), "unipc", guidance=2.0),
    Fidelity(8, parse_cache({"preset": "worldcache", "threshold": 0.3}).build(), "unipc", guidance=2.0),
    Fidelity(8, preset("wcsim").build(), "unipc", context_refresh=0.3)])
def test_a_batch_is_its_singles(fidelity: Fidelity) -> None:
    (state, _), actions = begin(3), draw(3, 8)
    _, together, trace = world().advance(state, actions, fidelity)
    for lane in range(3):
        _, alone, single = world().advance(state.select([lane]), actions[lane : lane + 1], fidelity)
        torch.testing.assert_close(together[lane], alone[0], **TOLERANCE)
        np.testing.assert_array_equal(trace.hit[..., lane], single.hit[..., 0])


ACTING = [name for name in presets() if name != "none"]


def eager(name: str) -> Any:
    known = type(preset(name)).model_fields
    change = {key: value for key, value in {"threshold": 1e3, "interval": 4}.items() if key in known}
    return parse_cache({"preset": name, **change}).build()


@pytest.mark.parametrize("name", ACTING)
@pytest.mark.parametrize("guidance", [0.0, pytest.param(2.0, marks=pytest.mark.slow)])
def test_every_cache_works_on_it(name: str, guidance: float) -> None:
    """It skips, what comes is finite and moved by actions, and never skipping is no cache, bit for bit."""
    (state, _), actions = begin(), draw(2, 8)
    plain = Fidelity(12, NoCache(), "unipc", guidance=guidance)
    _, full, _ = world().advance(state, actions, plain)
    cached = Fidelity(12, eager(name), "unipc", guidance=guidance)
    _, some, trace = world().advance(state, actions, cached)
    assert trace.hit_rate > 0.1
    assert some.isfinite().all()
    assert not torch.equal(some, full)
    _, other, _ = world().advance(state, draw(2, 8, seed=2), cached)
    assert not torch.equal(some, other)
    known = type(preset(name)).model_fields
    never = parse_cache({"preset": name, **{key: value for key, value in {"threshold": 0.0, "interval": 1}.items()
                                            if key in known}}).build()
    _, none, _ = world().advance(state, actions, Fidelity(12, never, "unipc", guidance=guidance))
    assert torch.equal(none, full)


def test_the_context_read_in_every_pass_by_its_cache_is_no_cache() -> None:
    """A fall that every step exceeds refreshes every time; one that none reaches holds the first reading."""
    (state, _), actions = begin(), draw(2, 8)
    _, read, _ = world().advance(state, actions, PLAIN)
    _, always, _ = world().advance(state, actions, Fidelity(3, NoCache(), "unipc", context_refresh=1e-9))
    torch.testing.assert_close(always, read, **TOLERANCE)
    _, held, _ = world().advance(state, actions, Fidelity(3, NoCache(), "unipc", context_refresh=1.0))
    assert not torch.equal(held, read)
    assert held.isfinite().all()


@pytest.mark.parametrize("form", ["nano", "edge"])
def test_a_world_folder_holds_no_text_tower_and_comes_back(tmp_path: Path, form: str) -> None:
    made = world(form)
    _, texts = tiny_parts(tiny_omni(form=form, layers=4))
    save_world(tmp_path / "w", made.spec, made.transformer, made.codec, dtype=None, texts=texts)
    stored = {name for path in (tmp_path / "w").rglob("*.safetensors") for name in names_in(path)}
    assert not [name for name in stored if "embed_tokens" in name or "lm_head" in name or ".to_q." in name]
    loaded = World.load(tmp_path / "w")
    assert type(loaded.transformer) is type(made.transformer)
    (state, _), actions = begin(of=made), draw(2, 8)
    assert torch.equal(loaded.advance(state, actions, PLAIN)[1], made.advance(state, actions, PLAIN)[1])
    assert loaded.parts.texts["conditional"].tokens == 7


def names_in(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


@pytest.mark.parametrize(("change", "message"), [
    ({"reads": "frames"}, "actions as tokens"), ({"canvas": (32, 48)}, "frame on its canvas"),
    ({"latent_shape": (4, 2, 6)}, "frame width"),
])
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    made = tiny_cosmos3_world(**change)
    save_world(tmp_path, made.spec, made.transformer, made.codec)
    with pytest.raises(CheckpointError, match=message):
        World.load(tmp_path)


def test_memory_counts_the_actions() -> None:
    made, short = world(), tiny_cosmos3_world(layers=4, max_chunk=4)
    assert made.memory(PLAIN).per_lane > short.memory(PLAIN).per_lane
    assert made.spec.action is PLANE
