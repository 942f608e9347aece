"""Bad input of eight kinds, thousands of times, at every door: what comes out is a result or one of wcsim's own errors,
soon, and what was refused has changed nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from arm_recordings import SPEC, taken, write  # type: ignore[import-not-found]  # of tests/data
from entry_points import (  # type: ignore[import-not-found]  # beside this file
    Restored,
    Stepped,
    requests_of,
    some_answer,
    some_config,
    some_recordings,
    some_run,
    some_world,
    some_yaml,
)
from fuzzing import Act, check  # type: ignore[import-not-found]  # beside this file
from wcsim.config import read_yaml
from wcsim.data.npz import write_npz
from wcsim.runs.run import Run

INPUTS = int(os.environ.get("WCSIM_FUZZ", "6000"))
"""Of all kinds together in a slow round."""
KINDS = {  # inputs in a quick round, and share of a slow one
    "action": (60, 0.12), "reset": (20, 0.03), "config": (150, 0.25), "yaml": (200, 0.2), "world": (15, 0.05),
    "snapshot": (40, 0.1), "run": (30, 0.1), "answer": (100, 0.05), "request": (100, 0.05), "recordings": (20, 0.05)}

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    manifest = {"versions": {"torch": "2"}, "device": "cpu", "inputs": {"a": "b"}, "labels": "none"}
    with Run.create(path, read_yaml("pusht_mpc"), manifest) as run:
        for start in range(2):
            run.save_arrays(f"start_{start}", frames=np.arange(6))
            run.record(f"start={start}", [{"step": 0, "error": 0.5}], {"success": True, "clipped": 0, "steps": 1})
        run.write_summary({"score": 0.5})
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A LeRobot dataset, and a folder of .npz files."""
    root = tmp_path_factory.mktemp("sets")
    write(root / "lerobot", episodes=2)
    (root / "npz").mkdir()
    for number in range(2):
        episode, frames = taken(number, 5)
        write_npz(root / "npz" / f"{number}.npz", frames["top"], episode, SPEC)
    return [root / "lerobot", root / "npz"]


@pytest.fixture
def act(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Act]:
    """What feeds one door, by the name of its kind."""
    kind = request.param
    if kind in ("action", "reset", "request"):
        stepped = Stepped(request.getfixturevalue("predicting_folder"))
        yield {"action": stepped.act, "reset": stepped.reset, "request": requests_of(stepped.env)}[kind]
    elif kind == "snapshot":
        yield Restored(request.getfixturevalue("predicting_folder"))
    elif kind in ("config", "yaml", "answer"):
        yield {"config": some_config, "yaml": some_yaml, "answer": some_answer}[kind]
    else:
        name, feed = {"world": ("predicting_folder", some_world), "run": ("run_path", some_run),
                      "recordings": ("recordings", some_recordings)}[kind]
        yield partial(feed, request.getfixturevalue(name), tmp_path / kind)


@pytest.mark.parametrize(("act", "kind"), [(kind, kind) for kind in KINDS], indirect=["act"], ids=list(KINDS))
def test_bad_input_is_one_clear_error(act: Act, kind: str) -> None:
    check(kind, act, range(KINDS[kind][0]))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("act", "kind"), [(kind, kind) for kind in KINDS], indirect=["act"], ids=list(KINDS))
def test_much_bad_input_is_one_clear_error(act: Act, kind: str) -> None:
    check(kind, act, range(1000, 1000 + int(KINDS[kind][1] * INPUTS)))
