"""Jobs on a Ray cluster of two nodes of one CPU, both on this machine: lost workers, nodes and drivers cost nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import yaml

from executor_jobs import careful, deadly, gpus_here, slow_square, stubborn  # type: ignore[import-not-found]  # beside this file
from wcsim.config import validate
from wcsim.errors import RunError
from wcsim.experiments.cluster import Ray
from wcsim.experiments.evaluation import Evaluation, EvaluationConfig
from wcsim.experiments.executor import Executor, Here, Processes
from wcsim.experiments.jobs import complete
from wcsim.experiments.work import Done, Failed, Needs
from wcsim.runs.run import Run

os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
KILLS = int(os.environ.get("WCSIM_KILLS", "3"))
"""Nodes that are killed at random moments of one run."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs, which lives as long as the driver, and nodes that may die."""
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={
        "num_cpus": 0, "object_store_memory": NODE["object_store_memory"], "include_dashboard": False})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def nodes(cluster: Any) -> Iterator[list[Any]]:
    """Two of them."""
    some = [cluster.add_node(**NODE) for _ in range(2)]
    yield some
    for node in some:
        cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def settings(folder: str) -> dict[str, Any]:
    return {
        "name": "tiny", "world": folder, "task": {"name": "pusht", "options": {"start": "near"}},
        "policies": [{"kind": "expert", "name": "expert"}, {"kind": "random", "name": "random"}],
        "starts": 4, "max_steps": 2, "lanes": 1, "threads": 1,
        "fidelity": {"steps": 4, "cache": {"preset": "worldcache", "threshold": 0.5}},
    }


def evaluate(settings: dict[str, Any], path: Path, executor: Executor | None = None) -> Run:
    return Evaluation(validate(EvaluationConfig, settings)).run(path, executor=executor)


def told(path: Path) -> tuple[dict[str, Any], str, list[str]]:
    """All of a run that no clock says, and its episodes."""
    summary = json.loads((path / "summary.json").read_text())
    del summary["timing"], summary["sha256"]
    rows = [json.loads(line)["job"] for line in (path / "episodes.jsonl").read_text().splitlines()]
    return summary, (path / "episodes.csv").read_text(), sorted(rows)


class Partly:
    """Another executor, which a kill ends after some jobs."""

    def __init__(self, executor: Executor, jobs: int) -> None:
        self.executor, self.jobs = executor, jobs

    def run(self, function: Any, jobs: Any, needs: Any = None) -> Any:
        for number, done in enumerate(self.executor.run(function, jobs, needs)):
            if number == self.jobs:
                raise KeyboardInterrupt
            yield done


def test_a_run_may_begin_here_go_on_over_ray_and_end_in_processes(
    settings: dict[str, Any], nodes: list[Any], tmp_path: Path
) -> None:
    whole, mixed = evaluate(settings, tmp_path / "whole").path, tmp_path / "mixed"
    for executor, jobs in ((Here(), 5), (Ray(), 8)):
        with pytest.raises(KeyboardInterrupt):
            evaluate(settings, mixed, Partly(executor, jobs))
    assert len(Run(mixed).episodes) == 13
    evaluate(settings, mixed, Processes(2))
    assert told(mixed) == told(whole)
    evaluate(settings, tmp_path / "ray", Ray())
    assert told(tmp_path / "ray") == told(whole)
    workers = json.loads((tmp_path / "ray/progress.json").read_text())["workers"]
    assert len(workers) == 2


def test_nodes_that_die_at_random_moments_lose_and_double_no_episode(
    settings: dict[str, Any], cluster: Any, nodes: list[Any], tmp_path: Path
) -> None:
    changed = settings | {"starts": max(36, 6 * KILLS)}
    whole = evaluate(changed, tmp_path / "whole", Processes(2)).path
    killed, rng = list[float](), random.Random(0)
    with ThreadPoolExecutor(1) as pool:  # Ray starts nodes in the main thread alone
        run, began = pool.submit(evaluate, changed, tmp_path / "run", Ray()), time.monotonic()
        while len(killed) < KILLS and not wait([run], timeout=rng.uniform(1.0, 8.0)).done:
            cluster.remove_node(nodes.pop(rng.randrange(2)), allow_graceful=False)
            killed.append(time.monotonic() - began)
            nodes.append(cluster.add_node(**NODE))
        run.result()
    print(f"nodes killed after {[round(second, 1) for second in killed]} s")
    assert len(killed) == KILLS, "the run was over too soon"
    assert told(tmp_path / "run") == told(whole)


def test_a_worker_that_dies_costs_its_job_alone(nodes: list[Any], tmp_path: Path) -> None:
    done = {one.job: one for one in Ray().run(deadly, [1, 2, -1, 3, 4])}
    assert {job: one.result for job, one in done.items() if job > 0} == {1: 1, 2: 2, 3: 6, 4: 24}
    assert isinstance(done[-1].result, Failed)
    assert done[-1].result.error.startswith("its worker died: ")
    markers = [tmp_path / str(number) for number in range(4)]  # dies the first time, and does it the second
    assert {one.job: one.result for one in Ray().run(careful, markers)} == dict.fromkeys(markers, "done")


def test_a_job_that_always_fails_is_tried_and_named(nodes: list[Any], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^1 of 4 jobs failed, the others are recorded in .*: job=-1: ValueError: "):
        complete(Run.resume(tmp_path / "run", {}, {}), {job: [f"job={job}"] for job in (2, -1, 3, 4)}, stubborn,
                 summarise=lambda run: {}, executor=Ray())
    assert Run(tmp_path / "run").done == {"job=2", "job=3", "job=4"}
    assert "Traceback" in next((tmp_path / "run/logs").glob("job=-1*")).read_text()


def test_a_cluster_that_grows_is_used(cluster: Any, tmp_path: Path) -> None:
    first, found = cluster.add_node(**NODE), list[Done[Any, Any]]()
    ended = Ray().run(slow_square, list(range(40)))
    found.append(next(ended))
    second = cluster.add_node(**NODE)
    found += list(ended)
    assert sorted(one.value for one in found) == [number**2 for number in range(40)]
    assert len({one.where for one in found}) == 2
    for node in (first, second):
        cluster.remove_node(node, allow_graceful=False)


def test_needs_are_asked_for(cluster: Any) -> None:
    node = cluster.add_node(num_cpus=4, num_gpus=2, object_store_memory=NODE["object_store_memory"])
    seen = [one.value for one in Ray().run(slow_square, list(range(8)), Needs(cpus=2))]
    assert len(seen) == 8
    assert {one.value for one in Ray(workers=2).run(gpus_here, list(range(8)), Needs(gpus=1))} <= {"0", "1"}
    assert {one.value for one in Ray(workers=1, gpus=2).run(gpus_here, [0], Needs(gpus=1))} == {"0,1"}
    cluster.remove_node(node, allow_graceful=False)


def test_a_driver_that_is_killed_goes_on(settings: dict[str, Any], tmp_path: Path) -> None:
    """In a process of its own, with a Ray of its own."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "wcsim.cli", "evaluate", str(tmp_path / "config.yaml"), "--out",
               str(tmp_path / "run"), "--executor", "ray", "--workers", "1"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    rows, limit = tmp_path / "run/episodes.jsonl", time.monotonic() + 300
    while child.poll() is None and time.monotonic() < limit and not (rows.is_file() and rows.stat().st_size):
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    recorded = rows.read_bytes().count(b"\n")
    assert 0 < recorded < 2 * 3 * settings["starts"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert told(tmp_path / "run") == told(evaluate(settings, tmp_path / "whole").path)
