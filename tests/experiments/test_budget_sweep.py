"""The budget sweep in a tiny world, and the advice drawn from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wcsim.config import read_yaml, validate
from wcsim.errors import ConfigError, RunError
from wcsim.experiments.budget_config import BudgetConfig, cells
from wcsim.experiments.budget_summary import as_run, recommend
from wcsim.experiments.budget_sweep import BudgetSweep
from wcsim.experiments.closed_loop import ClosedLoopConfig
from wcsim.experiments.executor import Here
from wcsim.experiments.work import Done


@pytest.fixture(scope="module")
def settings(folder: str) -> dict[str, Any]:
    return {
        "name": "tiny", "world": folder, "task": {"name": "pusht", "options": {"start": "near"}}, "episodes": 1,
        "max_steps": 3, "deadlines_ms": [10.0, 60.0], "threads": 1,
        "efforts": {"uncached": {"fidelity": {"steps": 1}},
                    "cached": {"fidelity": {"steps": 4, "cache": {"preset": "worldcache", "threshold": 0.5}}},
                    "more": {"fidelity": {"steps": 1}, "candidates": 8, "elites": 3}},
        "planners": ["cem"],
        "delay": {"effort": "cached", "deadline_ms": 60.0, "modes": ["naive", "freeze"], "ticks": [0, 1]},
        "governed": {"efforts": ["uncached", "more"], "rounds": 2, "margin": 0.6, "patience": [1, 8]},
        "planning": {"horizon": 4, "rounds": 9, "candidates": 4, "elites": 2, "replan_every": 2},
        "objective": {"kind": "state_goal", "every": 4, "discount": 0.0},
        "latency": {"kind": "constant", "call_ms": 5.0, "frame_ms": 1.0},
    }


def sweep(settings: dict[str, Any], **changes: Any) -> BudgetSweep:
    return BudgetSweep(validate(BudgetConfig, settings | changes))


@pytest.fixture(scope="module")
def whole(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep(settings).run(tmp_path_factory.mktemp("whole") / "run").path


class Dying(Here):
    def run(self, function: Any, jobs: Any, needs: Any = None) -> Any:
        for job in jobs[:5]:
            yield Done(job, function(job))
        raise KeyboardInterrupt


class Refusing(Here):
    def run(self, function: Any, jobs: Any, needs: Any = None) -> Any:
        assert not jobs
        return iter(())


def test_every_cell_is_played_within_its_simulated_budget(settings: dict[str, Any], whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert [(cell["effort"], cell["deadline_ms"]) for cell in summary["deadline"]] == [
        (effort, deadline) for effort in ("uncached", "cached", "more") for deadline in (10.0, 60.0)]
    assert [(cell["mode"], cell["delay"]) for cell in summary["delay"]] == [
        ("naive", 0), ("naive", 1), ("freeze", 0), ("freeze", 1)]
    call_ms = 5.0 + 4 * 4 * 1.0
    for cell in summary["deadline"]:
        this_ms = 5.0 + 8 * 4 * 1.0 if cell["effort"] == "more" else call_ms
        assert cell["plan_ms"]["max"] <= cell["deadline_ms"] + this_ms
        assert cell["rounds_per_plan"] == max(1, cell["deadline_ms"] // this_ms)
        assert cell["episodes"] == 1
    assert summary["deadline"][0]["attainment"] == 0.0  # a call takes longer than this deadline
    assert summary["deadline"][1]["attainment"] == 1.0
    for cell in summary["deadline"]:
        # Three ticks of 100 ms, two plans.
        assert cell["real_time_factor"] == pytest.approx(300.0 / (2 * cell["plan_ms"]["mean"]))
    # Two rounds of the cheapest effort take 42 ms: too long for the first deadline, calm enough for none.
    assert [cell["attainment"] for cell in summary["governed"]] == [0.0, 1.0]
    assert [cell["plan_ms"]["max"] for cell in summary["governed"]] == [2 * call_ms] * 2
    assert summary["delay"][1]["waited"] > summary["delay"][0]["waited"] == 0.0


def test_a_killed_sweep_resumes_to_the_same_summary_and_a_whole_one_does_nothing(
    settings: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(settings).run(tmp_path / "killed", executor=Dying())
    sweep(settings).run(tmp_path / "killed")
    for name in ("summary.json", "episodes.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole / name).read_bytes()
    sweep(settings).run(whole, executor=Refusing())


def test_a_measured_profile_is_kept_and_not_measured_again(settings: dict[str, Any], tmp_path: Path) -> None:
    small = {"latency": None, "episodes": 1, "max_steps": 1, "delay": None, "deadlines_ms": [1e5],
             "planning": settings["planning"] | {"rounds": 1}}
    run = sweep(settings, **small).run(tmp_path / "run")
    assert run.manifest["latency"].keys() == {"uncached", "cached", "more"}
    assert run.manifest["latency"]["cached"]["lanes"] == [1, 2, 4]
    assert run.manifest["latency"]["more"]["lanes"] == [1, 4, 8]
    (tmp_path / "run" / "summary.json").unlink()
    again = sweep(settings, **small).run(tmp_path / "run", executor=Refusing())
    assert again.manifest["latency"] == run.manifest["latency"] == again.read_summary()["latency"]


def test_the_advice_is_the_best_that_is_quick_enough_and_runs(settings: dict[str, Any], whole: Path) -> None:
    def cell(progress: float, p95: float, rounds: float = 1.0, attainment: float = 1.0) -> dict[str, Any]:
        return {"final_progress": progress, "plan_ms": {"p95": p95}, "rounds_per_plan": rounds,
                "attainment": attainment}

    summary = {"deadline": [cell(0.5, 90.0), cell(0.7, 200.0), cell(0.9, 10.0, rounds=0.0),
                            cell(0.7, 150.0, attainment=0.0), cell(0.7, 150.0)]}
    assert recommend(summary, 100.0)["final_progress"] == 0.5
    assert recommend(summary, 300.0) == cell(0.7, 150.0)
    with pytest.raises(RunError, match="no setting of this sweep plans within 50 ms; the quickest takes 90 ms"):
        recommend(summary, 50.0)
    told = json.loads((whole / "summary.json").read_text())
    config = validate(BudgetConfig, settings).model_dump(mode="json")
    advised = validate(ClosedLoopConfig, as_run(recommend(told, 100.0), config, 100.0))
    assert advised.policy.kind == "mpc"
    assert advised.acts_in == "truth"


def test_the_packaged_sweep_is_valid() -> None:
    config = validate(BudgetConfig, read_yaml("pusht_budget"))
    assert config.governed is not None
    assert config.delay is not None
    assert config.delay.ticks == (0, 1, 2, 3, 4)
    swept = len(config.deadlines_ms) * (len(config.efforts) * len(config.planners) + 1)
    assert len(cells(config)) == swept + len(config.delay.modes) * len(config.delay.ticks)
    assert config.first_seed + config.episodes < 900_000


@pytest.mark.parametrize(("change", "message"), [
    ({"delay": {"effort": "best", "deadline_ms": 1.0}}, "delay.effort 'best' is unknown; known: uncached, cached"),
    ({"delay": {"effort": "cached", "deadline_ms": 1.0, "ticks": [3]}}, "must hold replan_every"),
    ({"governed": {"efforts": ["x", "more"]}}, "governed.efforts 'x' is unknown"),
    ({"efforts": {"uncached": {"fidelity": None, "candidates": 1}}, "delay": None, "governed": None},
     r"efforts.uncached: .*elites must be at most candidates \(1\), got 2"),
    ({"deadlines_ms": []}, "deadlines_ms"), ({"planners": ["lqr"]}, "planners"),
])
def test_bad_sweeps_are_refused(settings: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(settings, **change)
