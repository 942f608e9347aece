"""Demonstrating and learning at a size for tests: a kill in between changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from wcsim.agents.learned import load_policy

ROOT = Path(__file__).parents[2]


def tiny(kind: str, steps: int, **splits: Any) -> dict[str, Any]:
    return {
        "name": "tiny", "task": "pusht", "task_options": {"start": "near"}, "output": "out",
        "demonstrations": {"folder": "shown", "steps": 12, "noise": [0, 10], "shard_episodes": 2, "workers": 1,
                           "splits": {"train": {"first_seed": 0, "episodes": 3},
                                      "validation": {"first_seed": 500_000, "episodes": 1}} | splits},
        "learning": {"kind": kind, "width": 16, "depth": 1, "horizon": 4,
                     "schedule": {"steps": steps, "batch": 8, "learning_rate": 0.001, "save_every": 2,
                                  "decay_fraction": 0.001}},
        "trial": {"episodes": 1, "max_steps": 2},
    }


def run(script: str, folder: Path, recipe: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return subprocess.run([sys.executable, str(ROOT / "scripts" / script), "recipe.yaml"], cwd=folder,
                          capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
def test_a_policy_from_nothing_and_after_a_stop(tmp_path: Path) -> None:
    shown = run("collect_demonstrations.py", tmp_path, tiny("flow", 4))
    assert shown.returncode == 0, shown.stderr
    shards = sorted((tmp_path / "shown/train").glob("shard_*.npz"))
    written = [path.stat().st_mtime_ns for path in shards]
    with np.load(shards[0]) as shard:
        assert (shard["poses"].shape, shard["wishes"].shape) == ((2, 13, 5), (2, 12, 2))
    run("collect_demonstrations.py", tmp_path, tiny("flow", 4))
    assert [path.stat().st_mtime_ns for path in shards] == written

    for steps in (2, 4):  # the rate does not fall, so two trainings to 2 and on to 4 are one to 4
        done = run("train_policy.py", tmp_path, tiny("flow", steps))
        assert done.returncode == 0, done.stderr
    resumed = load_policy(tmp_path / "out/tiny.safetensors").state_dict()
    told = json.loads((tmp_path / "out/tiny.json").read_text())
    assert told.keys() == {"steps", "validation_loss", "episodes", "success_rate", "final_progress"}
    (tmp_path / "out/tiny.pt").unlink()
    run("train_policy.py", tmp_path, tiny("flow", 4))
    whole = load_policy(tmp_path / "out/tiny.safetensors").state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("name", ["train_policy_bc", "train_policy_flow"])
def test_the_packaged_recipes_are_valid_and_learn_from_the_same_episodes(name: str) -> None:
    from policy_recipe import PolicyRecipe

    recipe = PolicyRecipe.load(ROOT / "configs" / f"{name}.yaml")
    other = PolicyRecipe.load(ROOT / "configs" / "train_policy_bc.yaml")
    assert recipe.demonstrations == other.demonstrations
    assert recipe.learning.schedule.steps <= 20_000


def test_reserved_seeds_are_refused(tmp_path: Path) -> None:
    refused = run("collect_demonstrations.py", tmp_path, tiny("flow", 4, test={"first_seed": 899_999, "episodes": 2}))
    assert refused.returncode != 0
    assert "seeds from 900000 up are reserved" in refused.stderr
