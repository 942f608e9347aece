"""A training that is killed at random moments, and one of two processes, end where one ends that nobody disturbs."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
import torch
import yaml

from arm_recordings import write
from tiny_recipe import SETTINGS, Silent, tiny_recipe
from wcsim.config import override
from wcsim.runs.lock import holder
from wcsim.train.run import train
from wcsim.world.checkpoints import read_description

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STAGES = ("codec", "state_model", "transformer")


def run(recordings: Path, out: Path) -> None:
    train(tiny_recipe(recordings), out, shown=Silent(), say=lambda text: None)


def test_killed_at_random_moments_equals_unbroken(tmp_path: Path) -> None:
    write(tmp_path / "dot", episodes=4)
    began = monotonic()
    run(tmp_path / "dot", tmp_path / "whole")
    seconds, rng, deaths = monotonic() - began, np.random.default_rng(0), 0
    forked = multiprocessing.get_context("fork")
    for limit in [*rng.uniform(0.02, 0.4, 8), 20.0]:  # the last one may end
        process = forked.Process(target=run, args=(tmp_path / "dot", tmp_path / "broken"))
        process.start()
        process.join(limit * seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            deaths += 1
    assert process.exitcode == 0
    assert deaths >= 3
    assert holder(tmp_path / "broken") is None
    assert read_description(tmp_path / "broken/world") == read_description(tmp_path / "whole/world")
    assert (tmp_path / "broken/summary.json").read_bytes() == (tmp_path / "whole/summary.json").read_bytes()
    assert {path.name for path in (tmp_path / "broken").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()}


def test_two_processes_are_one_with_twice_the_batches(tmp_path: Path) -> None:
    write(tmp_path / "dot", episodes=4)
    learnt = []
    for processes, accumulate in ((1, 2), (2, 1)):
        settings = override({**SETTINGS, "judge": {"episodes": 1, "horizon": 2, "steps": [1]}}, [
            f"data.path={tmp_path / 'dot'}", *(f"{stage}.schedule.accumulate={accumulate}" for stage in STAGES)])
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
        out = tmp_path / f"of-{processes}"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
                   "-m", "wcsim.cli", "train", str(tmp_path / "recipe.yaml"), "--out", str(out)]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert (out / "train.html").is_file()
        learnt.append([torch.load(out / f"{stage}.pt", weights_only=True)["learner"] for stage in STAGES])
    for one, two in zip(*learnt, strict=True):
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, atol=1e-5, rtol=1e-4)
