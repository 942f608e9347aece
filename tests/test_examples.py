"""The examples run as a user would run them: each alone, from another folder, in a tiny world."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
RUNS = {
    "evaluate_policy": (["--starts", "2", "--max-steps", "2", "--out", "run"], "mine: progress at the end in truth"),
    "plan_mpc": (["--ticks", "2", "--candidates", "6"], "tick 1: action"),
    "step_environment": (["--steps", "4", "--out", "videos"], "two futures of one present differ by"),
    "write_cache": (["--steps", "6"], "50% of the blocks skipped"),
}
"""Example to its arguments and to a piece of what it prints."""


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name: str, folder: str, tmp_path: Path) -> None:
    arguments, said = RUNS[name]
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--world", folder, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
