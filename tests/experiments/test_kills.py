"""Real kills, at moments of nobody's choosing, of `wcsim run` and `wcsim budget`; test_evaluation.py has its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

MPC = {"kind": "mpc", "horizon": 2, "rounds": 1, "candidates": 4, "elites": 2, "replan_every": 2,
       "fidelity": {"steps": 1}}
SHARED = {"name": "tiny", "task": {"name": "pusht", "options": {"start": "near"}}, "max_steps": 2, "threads": 1}
CLOCKED = {"timing", "latency_ms", "first_step_ms", "spans_ms", "deadline_attainment", "real_time_factor", "speedup",
           "speedup_interval", "planning", "sha256"}
"""What a summary holds of clocks, and the checksum over that."""

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "closed loop": ("run", {"episodes": 4, "policy": MPC | {"name": "mpc"}, "fidelity": {"steps": 2}}),
    "goals": ("run", {"kind": "goals", "episodes": 2, "goal_ticks": 2, "fidelity": {"steps": 2}, "reference": "fine",
                      "policies": [MPC | {"name": "fine"}, {"kind": "hold"}], "within": {"px": 20.0, "deg": 20.0},
                      "audit": None}),
    "budget": ("budget", {
        "episodes": 3, "deadlines_ms": [10.0, 60.0], "efforts": {"one": {"fidelity": {"steps": 1}}},
        "planning": {"horizon": 2, "rounds": 2, "candidates": 4, "elites": 2, "replan_every": 2},
        "latency": {"kind": "constant", "call_ms": 5.0}}),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", RUNS)
def test_killed_at_any_moment_and_run_again_it_is_the_unbroken_run(kind: str, folder: str, tmp_path: Path) -> None:
    verb, settings = RUNS[kind]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SHARED | settings | {"world": folder}))
    command = [sys.executable, "-m", "wcsim.cli", verb, str(tmp_path / "config.yaml"), "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, stdout=subprocess.DEVNULL)
    rows = (tmp_path / "whole/episodes.jsonl").read_bytes()
    for share in (0.0, 0.4):  # as soon as there is a run, and in the middle of it
        kill_once_written([*command, str(tmp_path / "killed")], tmp_path / "killed/episodes.jsonl",
                          int(share * len(rows)))
    subprocess.run([*command, str(tmp_path / "killed")], check=True, stdout=subprocess.DEVNULL)
    assert told(tmp_path / "killed") == told(tmp_path / "whole")


def kill_once_written(command: list[str], rows: Path, size: int) -> None:
    """Start a command, and kill it once it has recorded `size` bytes of rows."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 240
    while child.poll() is None and time.monotonic() < limit:
        if rows.is_file() and rows.stat().st_size >= size:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()


def told(path: Path) -> dict[str, Any]:
    """A summary without what a clock said."""
    summary: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key not in CLOCKED}
