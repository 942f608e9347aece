"""The goal protocol in a tiny world: goals, attempts, audits, and that kills change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from wcsim.agents.policies import ReplayPolicy
from wcsim.cli import app
from wcsim.config import read_yaml, validate
from wcsim.envs.tasks import make_task
from wcsim.errors import ConfigError
from wcsim.experiments.candidates import ExpertCandidate
from wcsim.experiments.executor import Here
from wcsim.experiments.goal_play import attempt
from wcsim.experiments.goal_task import make_goal, with_goal
from wcsim.experiments.goals import GoalRuns, GoalsConfig, pieces
from wcsim.experiments.goals_summary import summarise
from wcsim.experiments.lanes import TruthLanes

PLANNER = {
    "kind": "mpc", "horizon": 4, "rounds": 1, "candidates": 4, "elites": 2, "replan_every": 2,
    "fidelity": {"steps": 2, "context": 1}, "objective": {"kind": "latent_goal"},
}
POSES = {"kind": "judged", "every": 4, "reach": 0.3, "coverage_px": 0}


@pytest.fixture(scope="module")
def settings(folder: str) -> dict[str, Any]:
    return {
        "kind": "goals", "name": "tiny", "world": folder, "task": {"name": "pusht", "options": {"start": "near"}},
        "episodes": 2, "goal_ticks": 3, "max_steps": 4, "fidelity": {"steps": 2}, "reference": "fine", "threads": 1,
        "arms": {"fine": PLANNER | {"fidelity": {"steps": 4}},
                 "halving": PLANNER | {"screens": [{"survivors": 2, "fidelity": {"steps": 1}}], "objective": POSES},
                 "demonstrator": {"kind": "demonstrator"}, "still": {"kind": "still"}},
        "audit": {"starts": 1, "candidates": 4, "horizon": 2, "knots": 2},
    }


def runs(settings: dict[str, Any], **changes: Any) -> GoalRuns:
    return GoalRuns(validate(GoalsConfig, settings | changes))


@pytest.fixture(scope="module")
def whole(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs(settings).run(tmp_path_factory.mktemp("whole") / "run").path


def summary_of(path: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((path / "summary.json").read_text())
    summary.pop("timing")
    return summary


class Dying(Here):
    def run(self, function: Any, jobs: Any) -> Any:
        for job in jobs[:5]:
            yield job, function(job)
        raise KeyboardInterrupt


class Refusing(Here):
    def run(self, function: Any, jobs: Any) -> Any:
        assert not jobs
        return iter(())


def test_a_goal_is_where_the_demonstrator_is_and_doing_the_same_reaches_it() -> None:
    task = make_task("pusht", start="near")
    demonstrator = ExpertCandidate(name="demonstrator", noise_px=8.0).build(task)
    goal, again = (make_goal(task, 730_003, demonstrator, ticks=12) for _ in range(2))
    assert np.array_equal(goal.actions, again.actions)
    assert goal.actions.shape == (12, 2)
    assert np.array_equal(goal.frame, again.frame)
    aimed = with_goal(task, goal)
    assert aimed.goal == tuple(goal.block)
    assert aimed.goal_frame() is goal.frame
    assert aimed.frame_size == task.frame_size
    told = attempt(task, TruthLanes(task, [goal.start]), goal, ReplayPolicy(goal.actions), episode=0, max_steps=12,
                   limits=(1e-9, 1e-9))
    assert told.offs[-1] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    near = attempt(task, TruthLanes(task, [goal.start]), goal, ReplayPolicy(goal.actions), episode=0, max_steps=12,
                   limits=(20.0, 20.0))
    assert near.reached
    assert near.block_reached
    assert len(near.offs) <= 12


def test_every_arm_plays_every_start_in_every_place(settings: dict[str, Any], whole: Path) -> None:
    rows = [json.loads(line) for line in (whole / "episodes.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 2 * 4 + 1
    summary = summary_of(whole)
    assert [place["name"] for place in summary["places"]] == ["truth", "world"]
    for place in summary["places"]:
        arms = {arm["name"]: arm for arm in place["arms"]}
        assert arms["fine"]["against"] is None
        assert arms["still"]["against"]["mcnemar_p"] <= 1.0
        assert arms["fine"]["calls_per_action"] > 0 == arms["still"]["calls_per_action"]
        assert arms["fine"]["gap"] == pytest.approx(arms["fine"]["came"] - arms["fine"]["promised"])
        assert arms["halving"]["rank_agreement"] is not None
        assert arms["fine"]["rank_agreement"] is None is arms["still"]["gap"]
    assert {arm["name"]: arm["success_rate"] for arm in summary["places"][0]["arms"]}["demonstrator"] == 1.0
    opinions = {told["name"]: told for told in summary["audit"]["opinions"]}
    assert opinions.keys() == {"fine", "halving", "halving, screen"}
    assert (opinions["fine"]["tau"], opinions["fine"]["regret"]) == (1.0, 0.0)
    assert opinions["halving"]["true_regret"] >= 0


def test_a_killed_run_resumes_to_the_same_summary_and_a_whole_one_does_nothing(
    settings: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        runs(settings).run(tmp_path / "killed", executor=Dying())
    torn = tmp_path / "killed" / "episodes.jsonl"
    torn.write_bytes(torn.read_bytes()[:-5])
    runs(settings).run(tmp_path / "killed")
    assert summary_of(tmp_path / "killed") == summary_of(whole)
    assert (tmp_path / "killed/episodes.csv").read_bytes() == (whole / "episodes.csv").read_bytes()
    runs(settings).run(whole, executor=Refusing())


def test_a_summary_pairs_arms_by_start() -> None:
    config = {"arms": {"slow": {"kind": "mpc"}, "quick": {"kind": "mpc"}}, "places": ["truth"], "reference": "slow",
              "episodes": 3, "goal_ticks": 25, "max_steps": 50}
    rows = [{"episode": 2 * start + k, "start": start, "seed": start, "arm": arm, "place": "truth", "steps": 2,
             "reached": (start + k) % 2 == 0, "block_reached": True, "agent_px": 1.0, "block_px": 2.0, "block_deg": 3.0,
             "plans": 1, "calls": 8, "promised": [1.0], "came": [1.5 + k], "rank_agreement": [], "regret": [],
             "prediction": [0.1], "act_ms": [ms * (start + 1)] * 2}
            for start in range(3) for k, (arm, ms) in enumerate((("slow", 90.0), ("quick", 30.0)))]
    summary = summarise(rows, config)
    slow, quick = summary["places"][0]["arms"]
    assert (slow["success_rate"], quick["success_rate"]) == pytest.approx((2 / 3, 1 / 3))
    assert quick["against"] == {"only_reference": 2, "only_this": 1, "mcnemar_p": 1.0}
    assert (slow["gap"], quick["gap"]) == (0.5, 1.5)
    assert summary["timing"]["places"][0]["arms"][1]["faster"] == pytest.approx(3.0)
    assert summarise(rows[::-1], config) == summary
    idle = summarise([row | {"plans": int(row["arm"] == "slow")} for row in rows], config)
    assert idle["timing"]["places"][0]["arms"][1]["faster"] is None, "who plans nothing is in no race"


def test_the_packaged_protocol_is_the_named_one() -> None:
    config = validate(GoalsConfig, read_yaml("pusht_goals"))
    assert (config.episodes, config.goal_ticks, config.max_steps, config.within_px) == (50, 25, 50, 20.0)
    assert set(config.places) == {"truth", "world"}
    assert config.first_seed + config.episodes < 900_000
    assert len(pieces(config)) == 50 * 2 * len(config.arms) + config.audit.starts
    fine, cached = (config.arms[name].model_dump() for name in ("uncached", "cached"))
    assert cached["fidelity"].pop("cache")["kind"] != fine["fidelity"].pop("cache")["kind"] == "none"
    assert fine == cached


def test_wcsim_run_plays_the_packaged_protocol_at_a_small_size(predicting_folder: str, tmp_path: Path) -> None:
    command = ["run", "pusht_goals", "--out", str(tmp_path / "run")]
    for change in (f"world={predicting_folder}", "episodes=1", "max_steps=1", "goal_ticks=2", "fidelity.steps=16",
                   "audit={starts: 1, candidates: 2, horizon: 2, knots: 2}",
                   *(f"arms.{arm}.fidelity.steps=16" for arm in ("uncached", "cached", "halving"))):
        command += ["-s", change]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = (tmp_path / "run/episodes.jsonl").read_bytes()
    assert "Who reaches the goal" in (tmp_path / "run/report.html").read_text()
    audits = rows.count(b'"arm": null') + rows.count(b'"arm":null')
    assert audits == 1
    assert (tmp_path / "run/episodes.csv").read_text().count("\n") == 1 + rows.count(b"\n") - audits
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (tmp_path / "run/episodes.jsonl").read_bytes() == rows


def test_planners_that_see_no_pictures_play_at_a_small_size(predicting_folder: str, tmp_path: Path) -> None:
    command = ["run", "pusht_goals_foretold", "--out", str(tmp_path / "run")]
    for change in (f"world={predicting_folder}", "episodes=1", "max_steps=1", "goal_ticks=2"):
        command += ["-s", change]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    (place,) = json.loads((tmp_path / "run/summary.json").read_text())["places"]
    arms = {arm["name"]: arm for arm in place["arms"]}
    assert arms["foretold"]["calls_per_action"] == 4 * 256
    assert arms["foretold"]["rank_agreement"] is None


@pytest.mark.parametrize(("change", "message"), [
    ({"reference": "still"}, "reference 'still' is not a planner's arm; those: fine, halving"),
    ({"audit": {"starts": 3}}, "audit.starts is 3 of 2 episodes"), ({"places": ["moon"]}, "places"),
    ({"arms": {}}, "arms"),
])
def test_bad_settings_are_refused(settings: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        runs(settings, **change)
