"""The scripts make a complete world from nothing, and go on where they were stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "train_tiny.yaml"
sys.path.insert(0, str(ROOT / "scripts"))


def run(script, folder, recipe=RECIPE, *arguments):
    result = subprocess.run([sys.executable, str(ROOT / "scripts" / script), str(recipe), *arguments],
                            cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_world_from_nothing(tmp_path):
    run("collect_data.py", tmp_path)
    shards = sorted((tmp_path / "tiny" / "data" / "train").glob("shard_*.npz"))
    assert len(shards) == 2
    written = [path.stat().st_mtime_ns for path in shards]
    run("collect_data.py", tmp_path)
    assert [path.stat().st_mtime_ns for path in shards] == written

    run("train_codec.py", tmp_path)
    assert "exported" in run("finetune_codec.py", tmp_path)
    assert torch.load(tmp_path / "tiny" / "out" / "finetuned.pt", weights_only=True)["step"] == 4
    assert "true + 32: body 0:" in run("train_dynamics.py", tmp_path)
    learnt = torch.load(tmp_path / "tiny" / "out" / "dynamics.pt", weights_only=True)
    assert {name: part["step"] for name, part in learnt.items()} == {"estimator": 4, "forward model": 4}
    run("train_world.py", tmp_path)
    checkpoint = tmp_path / "tiny" / "out" / "transformer.pt"
    assert torch.load(checkpoint, weights_only=True)["step"] == 4

    longer = yaml.safe_load(RECIPE.read_text())
    longer["transformer"]["schedule"]["steps"] = longer["dynamics"]["forward"]["steps"] = 6
    (tmp_path / "longer.yaml").write_text(yaml.safe_dump(longer))
    run("train_dynamics.py", tmp_path, tmp_path / "longer.yaml")
    learnt = torch.load(tmp_path / "tiny" / "out" / "dynamics.pt", weights_only=True)
    assert {name: part["step"] for name, part in learnt.items()} == {"estimator": 4, "forward model": 6}
    assert "step 6" in run("train_world.py", tmp_path, tmp_path / "longer.yaml")

    run("evaluate_world.py", tmp_path, RECIPE, "--steps", "2")
    summary = json.loads((tmp_path / "tiny" / "out" / "evaluation" / "summary.json").read_text())
    assert {"codec_psnr_db", "codec_p99", "horizon", "valid_horizon", "action_sensitivity"} <= summary.keys()
    assert set(summary["horizon"]) == {"1", "2", "4", "8", "16", "32"}


def test_reserved_seeds_are_refused(tmp_path):
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["data"]["splits"]["test"] = {"first_seed": 899_999, "episodes": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = subprocess.run([sys.executable, str(ROOT / "scripts" / "collect_data.py"), str(tmp_path / "recipe.yaml")],
                            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode != 0
    assert "seeds from 900000 up are reserved" in result.stderr
