"""The generator of Cosmos 3 against diffusers' whole transformer, and its conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from wcsim.backbones.cosmos3.attention import Text
from wcsim.backbones.cosmos3.convert import Shards, check_tensors, generator_of, prompt_features, read_config
from wcsim.backbones.cosmos3.positions import Clock, action_positions, frame_positions, generator_rope, text_positions
from wcsim.backbones.cosmos3.tiny import PROMPTS, tiny_generator, tiny_omni, tiny_parts
from wcsim.errors import CheckpointError
from wcsim.world.guidance import CONDITIONAL, UNCONDITIONAL

FPS, TIMESTEP, ACTIONS = 10.0, 640.0, 8
GRID = (3, 2, 3)


def inputs(lanes: int = 2) -> tuple[Tensor, Tensor]:
    """Latents `[N, C, T, h, w]`, the first frame clean, and actions `[N, A, F]`."""
    generator = torch.Generator().manual_seed(1)
    frames, rows, columns = GRID
    latents = torch.randn(lanes, 4, frames, 2 * rows, 2 * columns, generator=generator)
    return latents, torch.randn(lanes, ACTIONS, 8, generator=generator)


def theirs(omni: Any, latents_CThw: Tensor, actions_AF: Tensor, ids: tuple[int, ...], domain: int = 4) -> Tensor:
    """Diffusers' forward of one lane, `[C, T, h, w]`."""
    from diffusers.pipelines.cosmos import pipeline_cosmos3_omni as official

    text, (frames, rows, columns) = len(ids), GRID
    places, start = frames * rows * columns, text + 15_000
    indexes = torch.arange(places) + text
    positions = [
        official.get_3d_mrope_ids_text_tokens(text, 0, use_float_positions=True)[0],
        official.get_3d_mrope_ids_vae_tokens(*GRID, temporal_offset=start, fps=FPS)[0],
        official.get_3d_mrope_ids_vae_tokens(ACTIONS, 1, 1, temporal_offset=start, fps=FPS, start_frame_offset=1,
                                             temporal_compression_factor=1, base_temporal_compression_factor=4)[0],
    ]
    nothing = torch.empty(0, dtype=torch.long)
    said, _, _ = omni(
        input_ids=torch.tensor(ids), text_indexes=torch.arange(text), position_ids=torch.cat(positions, dim=1),
        und_len=text, sequence_length=text + places + ACTIONS, vision_tokens=[latents_CThw[None]],
        vision_token_shapes=[GRID], vision_sequence_indexes=indexes,
        vision_mse_loss_indexes=indexes[rows * columns :], vision_noisy_frame_indexes=[torch.arange(1, frames)],
        vision_timesteps=torch.full((places - rows * columns,), TIMESTEP), action_tokens=[actions_AF],
        action_token_shapes=[(ACTIONS, 1, 1)], action_sequence_indexes=torch.arange(ACTIONS) + text + places,
        action_mse_loss_indexes=nothing, action_timesteps=torch.empty(0), action_noisy_frame_indexes=[nothing],
        action_domain_ids=[torch.tensor([domain])], return_dict=False)
    found: Tensor = said[0][0]
    return found


@torch.no_grad()
def ours(model: Any, latents: Tensor, actions: Tensor, text: Tensor | Text) -> Tensor:
    """Our forward of all lanes, `[N, C, T, h, w]`."""
    lanes, clean = len(latents), torch.tensor([1.0, 0.0, 0.0])
    constants = model.prepare(latents, actions, None, text)
    step = model.modulations(torch.full((1, 1, GRID[0]), TIMESTEP / 1000).expand(1, lanes, -1), constants)[0]
    tokens, conditioning = model.embed_step(latents, step, clean, constants)
    said: Tensor = model.head(model.run_blocks(tokens, 0, model.depth, conditioning), conditioning, latents,
                              torch.zeros(1, 3))
    return said


@pytest.mark.parametrize("form", ["nano", "edge"])
@torch.no_grad()
def test_equals_the_whole_transformer_for_every_domain(form: str) -> None:
    """Though half of its weights are not there, and text was read once."""
    omni, (latents, actions) = tiny_omni(form=form), inputs()
    for domain in (4, 7, 31):
        model, texts = tiny_parts(omni, domain=domain, fps=FPS)
        said = ours(model, latents, actions, texts[CONDITIONAL])
        for lane in range(2):
            expected = theirs(omni, latents[lane], actions[lane], PROMPTS[CONDITIONAL], domain)
            torch.testing.assert_close(said[lane, :, 1:], expected[:, 1:], atol=3e-6, rtol=1e-5)
    used, whole = (sum(weight.numel() for weight in part.parameters()) for part in (model, omni))
    assert used < 0.46 * whole


@torch.no_grad()
def test_in_bfloat16_too() -> None:
    """Rounding to 8 bits of each of three layers; what a noise level is made of stays in float32 in both."""
    omni, (latents, actions) = tiny_omni(), inputs(1)
    model, texts = tiny_parts(omni, fps=FPS)
    omni.to(torch.bfloat16)
    omni.time_embedder.float()
    model.set_precision(torch.bfloat16)
    assert model.time_embedder.linear_1.weight.dtype == torch.float32
    said = ours(model, latents, actions, texts[CONDITIONAL])
    expected = theirs(omni, latents[0].bfloat16(), actions[0], PROMPTS[CONDITIONAL])
    assert said.dtype == torch.bfloat16
    assert (said[0, :, 1:] - expected[:, 1:]).norm() < 0.02 * expected.norm()


def test_each_lane_may_have_a_text_of_its_own_length() -> None:
    model, texts = tiny_parts(tiny_omni(), fps=FPS)
    latents, actions = inputs()
    conditional, unconditional = (model.read_text(texts[name]) for name in (CONDITIONAL, UNCONDITIONAL))
    assert conditional.lengths == (7,)
    assert unconditional.lengths == (4,)
    both = ours(model, latents, actions, conditional.join([unconditional]))
    for lane, text in enumerate((conditional, unconditional)):
        alone = ours(model, latents[lane : lane + 1], actions[lane : lane + 1], text)
        torch.testing.assert_close(both[lane], alone[0], atol=1e-6, rtol=1e-5)
    joined = conditional.join([unconditional])
    assert joined.select(torch.tensor([1, 0]), 2).lengths == (4, 7)
    assert joined.select(torch.tensor([0, 1]), 4) is joined


def test_an_action_changes_the_frames_and_so_does_the_prompt() -> None:
    model, texts = tiny_parts(tiny_omni(), fps=FPS)
    latents, actions = inputs()
    before = ours(model, latents, actions, texts[CONDITIONAL])
    assert (ours(model, latents, actions + 1.0, texts[CONDITIONAL]) - before).abs().max() > 1e-3
    assert (ours(model, latents, actions, texts[UNCONDITIONAL]) - before).abs().max() > 1e-3


def test_narrow_actions_are_filled_up_with_zeros() -> None:
    model, texts = tiny_parts(tiny_omni(), fps=FPS)
    latents, actions = inputs()
    wide = torch.cat([actions[..., :2], torch.zeros(2, ACTIONS, 6)], dim=2)
    assert torch.equal(ours(model, latents, actions[..., :2], texts[CONDITIONAL]),
                       ours(model, latents, wide, texts[CONDITIONAL]))


@given(grid=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)),
       fps=st.sampled_from([4.0, 5.0, 10.0, 24.0]), text=st.integers(1, 200), actions=st.integers(1, 20),
       modulated=st.booleans())
@settings(max_examples=60, deadline=None)
def test_positions_are_the_official_ones(
    grid: tuple[int, int, int], fps: float, text: int, actions: int, modulated: bool
) -> None:
    from diffusers.models.transformers.transformer_cosmos3 import Cosmos3VLTextRotaryEmbedding
    from diffusers.pipelines.cosmos import pipeline_cosmos3_omni as official

    clock = Clock(fps, 24.0 if modulated else None, 15_000, 16, 5e6, (4, 2, 2))
    told, start = fps if modulated else None, text + 15_000
    frames = official.get_3d_mrope_ids_vae_tokens(*grid, temporal_offset=start, fps=told)[0].float()
    moves = official.get_3d_mrope_ids_vae_tokens(
        actions, 1, 1, temporal_offset=start, fps=told, start_frame_offset=1, temporal_compression_factor=1,
        base_temporal_compression_factor=4)[0].float()
    assert torch.equal(frame_positions(clock, grid, start), frames)
    assert torch.equal(action_positions(clock, actions, start), moves)
    assert torch.equal(text_positions(text), official.get_3d_mrope_ids_text_tokens(text, 0)[0].float())
    rotary = Cosmos3VLTextRotaryEmbedding(16, 5e6, (4, 2, 2))
    expected = rotary(torch.cat([frames, moves], dim=1).unsqueeze(1), torch.device("cpu"), torch.float32)
    found = generator_rope(clock, grid, actions, text, torch.device("cpu"), torch.float32)
    for mine, its in zip(found, expected, strict=True):
        assert torch.equal(mine, its[0])


def saved(folder: Path, **changed: Tensor | None) -> Path:
    """A tiny transformer in two shards, as diffusers lays it out, some of its tensors changed or (None) left out."""
    omni = tiny_omni()
    folder.mkdir(exist_ok=True)
    omni.save_config(folder)
    tensors = {name: value for name, value in {**omni.state_dict(), **changed}.items() if value is not None}
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name].contiguous() for name in part}, folder / f"part-{number}.safetensors")
    return folder


def test_a_folder_is_read_tensor_by_tensor(tmp_path: Path) -> None:
    folder, omni = saved(tmp_path), tiny_omni()
    config, tensors = read_config(folder), Shards(folder)
    check_tensors(config, tensors)
    expected, texts = tiny_parts(omni, fps=FPS)
    found = generator_of(config, tensors, domain=4, fps=FPS)
    assert found.config.fps == FPS
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    assert torch.equal(prompt_features(config, tensors, PROMPTS[CONDITIONAL]), texts[CONDITIONAL])


@pytest.mark.parametrize(("changed", "message"), [
    ({"layers.1.self_attn.to_k.weight": None}, "layers.1.self_attn.to_k.weight is missing"),
    ({"layers.9.mlp.up_proj.weight": torch.zeros(1)}, "layers.9.mlp.up_proj.weight is in the checkpoint, and its"),
    ({"proj_in.bias": torch.zeros(33)}, r"proj_in.bias has shape \[33\]; expected \[32\]"),
])
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    folder = saved(tmp_path, **changed)
    with pytest.raises(CheckpointError, match=message):
        check_tensors(read_config(folder), Shards(folder))


def test_what_cannot_be_stepped_is_refused(tmp_path: Path) -> None:
    config, tensors = {**tiny_omni().config}, tiny_omni().state_dict()
    with pytest.raises(CheckpointError, match="domain is 32; the checkpoint has 0 to 31"):
        generator_of(config, tensors, domain=32, fps=FPS)
    with pytest.raises(CheckpointError, match="no action heads"):
        generator_of({**config, "action_gen": False}, tensors, domain=4, fps=FPS)
    (tmp_path / "config.json").write_text('{"_class_name": "CosmosTransformer3DModel"}')
    with pytest.raises(CheckpointError, match="expected Cosmos3OmniTransformer"):
        read_config(tmp_path)
    with pytest.raises(CheckpointError, match="holds no safetensors files"):
        Shards(tmp_path)
    with pytest.raises(ValueError, match="must add up to 8, half of head_dim"):
        type(tiny_generator())(head_dim=16, rope_axes_dim=(4, 2, 1))
