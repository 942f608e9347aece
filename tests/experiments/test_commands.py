"""The packaged evaluation and sweep, as commands, at a size for tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from wcsim.cli import app
from wcsim.config import read_yaml, validate
from wcsim.experiments.closed_loop import ClosedLoopConfig


def test_evaluate_writes_its_page_and_a_second_time_only_that(folder: str, tmp_path: Path) -> None:
    command = ["evaluate", "pusht_evaluate", "--out", str(tmp_path / "run"), "-s", f"world={folder}", "-s", "starts=1",
               "-s", "max_steps=1", "-s", "fidelity.steps=16"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = (tmp_path / "run" / "episodes.jsonl").read_bytes()
    assert (tmp_path / "run" / "report.html").is_file()
    policies = len(read_yaml("pusht_evaluate")["policies"])
    assert (tmp_path / "run" / "episodes.csv").read_text().count("\n") == 1 + 3 * policies
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (tmp_path / "run" / "episodes.jsonl").read_bytes() == rows


def test_budget_recommends_a_run(predicting_folder: str, tmp_path: Path) -> None:
    command = ["budget", "pusht_budget", "--out", str(tmp_path / "run")]
    for change in (f"world={predicting_folder}", "episodes=1", "max_steps=1", "deadlines_ms=[100000]",
                   "planners=[cem]", "delay=null", "planning.rounds=1", "planning.candidates=6",
                   "latency={kind: constant, call_ms: 10}"):
        command += ["-s", change]
    result = CliRunner().invoke(app, [*command, "--recommend", "60000"])
    assert result.exit_code == 0, result.output
    advised = validate(ClosedLoopConfig, yaml.safe_load(result.stdout))
    assert advised.deadline_ms == 60_000
    late = CliRunner().invoke(app, [*command, "--recommend", "1"])
    assert late.exit_code == 2
    assert "no setting of this sweep plans within 1 ms" in late.stderr
    assert CliRunner().invoke(app, ["report", str(tmp_path / "run")]).exit_code == 0
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("command", ["evaluate", "budget"])
def test_bad_settings_are_one_line_and_write_nothing(command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [command, f"pusht_{command}", "--out", str(tmp_path / "run"), "-s", "startz=3"])
    assert result.exit_code == 2
    assert "startz is unknown" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("command", "config", "right"), [
    ("run", "pusht_evaluate", "evaluate"), ("run", "pusht_budget", "budget"), ("evaluate", "pusht_mpc", "run"),
    ("budget", "pusht_goals", "run"),
])
def test_a_configuration_of_another_command_is_named(command: str, config: str, right: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [command, config, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert f"{config} is a configuration of `wcsim {right}`, not of `wcsim {command}`" in said
    assert not (tmp_path / "run").exists()
