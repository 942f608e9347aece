"""Official checkpoint files, made up from random weights under the official names, to worlds of ours."""

import re
from dataclasses import replace

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from typer.testing import CliRunner

from official import stock_transformer
from wcsim.backbones.cosmos2.convert import action_form, build, load_base, read_embedding, rename
from wcsim.backbones.cosmos2.reading import read_checkpoint
from wcsim.backbones.cosmos2.releases import PREDICT_2B, PREDICT_14B, RELEASES
from wcsim.backbones.cosmos2.tiny import tiny_clip_world, tiny_cosmos
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.cache import NoCache, parse_cache
from wcsim.cli import app
from wcsim.errors import CheckpointError, ConfigError
from wcsim.types import Fidelity
from wcsim.world.checkpoints import find_world, load_parts, save_world
from wcsim.world.checks import check_fidelity
from wcsim.world.verify import verify_world
from wcsim.world.world import World

OURS_TO_OFFICIAL = (
    (r"^patch_embed\.proj\.", "x_embedder.proj.1."),
    (r"^time_embed\.t_embedder\.", "t_embedder.1."),
    (r"^time_embed\.norm\.", "t_embedding_norm."),
    (r"^transformer_blocks\.", "blocks."),
    (r"\.norm1\.linear_", ".adaln_modulation_self_attn."),
    (r"\.norm2\.linear_", ".adaln_modulation_cross_attn."),
    (r"\.norm3\.linear_", ".adaln_modulation_mlp."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0\.", ".output_proj."),
    (r"\.to_([qkv])\.", r".\1_proj."),
    (r"\.norm_([qk])\.", r".\1_norm."),
    (r"\.ff\.net\.0\.proj\.", ".mlp.layer1."),
    (r"\.ff\.net\.2\.", ".mlp.layer2."),
    (r"^norm_out\.linear_", "final_layer.adaln_modulation."),
    (r"^proj_out\.", "final_layer.linear."),
)


def official(transformer):
    """The weights under NVIDIA's names, with what its files hold besides."""
    state = {}
    for name, value in transformer.state_dict().items():
        for pattern, replacement in OURS_TO_OFFICIAL:
            name = re.sub(pattern, replacement, name)
        state["net." + name] = value
    state |= {"net.accum_image_sample_counter": torch.zeros(()), "net.pos_embedder.seq": torch.arange(4.0)}
    return state | {"net.blocks.0.self_attn._extra_state": torch.empty(0)}


@pytest.mark.filterwarnings("ignore:cache .* skipped nothing")  # random weights may move at every step
@pytest.mark.parametrize(("reads", "features"), [("frames", 28), ("chunk", 84)])
def test_both_action_forms_load_strictly_and_give_the_same_frames_after_the_round_trip(tmp_path, reads, features):
    world = tiny_clip_world(reads=reads)
    path = tmp_path / "official.pt"
    torch.nn.Module.to(world.transformer, torch.bfloat16)
    for block in world.transformer.transformer_blocks:  # as NVIDIA's network has it
        for attn in (block.attn1, block.attn2):
            attn.norm_q.eps = attn.norm_k.eps = 1e-6
    torch.save({"model": official(world.transformer)}, path)
    state = rename(read_checkpoint(path))
    converted = build(state)
    assert converted.config.action_features == features
    assert action_form(converted.config.action_features, 7, 4, 12) == reads
    assert converted.patch_embed.proj.weight.dtype == torch.bfloat16
    save_world(tmp_path / "world", world.spec, converted, world.codec, dtype=None)
    spec, transformer, _ = load_parts(tmp_path / "world")
    assert spec == world.spec
    for name, value in transformer.state_dict().items():
        assert torch.equal(value, world.transformer.state_dict()[name].float()), name
    generator = torch.Generator().manual_seed(0)
    given = {
        "latents_NCThw": torch.randn(2, 16, 4, 12, 12, generator=generator), "sigma_NT": torch.full((2, 4), 0.6),
        "actions_NTF": torch.randn(2, 4, features, generator=generator), "known_NT": torch.ones(2, 4, dtype=torch.bool),
        "text_NSE": torch.randn(1, 5, 32, generator=generator), "clean_T": torch.tensor([1.0, 0.0, 0.0, 0.0]),
    }
    with torch.no_grad():
        torch.testing.assert_close(transformer(**given), torch.nn.Module.float(world.transformer)(**given))
    eager = parse_cache({"preset": "worldcache", "threshold": 9.0}).build()
    verdict = verify_world(tmp_path / "world", eager, NoCache(), steps=6)
    assert verdict.sensitivity > 0
    assert verdict.uncached > 0
    assert verdict.skipped > 0
    assert verdict.need.total(2) > verdict.need.total(1) > 0
    assert verdict.files == 4
    assert verdict.weights == sum(weight.numel() for weight in transformer.parameters())


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda s: s.pop("net.blocks.1.mlp.layer2.weight"), "transformer_blocks.1.ff.net.2.weight is missing"),
    (lambda s: [s.pop(key) for key in list(s) if key.startswith("net.blocks.1.")], r"blocks.1 is missing; .* blocks.2"),
    (lambda s: s.update({"net.head.weight": torch.zeros(2)}), "head.weight is in the checkpoint, and this model"),
    (lambda s: s.update({"net.blocks.0.mlp.layer2.weight": torch.zeros(3, 4)}),
     r"ff.net.2.weight has shape \[3, 4\]; expected \[32, 64\]"),
    (lambda s: s.pop("net.x_embedder.proj.1.weight"), "patch_embed.proj.weight is missing"),
    (lambda s: s.update({"net.final_layer.linear.weight": "gone"}), "final_layer.linear.weight is a str"),
    (lambda s: s.update({"final_layer.linear.weight": torch.zeros(2)}), "final_layer.linear.weight is there twice"),
])
def test_what_does_not_fit_is_refused_by_name(spoil, words):
    transformer, _ = tiny_cosmos(action_features=28)
    state = official(transformer)
    spoil(state)
    with pytest.raises(CheckpointError, match=words):
        build(rename(state))


def test_an_odd_action_width_is_refused():
    with pytest.raises(CheckpointError, match="reads 30 numbers; actions of 7 give 28 per latent frame or 84"):
        action_form(30, 7, 4, 12)
    assert action_form(1536, 384, 4, 12) == "frames", "DreamDojo"


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Sly:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"model": Sly()}, tmp_path / "sly.pt")
    with pytest.raises(CheckpointError, match=r"sly.pt cannot be read as plain tensors"):
        read_checkpoint(tmp_path / "sly.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds list"):
        read_checkpoint(tmp_path / "list.pt")


def test_a_prompt_embedding_must_fit(tmp_path):
    torch.save(torch.zeros(1, 5, 32), tmp_path / "text.pt")
    assert read_embedding(tmp_path / "text.pt", 32).shape == (1, 5, 32)
    with pytest.raises(CheckpointError, match=r"text.pt holds \[1, 5, 32\]; expected a tensor \[1, S, 100352\]"):
        read_embedding(tmp_path / "text.pt", 100_352)


def test_a_base_model_in_the_layout_of_diffusers_loads(tmp_path):
    transformer, codec = tiny_cosmos()
    settings = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    stock_transformer(transformer).save_pretrained(tmp_path / "transformer")
    codec.vae.save_pretrained(tmp_path / "vae")
    karras = {"use_karras_sigmas": True, "sigma_max": 200.0, "sigma_min": 0.01}
    UniPCMultistepScheduler(**settings, **karras).save_pretrained(tmp_path / "scheduler")
    loaded, loaded_codec = load_base(tmp_path)
    assert loaded.config.action_features == 0
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, transformer.state_dict()[name])
    assert all(torch.equal(value, codec.state_dict()[name]) for name, value in loaded_codec.state_dict().items())
    UniPCMultistepScheduler(**settings, flow_shift=5.0).save_pretrained(tmp_path / "scheduler")
    with pytest.raises(CheckpointError, match="scheduler: use_karras_sigmas is False; unipc-karras has True"):
        load_base(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere/transformer/config\.json cannot be read"):
        load_base(tmp_path / "nowhere")


@pytest.mark.parametrize(("config", "count"), [(PREDICT_2B, 2_059_174_912), (PREDICT_14B, 14_368_047_104)])
def test_sizes_on_the_meta_device(config, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in ActionCosmosTransformer(**config, action_features=0).parameters()) == count


@pytest.mark.parametrize(("features", "more"), [(28, 67_592_192), (84, 68_509_696), (1536, 92_299_264)])
def test_the_action_embedders_come_on_top(features, more):
    """Two MLPs of D = 2048, hidden 4 D: (F + 1) 4 D + (4 D + 1) D and (F + 1) 4 D + (4 D + 1) 3 D."""
    assert more == 2 * (features + 1) * 8192 + 8193 * (2048 + 6144)
    with torch.device("meta"):
        transformer = ActionCosmosTransformer(**PREDICT_2B, action_features=features)
    assert sum(p.numel() for p in transformer.parameters()) == 2_059_174_912 + more


@pytest.mark.parametrize("reference", RELEASES)
def test_a_released_model_that_is_not_here_says_how_to_get_it(reference, tmp_path, monkeypatch):
    monkeypatch.setenv("WCSIM_WORLDS", str(tmp_path))
    release = RELEASES[reference]
    with pytest.raises(CheckpointError) as caught:
        World.load(reference)
    for needed in (release.repository, release.page, "licence", f"python scripts/convert_cosmos.py {reference}"):
        assert needed in str(caught.value)
    world = tiny_clip_world()
    save_world(tmp_path / release.spec.name, world.spec, world.transformer, world.codec)
    assert find_world(reference) == tmp_path / release.spec.name


@pytest.mark.filterwarnings("ignore:cache .* skipped nothing")
def test_the_command_lists_and_verifies(tmp_path):
    world = tiny_clip_world()
    save_world(tmp_path / "fine", world.spec, world.transformer, world.codec)
    listed = CliRunner().invoke(app, ["worlds"])
    assert listed.exit_code == 0, listed.output
    assert "pusht-96" in listed.output
    told = CliRunner().invoke(app, ["worlds", "verify", str(tmp_path / "fine"), "--steps", "5"])
    assert told.exit_code == 0, told.output
    assert "4 files as recorded" in told.output
    assert "All values are finite. Opposite actions move what it imagines by" in told.output
    (tmp_path / "fine" / "vae" / "config.json").write_text("{}")
    spoilt = CliRunner().invoke(app, ["worlds", "verify", str(tmp_path / "fine")])
    assert spoilt.exit_code == 2
    assert "config.json has sha256" in spoilt.stderr
    missing = CliRunner().invoke(app, ["worlds", "verify", next(iter(RELEASES))])
    assert missing.exit_code == 2
    assert "accept their licence" in missing.stderr


def test_a_world_deaf_to_its_actions_is_refused(tmp_path):
    world = tiny_clip_world()
    for embedder in (world.transformer.action_embedder_B_D, world.transformer.action_embedder_B_3D):
        torch.nn.init.zeros_(embedder.fc2.weight)
    save_world(tmp_path / "deaf", world.spec, world.transformer, world.codec)
    with pytest.raises(CheckpointError, match="the same frames whatever the actions are"):
        verify_world(tmp_path / "deaf", NoCache(), NoCache())


def test_prompts_travel_with_the_world_and_guide_it(tmp_path):
    world = tiny_clip_world()
    prompts = torch.randn(2, 1, 5, 32, generator=torch.Generator().manual_seed(0))
    texts = {"conditional": prompts[0].bfloat16(), "unconditional": prompts[1].bfloat16()}
    save_world(tmp_path / "told", world.spec, world.transformer, world.codec, texts=texts)
    told = World.load(tmp_path / "told")
    guided = Fidelity(2, NoCache(), guidance=7.0)
    assert told.parts.guidance(guided).scale == 7.0
    for wrong in (Fidelity(2, NoCache(), guidance_until=0.5), replace(guided, guidance_until=1.5)):
        with pytest.raises(ConfigError, match="a noise level from 0 to 1, and 0 where nothing is guided"):
            check_fidelity(told.spec, wrong)
    assert told.parts.guidance(Fidelity(2, NoCache())) is None
    read = told.transformer.read_text(texts["unconditional"])
    assert all(map(torch.equal, told.parts.guidance(guided).unconditional.values, read.values))
