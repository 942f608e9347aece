"""The second task's world, from the same scripts and its recipe alone; in seconds here, so it imagines nonsense."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from test_training import ROOT, run
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.paired import PairedTruth
from wcsim.world.checkpoints import read_description

RECIPE = ROOT / "configs" / "train_pendulum.yaml"


def shrunk(recipe):
    """The packaged recipe with a handful of episodes and of training steps."""
    data, codec, transformer = recipe["data"], recipe["codec"], recipe["transformer"]
    data |= {"steps": 40, "shard_episodes": 2, "workers": 1}
    for split, episodes in (("train", 4), ("validation", 2), ("test", 2)):
        data["splits"][split]["episodes"] = episodes
    codec |= {"decoder_fraction": 0.25}
    codec["schedule"] |= {"steps": 4, "batch": 4}
    transformer["schedule"] |= {"steps": 4, "batch": 4}
    return recipe


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pendulum_world_from_nothing(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(shrunk(yaml.safe_load(RECIPE.read_text()))))
    for script in ("collect_data.py", "train_codec.py", "train_world.py"):
        run(script, tmp_path, recipe)
    run("evaluate_world.py", tmp_path, recipe, "--steps", "2")
    world = tmp_path / "data" / "pendulum-64" / "world"
    spec, _ = read_description(world)
    assert (spec.task, spec.frame_size, spec.action.dim) == ("pendulum", (64, 64), 1)
    assert sum(path.stat().st_size for path in world.rglob("*.safetensors")) < 5e6
    env = PairedTruth(ImaginedEnv("pendulum", str(world), fidelity={"steps": 2, "cache": "none"}), refresh_every=2)
    env.reset(seed=1)
    assert [env.step(np.array([1.0], np.float32))[4]["refreshed"] for _ in range(2)] == [False, True]
    env.close()
