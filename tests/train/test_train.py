"""`wcsim train` from recordings to a world: every stage, after kills, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from arm_recordings import SPEC, taken, write
from tiny_recipe import SETTINGS, Silent, tiny_recipe
from wcsim.cache.none import NoCache
from wcsim.cli import app
from wcsim.envs.lanes import Imagination
from wcsim.envs.recordings import RecordingsTask
from wcsim.errors import ConfigError, DataError, RunError
from wcsim.spans import Spans
from wcsim.train.footage import see
from wcsim.train.recipe import DataRecipe
from wcsim.train.run import train
from wcsim.train.stage import Stage
from wcsim.types import Fidelity
from wcsim.world.checkpoints import read_description
from wcsim.world.world import World


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings") / "dot"
    write(folder, episodes=4)
    return folder


def run(recordings: Path, out: Path, *changes: str, **options: Any) -> Path:
    return train(tiny_recipe(recordings, *changes), out, shown=Silent(), say=lambda text: None, **options)


@pytest.fixture(scope="module")
def unbroken(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "whole"
    run(recordings, out)
    return out


def test_a_world_comes_out_that_says_what_it_was_trained_on(unbroken):
    world = World.load(unbroken / "world")
    assert world.spec.labels == "robot state"
    assert world.spec.frame_size == (32, 64)
    assert world.spec.cameras == (("top", 32, 40), ("wrist", 24, 24))
    assert world.spec.action.names == SPEC.action.names
    assert world.spec.fps == SPEC.fps
    episode, _ = taken(0)
    frame = np.zeros((1, 1, 32, 64, 3), np.uint8)
    state = world.init(frame, np.zeros((1, 0, 3), np.float32), [0])
    assert world.predict_state(state, episode.actions[None, :5])["state"].shape == (1, 5, 3)


def test_the_page_and_the_summary_tell_the_same(unbroken):
    summary = json.loads((unbroken / "summary.json").read_text())
    page = (unbroken / "train.html").read_text()
    assert set(summary["horizon"]) == {"1", "2", "4", "8"}
    assert f"{summary['codec_psnr_db']:.2f} dB" in page
    assert page.count("data:video/mp4;base64,") == 3
    assert summary["denoise_steps"] == read_description(unbroken / "world")[0].default_steps
    assert set(summary["sensitivity"]) == {"shuffled", "mirrored", "held"}


def test_killed_at_any_checkpoint_and_resumed_equals_unbroken(recordings, unbroken, tmp_path, monkeypatch):
    out, saves = tmp_path / "broken", Stage._save

    def save_and_die(self: Stage, *given: Any) -> None:
        saves(self, *given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "_save", save_and_die)
    deaths = 0
    while True:
        try:
            run(recordings, out)
            break
        except KeyboardInterrupt:
            deaths += 1
    assert deaths == 6  # each of the three stages saves twice
    monkeypatch.undo()
    run(recordings, out)
    assert read_description(out / "world")[1] == read_description(unbroken / "world")[1]
    assert json.loads((out / "summary.json").read_text()) == json.loads((unbroken / "summary.json").read_text())


def test_another_recipe_is_refused_by_name(recordings, unbroken):
    with pytest.raises(RunError, match=r"another recipe\.transformer\.shift \(3\.0, now 4\.0\)"):
        run(recordings, unbroken, "transformer.shift=4.0")


def test_without_robot_state_no_label_is_claimed(recordings, tmp_path):
    recipe = {**SETTINGS, "data": {**SETTINGS["data"], "robot_state": False}}
    del recipe["state_model"]
    from wcsim.config import override, validate
    from wcsim.train.recipe import Recipe

    out = tmp_path / "unlabelled"
    train(validate(Recipe, override(recipe, [f"data.path={recordings}"])), out, shown=Silent(), say=lambda text: None)
    assert read_description(out / "world")[0].labels == "none"


@pytest.mark.parametrize(("changes", "error", "said"), [
    (["data.path=nowhere"], DataError, "nowhere does not exist"),
    (["data.frame_size=[20, 20]", "data.fit=squash"], ConfigError, "no whole multiple of 8"),
    (["task=pusht"], ConfigError, "has the actions dx, dy, gripper; task 'pusht' has target_x, target_y"),
    (["data.fps=3"], DataError, "no whole multiple of 3"),
    (["transformer.max_context=2"], ConfigError, "needed are 2 shares that sum to 1"),
    (["codec.folder=x"], ConfigError, "either a folder, or model and schedule"),
])
def test_what_cannot_be_trained_is_refused_in_one_line(recordings, tmp_path, changes, error, said):
    with pytest.raises(error, match=said):
        run(recordings, tmp_path / "out", *changes)


def test_a_folder_of_parts_is_all_of_them(recordings, tmp_path):
    for number in (1, 0):
        write(tmp_path / f"parts/part-000{number}", episodes=2)
    found = see((str(tmp_path / "parts"),), DataRecipe())
    assert [row.name for row in found.episodes] == ["part-0000/0", "part-0000/1", "part-0001/0", "part-0001/1"]


def test_minutes_end_every_stage_after_its_share(recordings, tmp_path):
    run(recordings, tmp_path / "timed", "codec.schedule.steps=100000", "state_model.schedule.steps=100000",
        "transformer.schedule.steps=100000", minutes=0.05)
    rows = [json.loads(line) for line in (tmp_path / "timed/scalars.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"codec", "state_model", "transformer"}


def test_the_command_says_what_is_wrong(tmp_path):
    result = CliRunner().invoke(app, ["train", "no_such_recipe"])
    assert result.exit_code == 2
    assert "no_such_recipe" in result.stderr


def test_a_task_from_elsewhere_must_be_allowed(recordings, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump({**SETTINGS, "task": "my_robot:Reach"}))
    command = ["train", str(recipe), "--data", str(recordings), "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "add --allow my_robot" in refused.stderr
    assert "cannot be loaded" in CliRunner().invoke(app, [*command, "--allow", "my_robot"]).stderr


def test_the_robot_reports_its_own_state(recordings, unbroken):
    world, task = World.load(unbroken / "world"), RecordingsTask(path=str(recordings))
    start = task.start(0)
    assert start.recorded is not None
    truth = task.make_truth()
    assert truth.restore(start.truth).estimate.values["state"][0].tolist() == pytest.approx(
        task.episode(0).state[0].tolist())
    lanes = Imagination(task, world, Fidelity(1, NoCache()))
    first = lanes.begin(start, 0)
    expected = world.predict_state(lanes.state_of(first.lane), start.recorded[None, :1])["state"][0, 0]
    then = lanes.step([first.lane], lanes.check(start.recorded[:1], (1,)), Spans())[0]
    assert then.lane.robot.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert then.estimate.values["state"][0].tolist() == pytest.approx(expected.tolist())
    assert then.info["state_found"]
