"""The whole loop on a world of random weights: what is recorded, and that a killed run loses nothing."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from wcsim.cache import preset
from wcsim.cli import app
from wcsim.config import read_yaml, validate
from wcsim.errors import ActionError, RunError
from wcsim.experiments.closed_loop import ClosedLoop, ClosedLoopConfig
from wcsim.experiments.executor import Here
from wcsim.experiments.summary import exploitation_gap
from wcsim.experiments.work import Done
from wcsim.runs.run import Run

SUMMARY_KEYS = {
    "success_rate", "final_progress", "error", "speedup", "hit_rate", "latency_ms", "deadline_ms",
    "deadline_attainment",
}


@pytest.fixture
def settings(folder):
    return {
        "name": "tiny", "world": folder, "task": {"name": "pusht", "options": {"start": "near"}}, "episodes": 2,
        "max_steps": 4, "fidelity": {"steps": 6, "cache": {"preset": "worldcache", "threshold": 0.3}},
        "policy": {"kind": "mpc", "horizon": 4, "rounds": 1, "candidates": 4, "elites": 2, "replan_every": 2,
                   "fidelity": {"steps": 2, "context": 1}},
    }


class Dying(Here):
    """Ends after so many jobs, as a kill would."""

    def __init__(self, jobs):
        self.left = jobs

    def run(self, function, jobs, needs=None):
        for job in jobs[: self.left]:
            yield Done(job, function(job))
        if jobs:
            raise KeyboardInterrupt


def loop(settings, **changes):
    return ClosedLoop(validate(ClosedLoopConfig, settings | changes))


def deterministic(rows):
    return [{key: value for key, value in row.items() if key not in ("spans_ms", "imagine_ms")}
            | ({"plan": {k: v for k, v in row["plan"].items() if k != "deadline_met"}} if row.get("plan") else {})
            for row in rows]


@pytest.mark.parametrize("acts_in", ["world", "truth"])
def test_a_run_records_every_place(settings, tmp_path, acts_in):
    run = loop(settings, acts_in=acts_in).run(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    assert set(summary["error"]) == {"cached_vs_truth", "uncached_vs_truth", "cached_vs_uncached"}
    assert set(summary["error"]["cached_vs_truth"]["4"]) >= {"psnr_db", "block_px", "block_angle_deg", "agent_px"}
    assert len(run.steps) == sum(row["steps"] for row in run.episodes)
    arrays = run.load_arrays("ep_0000")
    for place in ("truth", "cached", "uncached"):
        assert arrays[place].shape == (5, 96, 96, 3)
        np.testing.assert_array_equal(arrays[place][0], arrays["truth"][0])
    assert arrays["hit"].shape == (4, 6)
    assert summary["hit_rate"] == pytest.approx(np.mean([row["hit_rate"] for row in run.steps]))
    assert summary["planning"]["reasons"] == {"start": 2, "schedule": 2}
    realised = [row["plan"]["realised"] for row in run.steps if row["plan"]["realised"]]
    assert len(realised) == 2
    assert summary["planning"]["gap"] == pytest.approx(np.mean([came - promised for promised, came in realised]))
    assert summary["planning"]["rank_agreement"] is None


def test_a_killed_run_resumes_to_the_same_rows(settings, tmp_path):
    whole = loop(settings).run(tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        loop(settings).run(tmp_path / "killed", executor=Dying(1))
    assert len(Run(tmp_path / "killed").episodes) == 1
    resumed = loop(settings).run(tmp_path / "killed")
    assert deterministic(resumed.steps) == deterministic(whole.steps)
    assert resumed.episodes == whole.episodes
    summary = (tmp_path / "killed" / "summary.json").stat().st_mtime_ns
    loop(settings).run(tmp_path / "killed", executor=Dying(0))  # nothing is left to be killed in
    assert (tmp_path / "killed" / "summary.json").stat().st_mtime_ns == summary


def test_the_same_config_is_the_same_run(settings, tmp_path):
    one, two = (loop(settings).run(tmp_path / name) for name in ("one", "two"))
    assert deterministic(one.steps) == deterministic(two.steps)


def test_an_existing_directory_is_left_alone(settings, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(RunError, match="is not a run"):
        loop(settings).run(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "precious"


def test_the_packaged_experiment_survives_its_own_dump():
    config = validate(ClosedLoopConfig, read_yaml("pusht_mpc"))
    assert config.policy.kind == "mpc"
    assert config.fidelity.cache == preset("wcsim")
    assert validate(ClosedLoopConfig, config.model_dump()) == config


@pytest.mark.parametrize(("change", "message"), [
    ("world=atlantis", "neither a folder"),
    ("fidelity.cache=fast", "cache preset 'fast' is unknown; known: authors_cosmos"),
    ("fidelity.cache.treshold=1", "cache.treshold is unknown; known: kind, "),
    ("policy.candidates=0", "policy.mpc.candidates: Input should be greater than or equal to 1, given 0"),
    ("policy.deadline_ms=-5", "policy.mpc.deadline_ms: Input should be greater than 0"),
    ("policy.elites=999", "elites must be at most candidates"),
    ("policy.screens=[]", "'screens' is now called rungs"),
    ("policy.objective.kind=judged", "objective.kind 'judged' is now called state_goal"),
    ("policy={kind: still}", "policy kind 'still' is now called hold"),
    ("policy={kind: psychic}", "policy kind 'psychic' is unknown; known: mpc, expert"),
    ("task.name=golf", "task 'golf' is unknown; known: "),
    ("task.options.start=far", "start 'far' is unknown; known: random, near"),
    ("horizn=3", "horizn is unknown; known: name, world, task"),
    ("fidelity.solver=heun", "solver 'heun' is unknown"),
    ("name.short=x", "name is not a mapping"),
    ("nonsense", "not of the form key.subkey=value"),
])
def test_bad_settings_are_one_clear_line_and_write_nothing(folder, tmp_path, change, message):
    result = CliRunner().invoke(app, ["run", "pusht_mpc", "-s", f"world={folder}", "-s", change,
                                      "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_worlds_are_listed_and_verified(folder):
    result = CliRunner().invoke(app, ["worlds", "verify", folder])
    assert result.exit_code == 0, result.stdout
    assert "spec and shapes agree" in result.stdout


def test_one_unreadable_frame_does_not_decide_the_exploitation_gap() -> None:
    realised = [(70.0, 72.0), (-150.0, -149.0), (-150.0, 1000.0), None]
    assert exploitation_gap([{"plan": {"realised": pair}} for pair in realised] + [{"plan": None}]) == 2.0
    assert exploitation_gap([{"plan": {"realised": None}}]) is None


def test_a_policy_that_is_clipped_too_often_ends_the_run_by_its_name(settings, tmp_path):
    """Positions a thousandfold too large, as in other units: the first episode is not recorded."""
    far = {"kind": "function", "name": "far", "function": "clipped_policy:far"}
    with pytest.raises(ActionError, match="policy 'far' asked for actions out of bounds in 3 of 4 steps; max_clipped "
                                          "allows a share of 0.5"):
        loop(settings, policy=far, max_clipped=0.5).run(tmp_path / "run")
    assert not Run(tmp_path / "run").episodes
    run = loop(settings, policy=far, max_clipped=0.75, episodes=1).run(tmp_path / "other")
    assert run.episodes[0]["clipped"] == 3
