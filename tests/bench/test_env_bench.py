"""The environment bench runs, compares, and counts what it says it counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from wcsim.cache.fidelity import FidelityConfig
from wcsim.cli import app
from wcsim.envs.imagined import ImaginedEnv
from wcsim.experiments.bench import env as env_bench
from wcsim.experiments.bench.env import INSIDE, Timing, bench_env, operations_of, tables_of


def test_shares_and_rates_by_hand():
    spans = {"probe": 100.0, "deep": 300.0, "decode": 50.0, "imagine": 400.0}
    timing = Timing([0.5, 1.0], [spans, spans], [4.0, 8.0], [0.0, 0.0])
    assert timing.shares(0)["deep"] == pytest.approx(0.6)
    assert timing.outside == pytest.approx(np.median([0.1, 0.55]))
    assert timing.gflops(1e9) == pytest.approx(np.median([10.0, 20.0]))


def test_operations_are_those_of_the_products(folder):
    env = ImaginedEnv("pusht", folder, fidelity={"steps": 2, "cache": "none"})
    tokens, width = 5 * 4 * 4, 32
    linear = tokens * (4 * width**2 + 2 * 2 * width**2)
    attention = 2 * tokens**2 * width
    assert operations_of(env) == 2 * (linear + attention)


@pytest.fixture
def few_rounds(monkeypatch):
    monkeypatch.setattr(env_bench, "DEADLINE_ROUNDS", 3)


@pytest.mark.usefixtures("few_rounds")
@pytest.mark.filterwarnings("ignore:cache .* skipped nothing")
def test_a_deadline_is_held_against_steps_with_and_without_graphs_and_context(folder, tmp_path):
    told = '{preset: wcsim, threshold: 0.3}'
    with torch.compiler.set_stance("force_eager"):
        summary = bench_env(folder, out=tmp_path, lanes=2, rounds=2,
                            fidelity=FidelityConfig(steps=4, context_refresh=0.5), caches=[told], starts=1, ticks=1,
                            fewer_steps=5, deadline_ms=100.0, compiled=True)
    assert [(row["steps"], row["cache"]["threshold"], row["compiled"], row["context_refresh"])
            for row in summary["deadline"]["rows"]] == [
        (steps, 0.3, graphs, hold) for steps in (4, 5) for graphs in (False, True) for hold in (0.0, 0.5)]
    assert summary["caches"][told]["most_that_blocks_allow"] is None, "unknown where the context is not always read"
    assert list(summary["caches"]) == [told]
    assert len(tables_of(summary)) == 4


@pytest.mark.usefixtures("few_rounds")
@pytest.mark.filterwarnings("ignore:cache .* skipped nothing")
def test_the_command_writes_its_summary(folder, tmp_path):
    command = ["bench", "env", "--world", folder, "--lanes", "2", "--rounds", "2", "-s", "steps=4", "--starts", "2",
               "--ticks", "2", "--fewer-steps", "5", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["caches"]) == {"wcsim", "none"}
    told = summary["caches"]["none"]
    assert told["ratio"]["value"] > 0
    assert told["single"]["hit_rate"] == told["lanes"]["hit_rate"] == 0
    for row in (told["single"], told["lanes"]):
        assert sum(row["shares"].values()) + row["outside"] == pytest.approx(1.0, abs=0.2)  # medians of two rounds
        assert set(row["shares"]) == set(INSIDE)
    assert len(summary["chunk"]["chunked"]["psnr_db"]) == 2
    assert [(row["steps"], row["cache"]) for row in summary["deadline"]["rows"]] == [
        (4, "wcsim"), (4, "none"), (5, "wcsim"), (5, "none")]
    for row in summary["deadline"]["rows"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert 0 <= row["within"] <= 1
    assert len(tables_of(summary)) == 4


@pytest.mark.parametrize(("misuse", "message"), [
    (["--world", "atlantis"], "atlantis"), (["-s", "stepz=4"], "error: stepz is unknown; known: steps, solver"),
    (["-s", "solver=heun"], "solver 'heun' is unknown"),
    (["-s", "chunk=99"], "fidelity.chunk is 99; world 'tiny' allows"),
])
def test_misuse_is_one_line(folder, tmp_path, misuse, message):
    result = CliRunner().invoke(app, ["bench", "env", "--world", folder, *misuse, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert result.stderr.count("error:") == 1
    assert message in result.stderr
    assert not (tmp_path / "run").exists()
