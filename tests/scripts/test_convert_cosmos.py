"""The scripts around the real Cosmos, on small weights."""

import json
import sys
from dataclasses import replace

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import convert_cosmos
import imagine_clip
import true_size
from official import stock_transformer
from test_cosmos_convert import official
from wcsim.backbones.cosmos2.releases import RELEASES
from wcsim.backbones.cosmos2.tiny import tiny_clip_world, tiny_cosmos
from wcsim.errors import CheckpointError, ConfigError
from wcsim.world.sampler import SOLVERS
from wcsim.world.world import World

BRIDGE = "nvidia/Cosmos-Predict2.5-2B/robot/action-cond"


@pytest.mark.parametrize("reads", ["frames", "chunk"])
def test_official_files_become_a_world(tmp_path, monkeypatch, reads):
    world = tiny_clip_world(reads=reads)
    torch.save(official(world.transformer), tmp_path / "weights.pt")
    torch.save(torch.randn(1, 5, 32).bfloat16(), tmp_path / "text.pt")
    world.codec.vae.save_pretrained(tmp_path / "vae")
    release = replace(RELEASES[BRIDGE], spec=replace(world.spec, name="small-bridge", reads="frames"))
    monkeypatch.setitem(convert_cosmos.RELEASES, BRIDGE, release)
    monkeypatch.setattr(sys, "argv", ["convert_cosmos.py", BRIDGE, "--weights", str(tmp_path / "weights.pt"), "--text",
                                      str(tmp_path / "text.pt"), "--vae", str(tmp_path / "vae")])
    monkeypatch.setenv("WCSIM_WORLDS", str(tmp_path / "worlds"))
    convert_cosmos.main()
    loaded = World.load(BRIDGE)
    assert loaded.spec == replace(release.spec, reads=reads)
    source = json.loads((tmp_path / "worlds" / "small-bridge" / "world.json").read_text())["source"]
    assert source == {"weights": "given: weights.pt", "text": "given: text.pt", "vae": "given: vae"}
    for name, value in loaded.transformer.state_dict().items():
        assert torch.equal(value, world.transformer.state_dict()[name]), name


def test_a_prompt_needs_its_encoder_and_a_negative_one_a_prompt(tmp_path, monkeypatch):
    given = ["--weights", "w.pt", "--vae", "vae", "--encoder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["convert_cosmos.py", BRIDGE, *given, "--prompt", "a towel"])
    with pytest.raises(SystemExit, match=r"prompts need the package transformers|holds no text encoder"):
        convert_cosmos.main()
    monkeypatch.setattr(sys, "argv", ["convert_cosmos.py", BRIDGE, *given, "--negative", "blurred"])
    with pytest.raises(SystemExit, match="--negative needs a --prompt"):
        convert_cosmos.main()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_base_model_imagines_a_clip_into_a_file(tmp_path, monkeypatch, capsys):
    transformer, codec = tiny_cosmos()
    stock_transformer(transformer).save_pretrained(tmp_path / "base" / "transformer")
    codec.vae.save_pretrained(tmp_path / "base" / "vae")
    SOLVERS["unipc-karras"](1.0).save_pretrained(tmp_path / "base" / "scheduler")
    texts = {name: torch.randn(1, 5, 32) for name in ("conditional", "unconditional")}
    save_file(texts, tmp_path / "text.safetensors")
    imageio.imwrite(tmp_path / "table.png", np.zeros((32, 48, 3), np.uint8))
    options = ["--features", str(tmp_path / "text.safetensors"), "--size", "32", "48", "--frames", "5", "--steps", "3",
               "--device", "cpu", "--image", str(tmp_path / "table.png"), "--out", str(tmp_path / "clip.mp4")]
    monkeypatch.setattr(sys, "argv", ["imagine_clip.py", str(tmp_path / "base"), *options])
    imagine_clip.main()
    assert imagine_clip.read_video(tmp_path / "clip.mp4").shape == (5, 32, 48, 3)
    assert "5 frames; the cache skipped at 0 of 3 steps" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="nothing.mp4 holds no video"):
        imagine_clip.read_video(tmp_path / "nothing.mp4")
    monkeypatch.setattr(sys, "argv", ["imagine_clip.py", "elsewhere/Model", *options])
    with pytest.raises(SystemExit, match="neither a folder nor one of nvidia/Cosmos-Predict2.5-2B"):
        imagine_clip.main()


def test_what_must_be_given_is_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convert_cosmos.py", "nvidia/DreamDojo/2B-GR1"])
    with pytest.raises(SystemExit, match=r"normalised by the least and most of its joints.*--statistics"):
        convert_cosmos.main()
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        convert_cosmos.fetch("nvidia/Cosmos-Predict2.5-2B", "main", "robot")  # the suite is offline


def test_true_size_on_a_small_one(tmp_path, monkeypatch):
    decisions = tmp_path / "decisions.json"
    decisions.write_text("[false, false, true, true]")
    monkeypatch.setattr(sys, "argv", ["true_size.py", "--size", "tiny", "--steps", "4", "--decisions", str(decisions),
                                      "--out", str(tmp_path)])
    true_size.main()
    result = json.loads((tmp_path / "true_size.json").read_text())
    assert result["uncached"]["blocks"] == 16
    assert result["cached"]["blocks"] == 8
    assert not result["uncached"]["extrapolated"]
    steps = json.loads((tmp_path / "steps.json").read_text())["done"]["cached"]
    assert result["cached"]["seconds"] == pytest.approx(sum(wall for wall, _ in steps))
    assert result["weights_14b"] == 14_368_047_104
    assert result["tera_operations_per_pass_14b"] == pytest.approx(35.9, rel=0.03)
    decisions.write_text("[true, false, true, true]")
    with pytest.raises(SystemExit, match="the first step has nothing to reuse"):
        true_size.main()


def test_true_size_stops_goes_on_and_extrapolates(tmp_path, monkeypatch):
    (tmp_path / "decisions.json").write_text("[false, true, true, false, true, false]")

    def run(*more):
        options = ["--size", "tiny", "--steps", "6", "--out", str(tmp_path), *more]
        monkeypatch.setattr(sys, "argv", ["true_size.py", *options])
        true_size.main()
        return json.loads((tmp_path / "true_size.json").read_text())

    with pytest.raises(SystemExit, match="0 of 12 steps are timed; the same command goes on"):
        run("--minutes", "0")
    whole = run()
    kept = json.loads((tmp_path / "steps.json").read_text())
    kept["done"]["cached"] = kept["done"]["cached"][:2]  # as if stopped before a step that skips
    (tmp_path / "steps.json").write_text(json.dumps(kept))
    resumed = run()
    assert resumed["uncached"]["seconds"] == whole["uncached"]["seconds"]
    again = json.loads((tmp_path / "steps.json").read_text())["done"]
    assert again["cached"][:2] == kept["done"]["cached"]
    assert len(again["cached"]) == 6
    rough = run("--measured", "1")
    assert rough["cached"]["extrapolated"]
    assert rough["cached"]["measured_steps"] == 2
    one = rough["cached"]
    assert one["seconds"] == pytest.approx(3 * one["seconds_per_full_step"] + 3 * one["seconds_per_skipping_step"])
    assert one["blocks"] == whole["cached"]["blocks"] == 12


def test_imposed_decisions_are_obeyed():
    """Through the first and the last step and long runs, where the cache's own rules would compute."""
    hits = (False, True, True, True, True, True)
    free = true_size.preset("wcsim").model_copy(update={"warmup": 0.0, "min_warmup": 1, "force_last": False})
    transformer = true_size.random_transformer(true_size.TINY)
    with torch.no_grad():
        _, decisions, blocks = true_size.sample_clip(
            transformer, torch.randn(1, 1, 16, 8, 8), torch.randn(1, 4, 16, 8, 8), torch.randn(1, 3, 64),
            true_size.Sampling(6, "unipc", 5.0, -1.0), true_size.Imposed(free, hits), actions=torch.randn(1, 4, 28),
            known=torch.ones(1, 4, dtype=torch.bool),
        )
    assert [bool(decision.hit) for decision in decisions] == list(hits)
    assert blocks.flatten().tolist() == [4, 0, 0, 0, 0, 0]
