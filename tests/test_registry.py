"""What a configuration may load by `module:Class`: what is installed, what is wcsim's, what a user allows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from wcsim.cli import app
from wcsim.envs.lane_wrappers import wrap
from wcsim.envs.pendulum import Pendulum
from wcsim.envs.tasks import make_task
from wcsim.errors import ConfigError
from wcsim.registry import ALLOW, attribute, only_allowed

REFUSED = "which a configuration may not load"
MODULE = """
from pathlib import Path
Path(__file__).with_name("imported").touch()

def make():
    return lambda seen: [256.0, 256.0]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file where it is imported."""
    (tmp_path / "mine_here.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sys.modules.pop("mine_here", None)
    return tmp_path


@pytest.mark.parametrize("path", [
    "os:system", "subprocess:run", "builtins:exec", "wcsim.registry:import_module", "wcsim.runs.files:replace",
    "wcsim.registry:os", "wcsim.config:Path", "wcsim:", "wcsim_other:Class", "numpy:load"])
def test_a_configuration_runs_nothing_that_nobody_named(path: str) -> None:
    with only_allowed([]), pytest.raises(ConfigError):
        attribute(path, what="it")


def test_a_refusal_says_what_was_given_and_how_to_allow_it() -> None:
    with only_allowed([]), pytest.raises(ConfigError, match=f"task 'os:system' names 'os:system', {REFUSED}.*"
                                         "add --allow os, or set WCSIM_ALLOW=os"):
        make_task("os:system", command="true")


def test_wcsim_and_what_a_user_names_are_loaded(module: Path) -> None:
    with only_allowed([]):
        assert attribute("wcsim.envs.pendulum:Pendulum", what="it") is Pendulum
        with pytest.raises(ConfigError, match=REFUSED):
            attribute("mine_here:make", what="it")
        assert not (module / "imported").exists(), "refused before it is imported"
    with only_allowed(["mine_here"]):
        assert callable(attribute("mine_here:make", what="it"))
        assert os.environ[ALLOW] == "mine_here"
    assert ALLOW not in os.environ
    assert attribute("os:system", what="it") is os.system, "Python code is the user's own"


def test_the_environment_variable_allows_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW, "collections, json")
    for path in ("collections.abc:Sized", "json:loads"):
        attribute(path, what="it")
    with only_allowed(["email"]):
        attribute("json:loads", what="it")
        attribute("email.message:Message", what="it")
    for path in ("email.message:Message", "jsonic:loads"):
        with pytest.raises(ConfigError, match=REFUSED):
            attribute(path, what="it")
    with pytest.raises(ConfigError, match="lane_wrappers: 'gymnasium.wrappers:TimeLimit'"):
        wrap(None, ["gymnasium.wrappers:TimeLimit"])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a b", "mine:make", "../mine", "a..b"])
def test_what_is_allowed_is_a_module(name: str) -> None:
    with pytest.raises(ConfigError, match="--allow takes the name of a module"), only_allowed([name]):
        pass


def test_an_installed_entry_point_is_allowed_as_it_stands(module: Path) -> None:
    place = module / "theirs-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (place / "entry_points.txt").write_text(
        "[wcsim.policies]\nmine = mine_here:make\n\n[console_scripts]\nsh = os:system\n")
    with only_allowed([]):
        assert callable(attribute("mine_here:make", what="it"))
        for path in ("mine_here:Path", "os:system"):
            with pytest.raises(ConfigError, match=REFUSED):
                attribute(path, what="it")


@pytest.mark.parametrize("policy", [
    {"kind": "function", "function": "os:system", "options": {"command": "touch was_run"}},
    {"kind": "os:system"}, {"kind": "function", "function": "mine_here:make"}])
def test_a_run_refuses_it_in_one_line_before_it_begins(
    policy: dict[str, object], folder: str, module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(module)
    Path("config.yaml").write_text(yaml.safe_dump({
        "name": "x", "world": folder, "task": {"name": "pusht"}, "episodes": 1, "max_steps": 1, "policy": policy,
        "fidelity": {"steps": 2}}))
    result = CliRunner().invoke(app, ["run", "config.yaml"])
    assert result.exit_code == 2
    assert REFUSED in result.output
    assert not any(Path(left).exists() for left in ("runs", "was_run", "imported"))


@pytest.mark.slow
def test_a_run_and_its_workers_load_what_is_allowed(folder: str, module: Path) -> None:
    (module / "config.yaml").write_text(yaml.safe_dump({
        "name": "x", "world": folder, "task": {"name": "pusht"}, "episodes": 2, "max_steps": 1,
        "policy": {"kind": "function", "function": "mine_here:make"}, "fidelity": {"steps": 2}}))
    program = "from wcsim.cli import app\nif __name__ == '__main__': app()"
    command = [sys.executable, "-c", program, "run", "config.yaml"]
    for extra, code in (([], 2), (["--allow", "mine_here", "--workers", "2"], 0)):
        done = subprocess.run([*command, *extra], cwd=module, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert (REFUSED in done.stderr) == (code == 2)
    assert len((module / "runs" / "x" / "episodes.jsonl").read_text().splitlines()) == 2
