"""The same closed loop, planner, errors by horizon and report on worlds of clips: recordings, and PushT."""

import numpy as np
import pytest
from typer.testing import CliRunner

from wcsim.backbones.cosmos2.tiny import tiny_clip_world
from wcsim.cli import app
from wcsim.config import validate
from wcsim.envs.pusht import PushT
from wcsim.errors import ActionError, CheckpointError, ConfigError
from wcsim.experiments.closed_loop import ClosedLoop, ClosedLoopConfig
from wcsim.report.page import write_report
from wcsim.types import ActionSpec
from wcsim.world.checkpoints import save_world

AS_PUSHT = {"frame_size": (96, 96), "latent_shape": (16, 12, 12)}


@pytest.fixture
def recordings(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "recordings").mkdir()
    for number in range(2):
        frames = rng.integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
        np.savez(tmp_path / "recordings" / f"{number}.npz", frames=frames, actions=rng.uniform(0, 0.1, (3, 7)))
    return {"name": "recordings", "options": {"path": str(tmp_path / "recordings"), "convention": "bridge",
                                              "frame_size": [96, 96], "fps": 4.0}}


def save(world, folder):
    save_world(folder, world.spec, world.transformer, world.codec)
    return str(folder)


def settings(**more):
    return {"name": "tiny", "task": {"name": "pusht"}, "episodes": 2, "max_steps": 3, "first_seed": 0,
            "fidelity": {"steps": 5, "solver": "unipc", "cache": {"preset": "worldcache", "threshold": 9.0}}, **more}


def test_recorded_actions_inside_a_world_of_clips(tmp_path, recordings):
    world = save(tiny_clip_world(task="recordings", **AS_PUSHT), tmp_path / "world")
    config = validate(ClosedLoopConfig, settings(world=world, task=recordings, policy={"kind": "recorded"}))
    run = ClosedLoop(config).run(tmp_path / "run")
    assert [row["steps"] for row in run.episodes] == [3, 3]
    errors = [row["error"]["cached_vs_uncached"] for row in run.steps]
    assert all(error["psnr_db"] is None or error["psnr_db"] > 0 for error in errors)
    assert write_report(tmp_path / "run").is_file()
    longer = ClosedLoop(config.model_copy(update={"max_steps": 4}))
    with pytest.raises(ActionError, match="the recording holds 3 actions and all have been played; ask for fewer"):
        longer.run(tmp_path / "longer")


def test_a_planner_pushes_the_block_inside_a_world_of_clips(tmp_path):
    target = PushT.action
    plain = ActionSpec(target.low, target.high, target.names, target.units)
    world = save(tiny_clip_world(action=plain, task="pusht", fps=10.0, **AS_PUSHT), tmp_path / "world")
    policy = {"kind": "mpc", "horizon": 2, "rounds": 1, "candidates": 3, "elites": 1, "replan_every": 1,
              "fidelity": {"steps": 2, "solver": "unipc"}}
    config = validate(ClosedLoopConfig, settings(world=world, policy=policy) | {"episodes": 1, "max_steps": 2})
    run = ClosedLoop(config).run(tmp_path / "run")
    assert run.episodes[0]["steps"] == 2
    assert all(np.isfinite(row["plan"]["cost"]) for row in run.steps)
    assert write_report(tmp_path / "run").is_file()


@pytest.mark.parametrize(("config", "repository"), [
    ("cosmos_2b_bridge", "nvidia/Cosmos-Predict2.5-2B"), ("cosmos_dreamdojo_gr1", "nvidia/DreamDojo"),
])
def test_without_weights_one_message_says_what_to_do(tmp_path, monkeypatch, config, repository):
    monkeypatch.setenv("WCSIM_WORLDS", str(tmp_path))
    result = CliRunner().invoke(app, ["run", config, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    said = result.stderr
    assert said.count("error:") == 1
    page = f"https://huggingface.co/{repository}"
    for needed in (f"repository {repository}", page, "python scripts/convert_cosmos.py"):
        assert needed in said
    assert not (tmp_path / "run").exists()


def test_a_world_of_recordings_needs_recordings(tmp_path):
    world = save(tiny_clip_world(task="recordings", **AS_PUSHT), tmp_path / "world")
    with pytest.raises((CheckpointError, ConfigError), match="task 'recordings'"):
        ClosedLoop(validate(ClosedLoopConfig, settings(world=world, policy={"kind": "hold"}))).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
