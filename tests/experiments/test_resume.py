"""What a run depends on: whatever of it has changed is named, nothing is mixed, and a fork begins anew."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from wcsim.agents.learned import shipped_policies
from wcsim.backbones.cosmos2.tiny import tiny_parts
from wcsim.cli import app
from wcsim.config import validate
from wcsim.errors import ConfigError, RunError
from wcsim.experiments.budget_config import BudgetConfig
from wcsim.experiments.budget_sweep import BudgetSweep
from wcsim.experiments.evaluation import Evaluation, EvaluationConfig
from wcsim.experiments.executor import Here
from wcsim.experiments.goals import GoalRuns, GoalsConfig
from wcsim.experiments.inputs import inputs_of
from wcsim.experiments.jobs import job_key
from wcsim.experiments.work import Done
from wcsim.runs import manifest
from wcsim.runs.run import Run
from wcsim.world.checkpoints import hash_files, save_world


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """An evaluation of three steps, whose world and policies may be changed."""
    save_world(tmp_path / "world", *tiny_parts(task="pusht"))
    np.save(tmp_path / "actions.npy", np.full((1, 2), 100.0))
    shutil.copy(next(iter(shipped_policies().values())), tmp_path / "learned.safetensors")
    return {
        "name": "tiny", "world": str(tmp_path / "world"), "task": {"name": "pusht", "options": {"start": "near"}},
        "policies": [{"kind": "replay", "name": "again", "path": str(tmp_path / "actions.npy")},
                     {"kind": "learned", "name": "bc", "policy": str(tmp_path / "learned.safetensors")}],
        "starts": 1, "max_steps": 1, "threads": 1, "fidelity": {"steps": 2, "cache": "none"},
    }


def evaluate(settings: dict[str, Any], path: Path) -> Run:
    return Evaluation(validate(EvaluationConfig, settings)).run(path)


def test_every_file_is_an_input(settings: dict[str, Any], tmp_path: Path) -> None:
    options = {"checkpoint": str(tmp_path / "actions.npy"), "size": 3, "folder": "wcsim", "inside": f"{tmp_path}/world"}
    own = {"kind": "function", "name": "own", "function": "wcsim.agents.adapters:ChunkedPolicy", "options": options}
    policies = [*settings["policies"], own, {"kind": "lerobot", "name": "act", "path": str(tmp_path / "world")}]
    inputs = inputs_of(validate(EvaluationConfig, settings | {"policies": policies}))
    weights = {f"world tiny {path}": digest for path, digest in hash_files(tmp_path / "world").items()}
    assert weights.items() <= inputs.items()
    actions = manifest.hash_file(tmp_path / "actions.npy")
    assert inputs["policies.again.path"] == inputs["policies.own.options.checkpoint"] == actions
    named = {name for name in inputs if not name.startswith("world ")}
    inside = {str(file.relative_to(tmp_path / "world")) for file in (tmp_path / "world").rglob("*") if file.is_file()}
    assert named == {"policies.again.path", "policies.bc.policy", "policies.own.function",
                     "policies.own.options.checkpoint", *(f"policies.own.options.inside/{file}" for file in inside),
                     *(f"policies.act.path/{file}" for file in inside)}


def test_hidden_files_and_bytecode_are_no_inputs(tmp_path: Path) -> None:
    for name in ("config.json", ".git/HEAD", "__pycache__/x.pyc", "inner/weights"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert set(manifest.hash_inputs({"path": tmp_path})) == {"path/config.json", "path/inner/weights"}


def test_recordings_are_inputs(settings: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", frames=np.zeros(1), actions=np.zeros(1))
    task = {"name": "recordings", "options": {"path": str(tmp_path)}}
    inputs = inputs_of(validate(EvaluationConfig, settings | {"task": task}))
    assert inputs["task.one.npz"] == manifest.hash_file(tmp_path / "one.npz")


def test_a_missing_file_is_refused_before_anything_is_written(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "actions.npy").unlink()
    with pytest.raises(ConfigError, match=r"policies\.again\.path reads .*actions\.npy, which does not exist"):
        evaluate(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_weights_are_refused_by_name(settings: dict[str, Any], tmp_path: Path) -> None:
    evaluate(settings, tmp_path / "run")
    path = tmp_path / "world/transformer/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file(weights | {name: weights[name] + 1}, path, metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"world tiny transformer/dif.* differs \(stored \w{12}, now \w{12}\); .*--fork"):
        evaluate(settings, tmp_path / "run")


def test_another_policy_is_refused_by_name(settings: dict[str, Any], tmp_path: Path) -> None:
    evaluate(settings, tmp_path / "run")
    np.save(tmp_path / "actions.npy", np.full((1, 2), 101.0))
    with pytest.raises(RunError, match=r"policies\.again\.path differs"):
        evaluate(settings, tmp_path / "run")


@pytest.mark.parametrize(("package", "message"), [("torch", "torch .* then, 0.0.1 now"), ("wcsim", "wcsim .* then")])
def test_another_version_is_refused(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, message: str
) -> None:
    evaluate(settings, tmp_path / "run")
    true = manifest.version
    monkeypatch.setattr(manifest, "version", lambda name: "0.0.1" if name == package else true(name))
    with pytest.raises(RunError, match=message):
        evaluate(settings, tmp_path / "run")


def test_a_fork_begins_anew_beside(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    command = ["evaluate", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(app, command).exit_code == 0
    first = (tmp_path / "run/episodes.jsonl").read_bytes()
    np.save(tmp_path / "actions.npy", np.full((1, 2), 101.0))
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "--fork" in refused.stderr
    for number in (2, 3):
        forked = CliRunner().invoke(app, [*command, "--fork"])
        assert forked.exit_code == 0, forked.output
        assert f"new run in {tmp_path}/run-{number}" in forked.stderr
        assert Run(tmp_path / f"run-{number}").read_summary()["kind"] == "evaluation"
    assert (tmp_path / "run/episodes.jsonl").read_bytes() == first


class Dying(Here):
    """Ends after three jobs, as a kill would."""

    def run(self, function: Any, jobs: Any, needs: Any = None) -> Any:
        for job in jobs[:3]:
            yield Done(job, function(job))
        raise KeyboardInterrupt


def backwards(value: Any) -> Any:
    """The same mappings with their keys in the opposite order."""
    if isinstance(value, dict):
        return {key: backwards(inner) for key, inner in reversed(value.items())}
    return [backwards(inner) for inner in value] if isinstance(value, list) else value


PLANNING = {"horizon": 2, "rounds": 1, "candidates": 4, "elites": 2, "replan_every": 2}
SHARED = {"name": "tiny", "task": {"name": "pusht", "options": {"start": "near"}}, "max_steps": 1, "threads": 1}
REORDERED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "budget": (BudgetSweep, BudgetConfig, {
        "episodes": 2, "deadlines_ms": [10.0, 60.0], "planning": PLANNING,
        "latency": {"kind": "constant", "call_ms": 5},
        "efforts": {"one": {"fidelity": {"steps": 1}}, "two": {"fidelity": {"steps": 2}}}}),
    "goals": (GoalRuns, GoalsConfig, {
        "kind": "goals", "episodes": 2, "goal_ticks": 2, "fidelity": {"steps": 2}, "reference": "fine", "audit": None,
        "within": {"px": 20.0, "deg": 20.0},
        "policies": [{"name": "fine", "kind": "mpc", **PLANNING, "fidelity": {"steps": 1}}, {"kind": "hold"},
                     {"kind": "random"}]}),
    "evaluation": (Evaluation, EvaluationConfig, {
        "starts": 2, "lanes": 1, "fidelity": {"steps": 2, "cache": "none"},
        "policies": [{"kind": "random", "name": "random"}, {"kind": "hold", "name": "hold"}]}),
}


@pytest.mark.parametrize("kind", REORDERED)
def test_a_config_with_its_keys_in_another_order_goes_on_with_the_same_run(
    kind: str, folder: str, tmp_path: Path
) -> None:
    experiment, model, own = REORDERED[kind]
    settings = SHARED | own | {"world": folder}
    whole = experiment(validate(model, settings)).run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        experiment(validate(model, settings)).run(tmp_path / "killed", executor=Dying())
    assert Run(tmp_path / "killed").done
    resumed = experiment(validate(model, backwards(settings))).run(tmp_path / "killed")
    summaries = [run.read_summary() for run in (whole, resumed)]
    for summary in summaries:
        summary.pop("timing", None)
    assert summaries[0] == summaries[1]
    assert (whole.path / "episodes.csv").read_bytes() == (resumed.path / "episodes.csv").read_bytes()
    assert whole.done == resumed.done


def test_a_job_is_called_by_its_content() -> None:
    assert job_key(arm="cem", place=None, start=12) == "arm=cem,start=12"
    assert job_key(policy="a,world=b", start=0) == 'policy="a,world=b",start=0'
