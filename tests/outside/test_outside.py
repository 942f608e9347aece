"""A task that somebody else wrote and installed: everything works by its name, through the command line alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PACKAGE, TOOLS = Path(__file__).parent / "package", Path(__file__).parents[1] / "envs"
"""The package's pyproject.toml, and where its module lies, which other tests use without installing it."""
pytestmark = pytest.mark.slow
QUANTITIES = ("hand", "grip", "pressed")
MAKE_WORLD = """
import sys
from pathlib import Path
from tiny_worlds import save_world_of
from wcsim.envs.tasks import make_task
save_world_of(make_task("press"), Path(sys.argv[1]))
"""
PLAY = """
import sys
import gymnasium as gym
import numpy as np
import wcsim
for task in ("press", "wcsim_press:Press"):
    settings = {"task": task, "world": sys.argv[1], "fidelity": {"steps": 2, "cache": "none"}}
    env = gym.make("wcsim/World-v0", **settings)
    observation, info = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert {name: view.shape for name, view in observation["pixels"].items()} == {
        "front": (32, 32, 3), "wrist": (16, 16, 3)}
    assert observation["agent_pos"].shape == (3,)
    assert env.action_space.shape == (3,)
    assert {"hand", "grip", "pressed"} <= info.keys()
    lanes = gym.make_vec("wcsim/World-v0", num_envs=2, **settings)
    many, _ = lanes.reset(seed=[3, 4])
    np.testing.assert_array_equal(many["pixels"]["front"][0], observation["pixels"]["front"])
    action = env.action_space.sample()
    one = env.step(action)[0]
    many = lanes.step(np.stack([action, action]))[0]
    np.testing.assert_array_equal(many["pixels"]["wrist"][0], one["pixels"]["wrist"])
    np.testing.assert_array_equal(many["agent_pos"][0], one["agent_pos"])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables with which the package is found; built and installed offline, beside nothing else."""
    folder = tmp_path_factory.mktemp("outside")
    shutil.copytree(PACKAGE, folder / "source")
    shutil.copy(TOOLS / "outside_task.py", folder / "source" / "wcsim_press.py")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
                    "--no-index", "--target", str(folder / "site"), str(folder / "source")], check=True)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder / "site"), str(TOOLS)])}


@pytest.fixture(scope="module")
def world(installed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("worlds") / "press")
    python(installed, MAKE_WORLD, path)
    return path


def python(environment: dict[str, str], code: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def wcsim(environment: dict[str, str], *arguments: str) -> None:
    python(environment, "from wcsim.cli import app; app()", *arguments)


def test_its_environments_are_made_by_name_and_by_class(installed: dict[str, str], world: str) -> None:
    python(installed, PLAY, world)


def played(
    environment: dict[str, str], verb: str, settings: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], str]:
    """Run an experiment, and write its page again; its summary and the page."""
    config, out = folder / "config.yaml", folder / "run"
    config.write_text(yaml.safe_dump(settings))
    wcsim(environment, verb, str(config), "--out", str(out))
    (out / "report.html").unlink()
    wcsim(environment, "report", str(out))
    state = json.loads((out / "manifest.json").read_text())["state"]
    assert [quantity["name"] for quantity in state["quantities"]] == list(QUANTITIES)
    return json.loads((out / "summary.json").read_text()), (out / "report.html").read_text()


@pytest.mark.parametrize("name", ["press", "wcsim_press:Press"])
def test_it_is_run_and_reported(installed: dict[str, str], world: str, tmp_path: Path, name: str) -> None:
    settings = {"name": "outside", "world": world, "task": {"name": name, "options": {"patience": 9}}, "episodes": 2,
                "max_steps": 3, "first_seed": 0, "threads": 1, "policy": {"kind": "random"},
                "fidelity": {"steps": 8, "cache": {"preset": "worldcache", "threshold": 0.5}}}
    summary, page = played(installed, "run", settings, tmp_path)
    assert {"hand_px", "grip_1", "pressed_wrong"} <= summary["error"]["cached_vs_truth"]["1"].keys()
    assert summary["steps"] == 6
    for name in QUANTITIES:
        assert name in page


def test_it_is_evaluated_and_reported(installed: dict[str, str], world: str, tmp_path: Path) -> None:
    settings = {"name": "outside", "world": world, "task": {"name": "press"}, "starts": 2, "max_steps": 2, "threads": 1,
                "first_seed": 0, "policies": [{"kind": "random"}, {"kind": "hold"}],
                "fidelity": {"steps": 4, "cache": {"preset": "worldcache", "threshold": 0.5}}}
    summary, page = played(installed, "evaluate", settings, tmp_path)
    assert [policy["name"] for policy in summary["policies"]] == ["random", "hold"]
    assert summary["estimator"]["progress_error"]["p95"] == 0.0, "the estimator reads this truth exactly"
    for name in ("random", "hold", "press"):
        assert name in page
