"""The scripts around the real Cosmos, on small weights."""

import json
import sys
from dataclasses import replace

import pytest
import torch

import convert_cosmos
import true_size
from test_cosmos_convert import official
from wcsim.errors import CheckpointError
from wcsim.world.cosmos import RELEASES
from wcsim.world.tiny import tiny_clip_world
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
    for name, value in loaded.transformer.state_dict().items():
        assert torch.equal(value, world.transformer.state_dict()[name]), name


def test_what_must_be_given_is_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convert_cosmos.py", "nvidia/DreamDojo/2B-GR1"])
    with pytest.raises(SystemExit, match=r"torch's distributed format.*dcp_to_torch.*--weights"):
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
    assert result["cached"]["blocks"] == 10
    assert result["weights_14b"] == 14_368_047_104
    assert result["tera_operations_per_pass_14b"] == pytest.approx(35.9, rel=0.03)
    decisions.write_text("[true, false, true, true]")
    with pytest.raises(SystemExit, match="the first step has nothing to reuse"):
        true_size.main()
