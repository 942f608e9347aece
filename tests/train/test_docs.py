"""The pages about training: their commands run as they stand, on a tiny dataset, with a tiny recipe."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from arm_recordings import write
from tiny_recipe import SETTINGS
from wcsim.config import override, read_yaml, validate
from wcsim.experiments.policies import KINDS
from wcsim.train.privileged_recipe import Privileged
from wcsim.train.recipe import Recipe
from wcsim.train.schedule import Schedule

DOCS = Path(__file__).parents[2] / "docs"
YOURS, TRAIN = ((DOCS / name).read_text("utf-8") for name in ("your-robot.md", "train.md"))
TABLE = TRAIN[TRAIN.index("## The recipe") :]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", YOURS, re.DOTALL)
FASTER = {"--minutes 60": "--minutes 0.1"}
SETTING_UP = ("pip install",)


def call(line: str, where: Path) -> str:
    """What a command line of the page prints."""
    for slow, quick in FASTER.items():
        line = line.replace(slow, quick)
    variables, words = {}, shlex.split(line)
    while "=" in words[0]:
        name, value = words.pop(0).split("=")
        variables[name] = value
    assert words.pop(0) == "wcsim"
    done = subprocess.run([sys.executable, "-m", "wcsim.cli", *words], cwd=where, env=os.environ | variables,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_goes_from_recordings_to_a_ranked_list(tmp_path: Path) -> None:
    write(tmp_path / "my_dataset", episodes=4)
    texts = [text for kind, text in BLOCKS if kind == "yaml"]
    told, ranking = (yaml.safe_load(text) for text in texts)
    settings = {**SETTINGS, "world": told["world"], "data": {**SETTINGS["data"], **told["data"]}}
    (tmp_path / "my_robot.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "my_evaluation.yaml").write_text(yaml.safe_dump({**ranking, "starts": 2, "max_steps": 4}))
    module, stepping, policy = (text for kind, text in BLOCKS if kind == "python")
    (tmp_path / "my_robot.py").write_text(module)
    (tmp_path / "my_policy.py").write_text(policy)
    lines = [line for kind, text in BLOCKS if not kind for line in text.splitlines()
             if not line.startswith(SETTING_UP)]
    assert len(lines) == 4
    for line in lines:
        call(line, tmp_path)
    held_out = json.loads((tmp_path / "runs/my-robot/summary.json").read_text())["held_out"]
    assert set(held_out) < {"0", "1", "2", "3"}
    summary = json.loads((tmp_path / "runs/ranking/summary.json").read_text())
    assert [row["name"] for row in summary["policies"]] == ["demonstration", "mine", "still", "random"]
    scores = [row[place]["final_progress"] for row in summary["policies"] for place in ("uncached", "cached")]
    assert all(0 <= score <= 1 for score in scores)
    stepping += "\nprint(observation['agent_pos'].shape, info['progress'])"
    stepped = subprocess.run([sys.executable, "-c", stepping], cwd=tmp_path, capture_output=True, text=True,
                             check=False)
    assert stepped.returncode == 0, stepped.stderr
    assert stepped.stdout.startswith("(3,) ")


def test_the_page_lists_every_kind_of_policy() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", YOURS, re.MULTILINE)
    assert {kind for row in rows for kind in re.findall(r"\w+", row)} == set(KINDS)


def test_the_page_lists_what_a_privileged_recipe_may_take() -> None:
    text = TRAIN[TRAIN.index("## Privileged recipes") : TRAIN.index("## Fine-tune a world")]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"\w+", row)}
    assert listed == set(Privileged.model_fields) - {"landmark_weight"}


def test_the_page_names_keys_that_a_recipe_has() -> None:
    for key in re.findall(r"`((?:data|codec|transformer|judge)\.\w+)`", TABLE):
        section, name = key.split(".")
        field = Recipe.model_fields[section].annotation
        models = [field] if isinstance(field, type) else [kind for kind in field.__args__ if kind is not type(None)]
        assert all(isinstance(model, type) and issubclass(model, BaseModel) for model in models)
        assert name in models[0].model_fields, key
    row = next(line for line in TABLE.splitlines() if line.startswith("| `schedule` of every stage"))
    assert set(re.findall(r"`(\w+)`", row)) == {"schedule", *Schedule.model_fields}


@pytest.mark.parametrize("name", ["train_recordings", "train_cube", "train_pusht_pixels", "train_pusht96",
                                  "train_pendulum", "train_tiny"])
def test_a_packaged_recipe_is_one(name: str) -> None:
    assert name in TRAIN
    recipe = validate(Recipe, override(read_yaml(name), []))
    assert sum(recipe.shares().values()) == pytest.approx(1.0)
