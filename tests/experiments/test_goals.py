"""The goal protocol in a tiny world: goals, attempts, audits, and that kills change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from wcsim.cli import app
from wcsim.config import read_yaml, validate
from wcsim.envs.pusht import PushT
from wcsim.errors import ConfigError
from wcsim.experiments.executor import Here
from wcsim.experiments.goal_starts import GoalStart, goal_start
from wcsim.experiments.goals import GoalJob, GoalRuns, GoalsConfig, attempt, goal_row, jobs_of, parts_of
from wcsim.experiments.goals_summary import summarise
from wcsim.experiments.policies import ExpertPolicyConfig, PolicyContext
from wcsim.experiments.work import Done

PLANNER = {
    "kind": "mpc", "horizon": 4, "rounds": 1, "candidates": 4, "elites": 2, "replan_every": 2,
    "fidelity": {"steps": 2, "context": 1}, "objective": {"kind": "latent_goal"},
}
STATE = {"kind": "state_goal", "every": 4, "reach": 0.3, "progress_weight": 0}
METRICS = ("agent_px", "block_px", "block_angle_deg")


@pytest.fixture(scope="module")
def settings(folder: str) -> dict[str, Any]:
    return {
        "kind": "goals", "name": "tiny", "world": folder, "task": {"name": "pusht", "options": {"start": "near"}},
        "episodes": 2, "goal_ticks": 3, "max_steps": 4, "fidelity": {"steps": 2}, "reference": "fine", "threads": 1,
        "within": {"px": 20.0, "deg": 20.0},
        "policies": [
            PLANNER | {"name": "fine", "fidelity": {"steps": 4}},
            PLANNER | {"name": "halving", "rungs": [{"survivors": 2, "fidelity": {"steps": 1}}], "objective": STATE},
            {"kind": "recorded", "name": "demonstrator"}, {"kind": "hold"}],
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
    summary.pop("sha256")  # of the timing too
    return summary


class Dying(Here):
    def run(self, function: Any, jobs: Any, needs: Any = None) -> Any:
        for job in jobs[:5]:
            yield Done(job, function(job))
        raise KeyboardInterrupt


class Refusing(Here):
    def run(self, function: Any, jobs: Any, needs: Any = None) -> Any:
        assert not jobs
        return iter(())


def goal_of(task: PushT, seed: int, ticks: int) -> GoalStart:
    demonstrator = ExpertPolicyConfig(noise=8.0).build(PolicyContext(task, None, num_lanes=1))
    return goal_start(task, seed, demonstrator, ticks=ticks)


def test_a_goal_is_where_the_demonstrator_is_and_doing_the_same_reaches_it(settings: dict[str, Any]) -> None:
    changes = {"goal_ticks": 12, "max_steps": 12, "audit": None, "demonstrator": {"kind": "expert", "noise": 8.0}}
    strict = validate(GoalsConfig, settings | changes | {"within": {"px": 1e-9, "deg": 1e-9}})
    _, task, world = parts_of(json.dumps(strict.model_dump(mode="json")))
    assert isinstance(task, PushT)
    goal, again = (goal_of(task, 730_003, 12) for _ in range(2))
    assert np.array_equal(goal.actions, again.actions)
    assert goal.actions.shape == (12, 2)
    assert goal.goal.values.keys() == {"agent", "block", "block_angle"}
    assert goal.goal.frame is not None
    assert again.goal.frame is not None
    assert np.array_equal(goal.goal.frame, again.goal.frame)
    assert goal.goal.frame.shape == (*task.frame_size, 3)
    job = GoalJob("", 3, "demonstrator", "truth")
    last = goal_row(strict, task, goal, attempt(strict, task, world, goal, job))
    assert [last[metric] for metric in METRICS] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    config = validate(GoalsConfig, settings | changes)
    near = goal_row(config, task, goal, attempt(config, task, world, goal, job))
    assert near["reached"]
    assert near["scene_reached"]
    assert near["steps"] <= 12


def test_who_repeats_a_demonstration_stays_at_its_end() -> None:
    goal = goal_of(PushT(start="near"), 730_003, 3)
    told = goal.episode(7, 730_003, "push", max_steps=5)
    assert (told.number, told.seed, told.instruction, told.goal) == (7, 730_003, "push", goal.goal)
    assert told.actions is not None
    np.testing.assert_array_equal(told.actions, [*goal.actions, goal.actions[-1], goal.actions[-1]])


def test_every_policy_plays_every_start_in_every_place(settings: dict[str, Any], whole: Path) -> None:
    rows = [json.loads(line) for line in (whole / "episodes.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 2 * 4 + 1
    summary = summary_of(whole)
    assert [place["name"] for place in summary["places"]] == ["truth", "world"]
    for place in summary["places"]:
        told = {policy["name"]: policy for policy in place["policies"]}
        assert told["fine"]["against"] is None
        assert told["hold"]["against"]["mcnemar_p"] <= 1.0
        assert told["fine"]["calls_per_action"] > 0 == told["hold"]["calls_per_action"]
        assert told["fine"]["gap"] == pytest.approx(told["fine"]["came"] - told["fine"]["promised"])
        assert told["halving"]["rank_agreement"] is not None
        assert told["fine"]["rank_agreement"] is None is told["hold"]["gap"]
    assert {one["name"]: one["success_rate"] for one in summary["places"][0]["policies"]}["demonstrator"] == 1.0
    scorings = {told["name"]: told for told in summary["audit"]["scorings"]}
    assert scorings.keys() == {"fine", "halving", "halving, rung"}
    assert (scorings["fine"]["tau"], scorings["fine"]["regret"]) == (1.0, 0.0)
    assert scorings["halving"]["true_regret"] >= 0


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


def test_a_summary_pairs_policies_by_start() -> None:
    config = {"policies": [{"name": name, "kind": "mpc"} for name in ("slow", "quick")], "places": ["truth"],
              "reference": "slow", "episodes": 3, "goal_ticks": 25, "max_steps": 50}
    rows = [{"episode": 2 * start + k, "start": start, "seed": start, "policy": name, "place": "truth", "steps": 2,
             "reached": (start + k) % 2 == 0, "scene_reached": True, **dict(zip(METRICS, (1.0, 2.0, 3.0), strict=True)),
             "clipped": 1, "plans": 1, "calls": 8, "promised": [1.0], "came": [1.5 + k], "rank_agreement": [],
             "regret": [], "prediction": [0.1], "act_ms": [ms * (start + 1)] * 2}
            for start in range(3) for k, (name, ms) in enumerate((("slow", 90.0), ("quick", 30.0)))]
    summary = summarise(rows, config, METRICS)
    slow, quick = summary["places"][0]["policies"]
    assert (slow["success_rate"], quick["success_rate"]) == pytest.approx((2 / 3, 1 / 3))
    assert quick["against"] == {"only_reference": 2, "only_this": 1, "mcnemar_p": 1.0}
    assert (slow["gap"], quick["gap"]) == (0.5, 1.5)
    assert summary["timing"]["places"][0]["policies"][1]["faster"] == pytest.approx(3.0)
    assert summarise(rows[::-1], config, METRICS) == summary
    assert [slow[metric] for metric in METRICS] == [1.0, 2.0, 3.0]
    assert slow["clipped"] == 1.0
    idle = summarise([row | {"plans": int(row["policy"] == "slow")} for row in rows], config, METRICS)
    assert idle["timing"]["places"][0]["policies"][1]["faster"] is None, "only planners are compared"


def test_the_packaged_protocol_is_the_named_one() -> None:
    config = validate(GoalsConfig, read_yaml("pusht_goals"))
    assert (config.episodes, config.goal_ticks, config.max_steps) == (50, 25, 50)
    assert config.within == {"px": 20.0, "deg": 20.0}
    assert set(config.places) == {"truth", "world"}
    assert config.first_seed + config.episodes < 900_000
    assert config.audit is not None
    assert len(jobs_of(config)) == 50 * 2 * len(config.policies) + config.audit.starts
    fine, cached = (policy.model_dump() for policy in config.policies if policy.name in ("uncached", "cached"))
    assert (fine.pop("name"), cached.pop("name")) == ("uncached", "cached")
    assert cached["fidelity"].pop("cache")["kind"] != fine["fidelity"].pop("cache")["kind"] == "none"
    assert fine == cached


def test_wcsim_run_plays_the_packaged_protocol_at_a_small_size(predicting_folder: str, tmp_path: Path) -> None:
    command = ["run", "pusht_goals", "--out", str(tmp_path / "run")]
    policies = read_yaml("pusht_goals")["policies"]
    for policy in policies:
        if policy.get("fidelity", {}).get("steps") == 35:
            policy["fidelity"] = policy["fidelity"] | {"steps": 16}
    for change in (f"world={predicting_folder}", "episodes=1", "max_steps=1", "goal_ticks=2", "fidelity.steps=16",
                   "audit={starts: 1, candidates: 2, horizon: 2, knots: 2}", f"policies={json.dumps(policies)}"):
        command += ["-s", change]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = (tmp_path / "run/episodes.jsonl").read_bytes()
    assert "Who reaches the goal" in (tmp_path / "run/report.html").read_text()
    audits = rows.count(b'"policy": null') + rows.count(b'"policy":null')
    assert audits == 1
    assert (tmp_path / "run/episodes.csv").read_text().count("\n") == 1 + rows.count(b"\n") - audits
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (tmp_path / "run/episodes.jsonl").read_bytes() == rows


def test_planners_that_render_nothing_play_at_a_small_size(predicting_folder: str, tmp_path: Path) -> None:
    command = ["run", "pusht_goals_predicted", "--out", str(tmp_path / "run")]
    for change in (f"world={predicting_folder}", "episodes=1", "max_steps=1", "goal_ticks=2"):
        command += ["-s", change]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    (place,) = json.loads((tmp_path / "run/summary.json").read_text())["places"]
    (told,) = (policy for policy in place["policies"] if policy["name"] == "predicted")
    assert told["calls_per_action"] == 4 * 256
    assert told["rank_agreement"] is None


@pytest.mark.parametrize(("change", "message"), [
    ({"reference": "hold"}, "reference 'hold' is not a planner; those: fine, halving"),
    ({"audit": {"starts": 3}}, "audit.starts is 3 of 2 episodes"), ({"places": ["moon"]}, "places"),
    ({"policies": []}, "policies"), ({"within": {}}, "within"),
    ({"within": {"px": 20.0}}, "a tolerance is needed for deg"),
    ({"policies": [PLANNER | {"name": "fine"}] * 2}, "policies must have different names, got fine, fine"),
])
def test_bad_settings_are_refused(settings: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        runs(settings, **change)
