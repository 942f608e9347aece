"""NVIDIA's own recipe for Predict2.5, by its formulas: levels, norms, rounding, chunks, and DreamDojo's actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wcsim.actions import features, held, rest_of
from wcsim.backbones.backbone import Recipe
from wcsim.backbones.cosmos2.dreamdojo import ROBOTS, SLOTS, action_spec, joint_ranges
from wcsim.backbones.cosmos2.releases import BRIDGE, RELEASES
from wcsim.backbones.cosmos2.tiny import tiny_clip_world
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.cache import NoCache
from wcsim.cache.fidelity import FidelityConfig
from wcsim.errors import CheckpointError
from wcsim.types import Fidelity
from wcsim.world.checkpoints import save_world
from wcsim.world.clip_rollout import summed
from wcsim.world.codec import to_frames
from wcsim.world.noise import chunk_noise
from wcsim.world.world import World

RECIPES: tuple[Recipe, Recipe] = ("wcsim", "authors")


def test_robot_checkpoints_come_with_nvidias_recipe() -> None:
    for release in RELEASES.values():
        spec = release.spec
        assert (spec.default_solver, spec.timesteps, spec.eight_bits) == ("unipc-nvidia", "whole", "cut")
        assert FidelityConfig().build(spec).solver == "unipc-nvidia"
        assert FidelityConfig(solver="unipc").build(spec).solver == "unipc"


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
@torch.no_grad()
def test_the_norms_of_queries_and_keys_are_the_formula(eps: float) -> None:
    """x / sqrt(mean(x^2) + eps): of x = (eps, -eps, ..) scaled to mean square eps, a factor of 1 / sqrt(2)."""
    model = ActionCosmosTransformer(num_layers=1, num_attention_heads=1, attention_head_dim=16, text_embed_dim=8,
                                    adaln_lora_dim=4, action_features=0, qk_eps=eps)
    x = torch.full((1, 1, 1, 16), eps**0.5)
    for norm in (model.transformer_blocks[0].attn1.norm_q, model.transformer_blocks[0].attn2.norm_k):
        torch.testing.assert_close(norm(x), torch.full_like(x, 0.5**0.5))


def by_hand(world: World, picture: np.ndarray, actions_TA: np.ndarray, steps: int, start: int) -> Tensor:
    """Latents of one chunk by the formulas, Euler's first step of UniPC aside: order 1 everywhere is not UniPC, so one
    step alone: x0 = x - sigma v, at sigma = s n / (1 + (s - 1) n) with n = .999, told to the network as .999."""
    assert steps == 1
    context = world.codec.encode(picture[None, None])
    noise = chunk_noise(torch.tensor([0]), torch.tensor([start]), 4, (16, 4, 4))
    read = torch.from_numpy(actions_TA) * torch.tensor([20.0] * 6 + [1.0])
    read = torch.cat([torch.zeros(1, 1, 28), read.reshape(1, 3, 28)], dim=1)
    sigma = 5 * 0.999 / (1 + 4 * 0.999)
    clean = torch.tensor([1.0, 0.0, 0.0, 0.0])
    velocity = world.transformer(
        torch.cat([context, noise[:, 1:]], dim=1).transpose(1, 2), sigma_NT=torch.full((1, 4), 0.999),
        actions_NTF=read, known_NT=torch.tensor([[False, True, True, True]]), text_NSE=torch.zeros(1, 1, 32),
        clean_T=clean).transpose(1, 2)
    walked = noise[:, :1] - sigma * (noise[:, :1] - context)
    return torch.cat([walked, noise[:, 1:] - sigma * velocity[:, 1:]], dim=1)


@torch.no_grad()
def test_a_chunk_is_the_formulas_chunk() -> None:
    world = tiny_clip_world(timesteps="whole", default_solver="unipc-nvidia", eight_bits="cut")
    world.codec.eight_bits = "cut"
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    actions = rng.uniform(BRIDGE.low, BRIDGE.high, (24, 7)).astype(np.float32)
    state = world.init(picture[None, None], np.zeros((1, 0, 7), np.float32), [0])
    _, shown, _ = world.advance(state, actions[None], Fidelity(1, NoCache(), "unipc-nvidia"))
    frames = world.decode(shown)[0]
    for start in (0, 12):
        latents = by_hand(world, picture, actions[start : start + 12], 1, start)
        pixels = world.codec.vae.decode((latents * world.codec.std + world.codec.mean).transpose(1, 2)).sample[0]
        expected = (((pixels + 1) / 2).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 3, 0).numpy()[1:]
        assert np.abs(frames[start : start + 12].astype(int) - expected).max() <= 1
        assert (frames[start : start + 12] == expected).mean() > 0.999
        picture = frames[start + 11]


def test_pixels_are_rounded_or_cut() -> None:
    """127.6 of 255 is 128 or 127."""
    pixels = torch.full((1, 3, 1, 1), 2 * 127.6 / 255 - 1)
    assert to_frames(pixels).unique().tolist() == [128]
    assert to_frames(pixels, cut=True).unique().tolist() == [127]
    assert to_frames(torch.tensor([-1.5, 1.5, 1.0]).view(1, 3, 1, 1), cut=True).flatten().tolist() == [0, 255, 255]


def test_actions_not_known_yet_are_zeros_where_a_world_says_so() -> None:
    """Then the gripper is told to open, which NVIDIA's padding of a short chunk does."""
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (1, 1, 32, 32, 3), dtype=np.uint8)
    action = rng.uniform(BRIDGE.low, BRIDGE.high, (1, 1, 7)).astype(np.float32)
    plain = Fidelity(2, NoCache(), "unipc")
    found = {}
    for unknown, last in (("rest", action[..., 6:]), ("zeros", np.zeros((1, 1, 1), np.float32))):
        world = tiny_clip_world(unknown=unknown)
        state = world.init(picture, np.zeros((1, 0, 7), np.float32), [0])
        rest = np.concatenate([np.zeros((1, 11, 6), np.float32), np.broadcast_to(last, (1, 11, 1))], axis=2)
        _, one, _ = world.advance(state, action, plain)
        _, many, _ = world.advance(state, np.concatenate([action, rest], axis=1), plain)
        assert torch.equal(one[:, 0], many[:, 0])
        found[unknown] = one
    assert not torch.equal(found["rest"], found["zeros"])


@torch.no_grad()
def test_bfloat16_as_the_authors_run_it(tmp_path: Path) -> None:
    """Actions in bfloat16, the last layer in float32, the autoencoder in bfloat16; ours has it the other way about."""
    world = tiny_clip_world(timesteps="whole")
    save_world(tmp_path / "w", world.spec, world.transformer, world.codec, dtype=None)
    half, single = torch.bfloat16, torch.float32
    ours, theirs = (World.load(tmp_path / "w", dtype=half, recipe=recipe) for recipe in RECIPES)
    for name, (mine, its) in {"action_embedder_B_D.fc1.weight": (single, half), "proj_out.weight": (half, single),
                              "patch_embed.proj.weight": (half, half), "time_embed.t_embedder.linear_1.weight": (
                                  single, single)}.items():
        assert ours.transformer.get_parameter(name).dtype == mine  # type: ignore[attr-defined]
        assert theirs.transformer.get_parameter(name).dtype == its  # type: ignore[attr-defined]
    assert (ours.codec.vae.dtype, theirs.codec.vae.dtype) == (single, half)
    picture = np.random.default_rng(3).integers(0, 256, (1, 1, 32, 32, 3), dtype=np.uint8)
    shown = []
    for loaded in (world, ours, theirs):
        state = loaded.init(picture, np.zeros((1, 0, 7), np.float32), [0])
        assert state.latents.dtype == single
        shown.append(loaded.advance(state, np.zeros((1, 12, 7), np.float32), Fidelity(2, NoCache(), "unipc"))[1])
    assert 0 < (shown[1] - shown[0]).norm() < 0.1 * shown[0].norm()
    assert torch.isfinite(shown[2]).all()  # a random autoencoder in bfloat16 draws something else
    assert not torch.equal(shown[2], shown[0])
    generator = torch.Generator().manual_seed(0)
    given: dict[str, Any] = {
        "latents_NCThw": torch.randn(2, 16, 4, 4, 4, generator=generator), "sigma_NT": torch.full((2, 4), 0.6),
        "actions_NTF": torch.randn(2, 4, 28, generator=generator), "known_NT": torch.ones(2, 4, dtype=torch.bool),
        "text_NSE": torch.zeros(1, 1, 32), "clean_T": torch.tensor([1.0, 0.0, 0.0, 0.0])}
    single_said, ours_said, theirs_said = (
        loaded.transformer(**given) for loaded in (world, ours, theirs))  # type: ignore[operator]
    assert (ours_said.dtype, theirs_said.dtype) == (half, single)
    for said in (ours_said, theirs_said):
        assert 0 < (said - single_said).norm() < 0.02 * single_said.norm()


def statistics(path: Path, joints: int, **nested: Any) -> Path:
    """Ranges [-k, 3 k] for joint k = 1, 2, .."""
    ranges = {"min": [-float(k + 1) for k in range(joints)], "max": [3.0 * (k + 1) for k in range(joints)]}
    path.write_text(json.dumps({"observation.state": ranges} if nested else ranges))
    return path


@pytest.mark.parametrize(("robot", "slots"), [("gr1", (0, 29)), ("g1", (58, 101)), ("yam", (101, 147)),
                                              ("agibot", (147, 169))])
def test_a_robots_joints_are_in_its_slots(tmp_path: Path, robot: str, slots: tuple[int, int]) -> None:
    joints = slots[1] - slots[0]
    spec = action_spec(robot, *joint_ranges(statistics(tmp_path / "s.json", joints), robot))
    assert (spec.dim, spec.num_features) == (joints, SLOTS)
    moved = np.arange(1, joints + 1, dtype=np.float32)  # a quarter of each joint's range of 4 k
    seen = features(spec, moved)
    np.testing.assert_allclose(seen[slots[0] : slots[1]], 0.5, rtol=1e-6)
    assert not seen[: slots[0]].any()
    assert not seen[slots[1] :].any()
    assert not rest_of(spec).any()
    assert not held(spec).any()


def test_changes_add_up_within_the_four_ticks_of_a_latent() -> None:
    """Normalised positions 0, .5, 1, .5, -1 | -1, 0, ..: the network reads how far since the group began, up to -+2."""
    changes = torch.tensor([0.5, 0.5, -0.5, -1.5, 2.0, -2.0, 0.0, 1.0]).view(1, 8, 1)
    expected = [0.5, 1.0, 0.5, -1.0, 2.0, 0.0, 0.0, 1.0]
    assert summed(changes, 4).flatten().tolist() == expected
    assert summed(changes, 1) is changes


@torch.no_grad()
def test_a_world_of_a_robot_reads_sums() -> None:
    """Two sequences with equal sums at the end of a group and others within differ; so do groups cut elsewhere."""
    spec = action_spec("agibot", [-1.0] * 22, [1.0] * 22)
    world = tiny_clip_world(action=spec)
    assert world.transformer.config.action_features == 4 * SLOTS
    state = world.init(np.zeros((1, 1, 32, 32, 3), np.uint8), np.zeros((1, 0, 22), np.float32), [0])
    actions = np.random.default_rng(0).uniform(-1, 1, (1, 12, 22)).astype(np.float32)
    read, _ = world._rollout.reads(torch.from_numpy(features(spec, actions)), 12, 1)  # type: ignore[attr-defined]  # of clips
    own = read[0, 1:].view(3, 4, SLOTS)[..., 147:169]
    np.testing.assert_allclose(own.flatten(0, 1), actions.reshape(3, 4, 22).cumsum(1).reshape(12, 22), atol=1e-6)
    _, shown, _ = world.advance(state, actions, Fidelity(2, NoCache(), "unipc"))
    assert torch.isfinite(shown).all()


@pytest.mark.parametrize(("robot", "content", "message"), [
    ("atlas", {}, "robot 'atlas' has no known slots; known: gr1, g1, yam, agibot"),
    ("gr1", {"mean": []}, "has no min and max; it has mean"),
    ("gr1", {"min": [0.0] * 3, "max": [1.0] * 3}, "min has 3 values; expected 29 numbers"),
    ("yam", {"min": [0.0] * 46, "max": [1.0] * 45 + [0.0]}, "joint 45 has min 0 and max 0"),
])
def test_what_is_not_known_is_refused(tmp_path: Path, robot: str, content: dict[str, Any], message: str) -> None:
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        joint_ranges(tmp_path / "s.json", robot)


def test_every_released_robot_has_a_release() -> None:
    names = {release.robot for release in RELEASES.values()}
    assert names == {"", *ROBOTS}
