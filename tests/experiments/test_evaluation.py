"""Policy evaluation in a tiny world: what is recorded, and that kills and workers change nothing."""

from __future__ import annotations

import csv
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from wcsim.cache.fidelity import FidelityConfig
from wcsim.config import read_yaml, validate
from wcsim.envs.lanes import load_world
from wcsim.envs.pusht import PushT
from wcsim.errors import ActionError, ConfigError, RunError
from wcsim.experiments.evaluation import Evaluation, EvaluationConfig
from wcsim.experiments.executor import Here, Processes
from wcsim.experiments.policies import ExpertPolicyConfig, PolicyContext
from wcsim.experiments.work import Done
from wcsim.report.evaluation import write_evaluation
from wcsim.rollout.engine import opening, rollout
from wcsim.rollout.places import Place, TruthPlace, WorldPlace
from wcsim.rollout.sinks import Recorded, Recorder, listen

POLICIES = [{"kind": "expert", "name": "expert"}, {"kind": "expert", "name": "noisy", "noise": 40.0},
            {"kind": "random", "name": "random"}]


@pytest.fixture(scope="module")
def settings(folder: str) -> dict[str, Any]:
    return {
        "name": "tiny", "world": folder, "task": {"name": "pusht", "options": {"start": "near"}}, "policies": POLICIES,
        "starts": 3, "max_steps": 2, "lanes": 2, "threads": 1,
        "fidelity": {"steps": 4, "cache": {"preset": "worldcache", "threshold": 0.5}},
    }


def evaluation(settings: dict[str, Any], **changes: Any) -> Evaluation:
    return Evaluation(validate(EvaluationConfig, settings | changes))


@pytest.fixture(scope="module")
def whole(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    return evaluation(settings).run(tmp_path_factory.mktemp("whole") / "run").path


def summary_of(path: Path) -> dict[str, Any]:
    """All that must repeat."""
    summary: dict[str, Any] = json.loads((path / "summary.json").read_text())
    del summary["timing"], summary["sha256"]
    return summary


class Refusing(Here):
    """An executor that nobody may use."""

    def run(self, function: Any, jobs: Any, needs: Any = None) -> Any:
        assert not jobs
        return iter(())


class Dying(Here):
    """Ends after so many jobs, as a kill would."""

    def __init__(self, jobs: int) -> None:
        self.left = jobs

    def run(self, function: Any, jobs: Any, needs: Any = None) -> Any:
        for job in jobs[: self.left]:
            yield Done(job, function(job))
        raise KeyboardInterrupt


def test_every_policy_is_played_in_every_place_from_the_same_starts(settings: dict[str, Any], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run = evaluation(settings).run(tmp_path / "run", progress=lambda *counts: told.append(counts))
    assert told == [(done, 18) for done in range(19)]
    assert len(run.episodes) == 3 * 3 * 3
    assert {row["episode"] for row in run.episodes} == set(range(27))
    assert {row["seed"] for row in run.episodes} == {710_000, 710_001, 710_002}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [policy["name"] for policy in summary["policies"]] == ["expert", "noisy", "random"]
    for statistic in ("pearson", "spearman", "mmrv"):
        assert {"uncached", "cached", "change", "change_interval"} <= summary[statistic].keys()
        assert summary[statistic] == summary["agreement"]["final_progress"][statistic]
    assert summary["cache"]["hit_rate"] > 0
    assert summary["estimator"]["progress_error"]["p95"] < 0.1
    with (tmp_path / "run" / "episodes.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(row["episode"]) for row in table] == list(range(27))
    means = {row["policy"]: [] for row in table}
    for row in table:
        if row["place"] == "cached":
            means[row["policy"]].append(float(row["final_progress"]))
    for policy in summary["policies"]:
        assert policy["cached"]["final_progress"] == pytest.approx(np.mean(means[policy["name"]]))


def test_without_a_truth_policies_are_ranked_and_nothing_else_is_claimed(settings: dict[str, Any], whole: Path,
                                                                         tmp_path: Path) -> None:
    run = evaluation(settings, places=["uncached", "cached"]).run(tmp_path / "run")
    assert len(run.episodes) == 3 * 3 * 2
    summary, other = summary_of(run.path), summary_of(whole)
    assert summary["agreement"] is summary["estimator"] is summary["caching"]["final_progress_error"] is None
    assert "pearson" not in summary
    for policy, same in zip(summary["policies"], other["policies"], strict=True):
        assert policy["cached"] == same["cached"]
        assert "truth" not in policy
    page = write_evaluation(run).read_text()
    assert "Which policy is best in the world?" in page
    assert "Agreement with the truth" not in page
    with pytest.raises(ConfigError, match="allowed: uncached, cached and, if wanted, truth"):
        evaluation(settings, places=["truth", "cached"])


def test_a_second_run_does_nothing(settings: dict[str, Any], whole: Path) -> None:
    def contents() -> dict[str, Any]:
        return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in whole.iterdir()}

    before = contents()
    evaluation(settings).run(whole, executor=Refusing())
    assert contents() == before
    with pytest.raises(RunError, match=r"starts \(stored 3, given 4\)"):
        evaluation(settings, starts=4).run(whole)


@pytest.mark.parametrize("jobs", [0, 1, 7])
def test_a_killed_evaluation_resumes_to_the_same_summary(
    settings: dict[str, Any], whole: Path, tmp_path: Path, jobs: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluation(settings).run(tmp_path / "killed", executor=Dying(jobs))
    killed = tmp_path / "killed" / "episodes.jsonl"
    killed.write_bytes(killed.read_bytes()[:-7])  # torn in the middle of a row, and so in the middle of a job
    evaluation(settings).run(tmp_path / "killed")
    assert summary_of(tmp_path / "killed") == summary_of(whole)
    assert (tmp_path / "killed" / "episodes.csv").read_text() == (whole / "episodes.csv").read_text()


def test_a_directory_that_a_kill_left_half_made_is_made_again(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "steps.jsonl").touch()
    evaluation(settings, starts=1, max_steps=1).run(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(RunError, match="is not a run"):
        evaluation(settings).run(tmp_path / "mine")


@pytest.mark.slow
def test_workers_and_a_real_kill_change_nothing(settings: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "wcsim.cli", "evaluate", str(config), "--out", str(tmp_path / "run")]
    child = subprocess.Popen([*command, "--workers", "2"], stdout=subprocess.DEVNULL)
    rows = tmp_path / "run" / "episodes.jsonl"
    limit = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < limit and not (rows.is_file() and rows.stat().st_size):
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    subprocess.run([*command, "--workers", "2"], check=True, stdout=subprocess.DEVNULL)
    assert summary_of(tmp_path / "run") == summary_of(whole)


def test_processes_do_what_here_does_and_tell_of_errors() -> None:
    values = {done.job: done.value for done in Processes(2).run(math.factorial, [3, 4, 5])}
    assert values == {done.job: done.value for done in Here().run(math.factorial, [3, 4, 5])} == {3: 6, 4: 24, 5: 120}
    assert list(Processes(2).run(math.factorial, [])) == []
    with pytest.raises(ValueError, match="negative"):
        list(Here().run(math.factorial, [-1]))
    with pytest.raises(ConfigError, match="workers must be 1 or more, got 0"):
        Processes(0)


def played(task: PushT, place: Place, numbers: Sequence[int], *, noise: float, max_steps: int) -> list[Recorded]:
    """Episodes of an expert in some lanes of a place."""
    starts, episodes = zip(*(opening(task, number, 700_000 + number) for number in numbers), strict=True)
    policy = ExpertPolicyConfig(noise=noise).build(PolicyContext(task, None, len(numbers)))
    recorder = Recorder()
    try:
        listen(rollout(task, {"here": place}, policy, episodes, starts, acts_in="here", max_steps=max_steps),
               [recorder])
    finally:
        place.close()
    return recorder.episodes


def progress_of(kept: Recorded) -> list[float]:
    return [float(estimate.progress[0]) for estimate in kept.places["here"].scored[1:]]


@pytest.mark.parametrize("where", ["world", "truth"])
def test_lanes_do_not_depend_on_their_neighbours(folder: str, where: str) -> None:
    task = PushT(start="near")
    world = load_world(folder)

    def place() -> Place:
        return WorldPlace(task, world, FidelityConfig(steps=3).build(world.spec)) if where == "world" else (
            TruthPlace(task))

    together = played(task, place(), [0, 1], noise=10.0, max_steps=3)
    (alone,) = played(task, place(), [1], noise=10.0, max_steps=3)
    np.testing.assert_array_equal(together[1].actions, alone.actions)
    np.testing.assert_array_equal(together[1].places["here"].frames, alone.places["here"].frames)
    assert progress_of(together[1]) == progress_of(alone)
    assert len(together[0].actions) == 3


def test_a_success_ends_its_lane_alone() -> None:
    task = PushT(start="near")
    episodes = played(task, TruthPlace(task), [0, 1], noise=0.0, max_steps=60)
    assert any(kept.ended and len(kept.rewards) < 60 for kept in episodes)
    for kept in episodes:
        progress = progress_of(kept)
        assert kept.ended == (progress[-1] > 0.95)
        assert all(value <= 0.95 for value in progress[:-1])


def test_the_packaged_evaluation_is_valid() -> None:
    config = validate(EvaluationConfig, read_yaml("pusht_evaluate"))
    assert len(config.policies) >= 6
    assert config.starts >= 50
    assert config.first_seed + config.starts < 900_000


def test_policies_need_names_of_their_own(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="different names, got expert twice"):
        evaluation(settings, policies=[POLICIES[0], POLICIES[0]])


def test_a_policy_that_is_clipped_too_often_ends_the_evaluation(settings: dict[str, Any], tmp_path: Path) -> None:
    far = {"kind": "function", "name": "far", "function": "clipped_policy:far"}
    clipped = evaluation(settings, policies=[far, *POLICIES[:1]], max_clipped=0.9)
    with pytest.raises(ActionError, match="policy 'far' asked for actions out of bounds in 4 of 4 steps"):
        clipped.run(tmp_path / "run")
