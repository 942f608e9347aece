"""Executors: what a job that fails or kills its process does to the others, GPUs by slot, parcels, and progress."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from executor_jobs import deadly, gpus_here, stubborn  # type: ignore[import-not-found]  # beside this file
from wcsim.cache.fidelity import FidelityConfig
from wcsim.envs.lanes import load_world
from wcsim.errors import CheckpointError, ConfigError, RunError
from wcsim.experiments.cluster import check_reachable, room
from wcsim.experiments.executor import Executor, Here, Processes, executor_of, gpu_slots, visible_gpus
from wcsim.experiments.jobs import complete
from wcsim.experiments.parcels import pack, unpack
from wcsim.experiments.watch import log_of, status_of
from wcsim.experiments.work import LOG_CHARACTERS, TRIES, Failed, Needs, perform
from wcsim.runs.run import Run
from wcsim.world.checkpoints import find_world, place_world
from wcsim.world.footprint import footprint
from wcsim.world.world import World


def test_what_a_job_prints_and_how_it_fails_is_kept() -> None:
    done = perform(stubborn, 3)
    assert (done.value[0].row["value"], done.log) == (6, "at 3\n")
    lost = perform(stubborn, -1)
    assert isinstance(lost.result, Failed)
    assert lost.result.error == "ValueError: factorial() not defined for negative values"
    assert "in stubborn" in lost.result.trace
    assert not lost.result.final
    with pytest.raises(RunError, match="not defined for negative"):
        _ = lost.value
    assert len(perform(print, "x" * 10**5).log) == LOG_CHARACTERS
    refused = perform(find_world, "nowhere")
    assert isinstance(refused.result, Failed)
    assert refused.result.final  # no other place helps


@pytest.mark.slow
def test_a_process_that_dies_takes_no_other_job_along() -> None:
    done = {one.job: one.result for one in Processes(2).run(deadly, [1, 2, -1, 3, 4])}
    assert {job: result for job, result in done.items() if job > 0} == {1: 1, 2: 2, 3: 6, 4: 24}
    assert done[-1] == Failed(f"its process died, {TRIES} times (out of memory?)")


def test_every_gpu_has_its_worker() -> None:
    assert gpu_slots(1, 4, ["0", "1", "2", "3"]) == ["0", "1", "2", "3"]
    assert gpu_slots(0.5, 4, ["0", "1"]) == ["0", "1", "0", "1"]
    assert gpu_slots(0.5, 2, ["0", "1"]) == ["0", "1"]
    assert gpu_slots(2, 2, ["4", "5", "6", "7", "8"]) == ["4,5", "6,7"]
    with pytest.raises(ConfigError, match="4 workers of 1 GPUs each; there is room for 2 on the 2 of this machine"):
        gpu_slots(1, 4, ["0", "1"])


def test_workers_see_the_gpu_of_their_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7")
    assert visible_gpus() == ["5", "7"]
    seen = {done.value for done in Processes(2).run(gpus_here, range(8), Needs(gpus=1))}
    assert seen <= {"5", "7"}
    with pytest.raises(ConfigError, match="3 workers"):
        next(Processes(3).run(gpus_here, range(8), Needs(gpus=1)))
    assert {done.value for done in Processes(1, gpus=2.0).run(gpus_here, [0], Needs(gpus=1))} == {"5,7"}


def test_the_executor_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(executor_of(), Here)
    assert isinstance(executor_of(workers=2), Processes)
    for name in ("slurm", "ray://", "ray:6379"):
        with pytest.raises(ConfigError, match="is unknown; give ray, or ray://ADDRESS"):
            executor_of(name)
    monkeypatch.setattr("wcsim.experiments.cluster.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs Ray, which is not installed: pip install 'wcsim\[ray\]'"):
        executor_of("ray")


def test_a_cluster_that_nobody_answers_for_is_refused_at_once() -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"):
        with pytest.raises(ConfigError, match=f"no Ray cluster at {address}: "):
            check_reachable(address)
    check_reachable("auto")  # Ray's own word


def test_room_is_what_is_scarcest() -> None:
    assert room({"CPU": 8.0, "GPU": 4.0, "memory": 1e9}, Needs(cpus=1, gpus=0.5)) == 8
    assert room({"CPU": 8.0, "GPU": 1.0, "memory": 1e9}, Needs(cpus=1, gpus=0.5)) == 2
    assert room({"CPU": 8.0, "memory": 1e9}, Needs(memory=4 * 10**8)) == 2
    assert room({}, Needs()) == 1


class AsInWorkers(Here):
    """What workers do, without any."""

    def run(self, function: Any, jobs: Any, needs: Any = None) -> Any:
        return (perform(function, job) for job in jobs)


@pytest.mark.parametrize("executor", [AsInWorkers(), pytest.param(Processes(2), marks=pytest.mark.slow)])
def test_a_job_that_always_fails_leaves_the_others(tmp_path: Path, executor: Executor) -> None:
    def again(jobs: list[int]) -> Run:
        path = tmp_path / "run"
        return complete(Run.resume(path, {}, {}), {job: [f"job={job}"] for job in jobs}, stubborn,
                        summarise=lambda run: {"sum": sum(row["value"] for row in run.episodes)},
                        executor=executor)

    with pytest.raises(RunError, match=r"^1 of 4 jobs failed, .*: job=-1: ValueError: .* \(traceback in .*logs/job=-1"):
        again([2, -1, 3, 4])
    folder = tmp_path / "run"
    assert Run(folder).done == {"job=2", "job=3", "job=4"}
    assert not (folder / "summary.json").exists()
    told = log_of(folder, ["job=-1"]).read_text()
    assert told.startswith("job=-1\non ")
    assert "at -1\nTraceback" in told
    status = status_of(folder)
    assert status.line == "3 of 4 jobs, 3 episodes, 1 failed, stopped"
    assert sum(jobs for _, jobs, _ in status.workers) == 4
    assert again([2, 3, 4]).read_summary() == {"sum": 2 + 6 + 24}


def test_another_process_sees_how_far_a_run_is(tmp_path: Path) -> None:
    lines: list[str] = []

    def look(done: int, total: int) -> None:
        lines.append(status_of(tmp_path / "run").line)

    complete(Run.resume(tmp_path / "run", {}, {}), {job: [f"job={job}"] for job in (1, 2, 3)}, stubborn,
             summarise=lambda run: {}, progress=look)
    assert lines[0].startswith("0 of 3 jobs, 0 episodes, written by process")
    assert lines[2].startswith("2 of 3 jobs, 2 episodes, ")
    assert f"left, written by process {os.getpid()} since" in lines[2]
    assert status_of(tmp_path / "run").line == "3 of 3 jobs, 3 episodes, ended"
    assert status_of(tmp_path / "run").left_s == 0
    (tmp_path / "run/progress.json").unlink()
    with pytest.raises(RunError, match=r"has no progress\.json"):
        status_of(tmp_path / "run")


def test_a_world_travels_as_bytes(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wcsim.world.checkpoints._PLACED", {})
    shutil.copytree(folder, tmp_path / "there")
    name, store = str(tmp_path / "there"), list[np.ndarray]()

    def put(content: np.ndarray) -> int:
        store.append(content)
        return len(store) - 1

    parcel = pack(name, put)
    assert unpack(parcel, store.__getitem__, tmp_path / "cache") == tmp_path / "there"  # it is here: nothing to fetch
    before = World.load(name).empty_state().latents.shape
    shutil.rmtree(tmp_path / "there")
    with pytest.raises(CheckpointError, match="neither a folder"):
        find_world(name)
    unpacked = unpack(parcel, store.__getitem__, tmp_path / "cache")
    assert unpacked.parent == tmp_path / "cache"
    assert World.load(name).empty_state().latents.shape == before
    assert unpack(parcel, lambda kept: pytest.fail("fetched twice"), tmp_path / "cache") == unpacked
    place_world(name, tmp_path)
    assert find_world(name) == tmp_path


def test_the_footprint_of_a_folder_is_that_of_its_world(folder: str) -> None:
    world = load_world(folder)
    fidelity = FidelityConfig(steps=2).build(world.spec)
    weights, need = footprint(Path(folder), fidelity)
    assert need == world.memory(fidelity)
    parts: list[Any] = [world.transformer, world.codec]
    assert weights == 4 * sum(weight.numel() for part in parts for weight in part.state_dict().values())
