"""`wcsim run` plays every kind of policy, by the command line, in a tiny world."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner
from websockets.sync.server import ServerConnection, serve

from wcsim.agents.remote import pack, unpack
from wcsim.cli import app
from wcsim.experiments.policies import KINDS

AHEAD = "test_kinds_of_policy:Ahead"
KINDS_HERE = {
    "mpc": {"horizon": 2, "rounds": 1, "candidates": 4, "elites": 2, "replan_every": 2, "fidelity": {"steps": 1}},
    "expert": {"noise": 5.0}, "learned": {"policy": "pusht-bc"}, "lerobot": {"path": "somewhere"},
    "openpi": {"address": "ws://localhost"}, "function": {"function": AHEAD, "options": {"far": 9.0}},
    "replay": {"path": "actions.npy"}, "recorded": {}, "random": {"hold": 1}, "hold": {},
}


class Ahead:
    """A source of one's own: two actions that walk away from where the robot is, the first one out of bounds."""

    def __init__(self, far: float) -> None:
        self.far = far

    def __call__(self, observation: dict[str, Any]) -> np.ndarray:
        return observation["agent_pos"] + np.array([[1000.0, 0.0], [self.far, self.far]])


@pytest.fixture
def address() -> Iterator[str]:
    """An openpi server on this machine."""
    def answer(connection: ServerConnection) -> None:
        connection.send(pack({"name": "loopback"}))
        for message in connection:
            assert isinstance(message, bytes)
            seen = unpack(message)
            connection.send(pack({"actions": np.tile(seen["observation/state"] + 3.0, (2, 1))}))

    with serve(answer, "127.0.0.1", 0) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def test_these_are_all_kinds() -> None:
    assert KINDS_HERE.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_a_run_plays_it(folder: str, tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "lerobot" and find_spec("lerobot") is None:
        pytest.skip("lerobot is not installed")
    settings = {"kind": kind, **KINDS_HERE[kind]}
    if kind == "openpi":
        settings["address"] = request.getfixturevalue("address")
    if kind == "replay":
        np.save(tmp_path / "actions.npy", np.full((2, 2), 300.0))
        settings["path"] = str(tmp_path / "actions.npy")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({
        "name": "tiny", "world": folder, "task": {"name": "pusht", "options": {"start": "near"}}, "episodes": 1,
        "max_steps": 2, "fidelity": {"steps": 2}, "policy": settings}))
    result = CliRunner().invoke(app, ["run", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run"),
                                      "--allow", "test_kinds_of_policy"])
    if kind == "recorded":  # nobody recorded anything for this task's starts
        assert result.exit_code == 2
        assert "record" in result.stderr
        return
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["clipped"] == (kind == "function")
    assert (summary["planning"] is not None) == (kind == "mpc")
    assert (tmp_path / "run/report.html").is_file()
