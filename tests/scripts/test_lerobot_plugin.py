"""The plugin for LeRobot: its name, without which LeRobot does not find it, and itself where LeRobot is installed."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

PLUGIN = Path(__file__).parents[2] / "scripts/lerobot_env_wcsim"


def test_lerobot_finds_it_by_its_name():
    """LeRobot compares the name as it is written: underscores, and the same as the module's."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text("utf-8"))
    name = project["project"]["name"]
    assert name.startswith("lerobot_env_")
    assert (PLUGIN / name / "__init__.py").is_file()
    assert project["tool"]["setuptools"]["packages"] == [name]


def test_its_configuration_makes_environments(folder, monkeypatch):
    pytest.importorskip("lerobot.envs.configs")
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.delitem(sys.modules, "lerobot_env_wcsim", raising=False)
    from lerobot.configs.types import FeatureType
    from lerobot.envs.configs import EnvConfig

    from lerobot_env_wcsim import WcsimEnvConfig

    assert EnvConfig.get_choice_class("wcsim") is WcsimEnvConfig
    config = WcsimEnvConfig(world=folder, steps=2, cache="none", episode_length=4)
    assert config.type == "wcsim"
    assert (type(config.fps), config.fps) == (int, 10)
    assert {name: (feature.type, feature.shape) for name, feature in config.features.items()} == {
        "action": (FeatureType.ACTION, (2,)), "agent_pos": (FeatureType.STATE, (2,)),
        "pixels": (FeatureType.VISUAL, (96, 96, 3))}
    assert config.features_map == {"action": "action", "agent_pos": "observation.state",
                                   "pixels": "observation.image"}
    for use_async in (False, True):
        env = config.create_envs(2, use_async)["wcsim"][0]
        observation, _ = env.reset(seed=[0, 1])
        assert observation["pixels"].shape == (2, 96, 96, 3)
        assert env.call("_max_episode_steps") == (4, 4)
        assert env.envs[0].fidelity.steps == 2
        env.step(np.zeros((2, 2), np.float32))
