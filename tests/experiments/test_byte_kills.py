"""Kills in the middle of a write, at random bytes of random files, of everything that goes on where it stopped.

A limit on the size of files cuts a write off at one byte and ends the process there, as a full disk and a kill at once.
Children are forked from a process that has imported everything, so hundreds of kills take minutes.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arm_recordings import write  # type: ignore[import-not-found]  # of tests/data
from tiny_recipe import Silent, tiny_recipe  # type: ignore[import-not-found]  # of tests/train
from wcsim.config import read_yaml, validate
from wcsim.data.convert import convert
from wcsim.data.recordings import open_recordings
from wcsim.experiments.closed_loop import ClosedLoop, ClosedLoopConfig
from wcsim.experiments.evaluation import Evaluation, EvaluationConfig
from wcsim.train.run import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200), pytest.mark.filterwarnings("ignore")]
KILLS = int(os.environ.get("WCSIM_BYTE_KILLS", "12"))
"""Of all four kinds together."""
TIMED = {"timing", "latency_ms", "first_step_ms", "spans_ms", "deadline_attainment", "real_time_factor", "speedup",
         "speedup_interval", "planning", "sha256", "caching"}
"""What a summary holds of clocks, and the checksum over that."""
SHARED = {"name": "tiny", "task": {"name": "pusht", "options": {"start": "near"}}, "max_steps": 2, "threads": 1,
          "fidelity": {"steps": 16, "cache": {"preset": "worldcache", "threshold": 9.0}}}


def run(folder: str, out: Path) -> None:
    settings = {**SHARED, "world": folder, "episodes": 3, "policy": {"kind": "random"}}
    ClosedLoop(validate(ClosedLoopConfig, settings)).run(out)


def evaluate(folder: str, out: Path) -> None:
    settings = {**read_yaml("pusht_evaluate"), **SHARED, "world": folder, "starts": 2, "lanes": 1,
                "policies": [{"kind": "random"}, {"kind": "hold"}]}
    Evaluation(validate(EvaluationConfig, settings)).run(out)


def convert_set(recordings: str, out: Path) -> None:
    convert(open_recordings(recordings), out)


def train_world(recordings: str, out: Path) -> None:
    train(tiny_recipe(recordings), out, shown=Silent(), say=lambda text: None)


def forked(act: Callable[[], None], limit: int | None = None) -> bool:
    """Do it in a child, whose files may have at most `limit` bytes; whether it came to its end."""
    child = os.fork()
    if not child:
        code = 1
        try:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            act()
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode()[:2000])
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "it failed, but was not killed"
    return not os.WIFSIGNALED(status)


def result(out: Path) -> Any:
    """What must be as if nothing had happened: a summary, the hashes of a world, or all files of a set."""
    if (out / "world").is_dir():
        return json.loads((out / "world/world.json").read_text())
    if (out / "summary.json").is_file():
        told = json.loads((out / "summary.json").read_text())
        return {key: value for key, value in told.items() if key not in TIMED}
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recordings") / "dot"
    write(path, episodes=4)
    return str(path)


@pytest.mark.parametrize("what", [run, evaluate, convert_set, train_world])
def test_killed_at_random_bytes_it_ends_as_if_nothing_had_been(
    what: Callable[[str, Path], None], folder: str, recordings: str, tmp_path: Path
) -> None:
    act = partial(what, folder if what in (run, evaluate) else recordings)
    assert forked(partial(act, tmp_path / "whole"))
    expected, rng, kills = result(tmp_path / "whole"), np.random.default_rng(11), 0
    sizes = [file.stat().st_size for file in sorted((tmp_path / "whole").rglob("*")) if file.is_file()]
    for trial in range(max(1, KILLS // 4)):
        out = tmp_path / f"killed{trial}"
        for size in rng.choice([size for size in sizes if size], 2):
            kills += not forked(partial(act, out), limit=int(rng.integers(size)))
        assert forked(partial(act, out))
        assert result(out) == expected, f"trial {trial}"
    assert kills
