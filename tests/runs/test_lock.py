"""One writer per run: real processes on one directory, and one that is killed while it holds the lock."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wcsim.errors import RunError
from wcsim.runs import lock
from wcsim.runs.lock import LOCK, RunLock
from wcsim.runs.run import Run

WRITER = """
import sys, time
from pathlib import Path
from wcsim.errors import RunError
from wcsim.runs.run import Run
try:
    with Run.resume(Path(sys.argv[1]), {"name": "shared"}, {}) as run:
        job = 0
        while not Path(sys.argv[2]).exists():
            run.record(str(job), [{"step": 0}], {"by": sys.argv[3]})
            job += 1
            time.sleep(0.02)
except RunError as error:
    sys.exit(str(error))
"""


def start_writer(path: Path, name: str) -> subprocess.Popen[str]:
    """A process that records jobs until there is a file `stop` beside its run."""
    command = [sys.executable, "-c", WRITER, str(path), str(path.parent / "stop"), name]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wrote(path: Path) -> bool:
    return (path / "episodes.jsonl").is_file() and (path / "episodes.jsonl").stat().st_size > 0


def wait_until(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while time.monotonic() < limit and not holds():
        time.sleep(0.01)


def test_of_two_processes_one_writes_and_the_other_is_told_who(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path / "run", name) for name in ("one", "two")]
    wait_until(lambda: any(writer.poll() is not None for writer in writers) and wrote(tmp_path / "run"))
    (tmp_path / "stop").touch()
    said = [writer.communicate(timeout=120)[1] for writer in writers]
    codes = [writer.returncode for writer in writers]
    assert sorted(codes) == [0, 1], said
    winner, loser = writers[codes.index(0)], said[codes.index(1)]
    assert f"is being written by process {winner.pid} since 20" in loser
    run = Run(tmp_path / "run")
    assert [row["job"] for row in run.episodes] == [str(job) for job in range(len(run.episodes))]
    assert len({row["by"] for row in run.episodes}) == 1
    assert len(run.steps) == len(run.episodes) > 0
    assert not (run.path / LOCK).exists()


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "run"
    writer = start_writer(path, "killed")
    wait_until(lambda: wrote(path))
    with pytest.raises(RunError, match=f"is being written by process {writer.pid} since 20"):
        Run.resume(path, {"name": "shared"}, {})
    assert Run(path).config == {"name": "shared"}, "reading needs no lock"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert (path / LOCK).exists()
    with Run.resume(path, {"name": "shared"}, {}) as run:
        assert run.done
        run.record("mine", [], {})
    assert not (path / LOCK).exists()


def test_one_object_at_a_time_writes_and_readers_never(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {}, {})
    with pytest.raises(RunError, match="is being written by process"):
        Run.open(run.path, {}, {})
    run.close()
    for closed in (run, Run(run.path)):
        with pytest.raises(RunError, match="opened for reading, or closed"):
            closed.record("x", [], {})
        with pytest.raises(RunError, match="opened for reading, or closed"):
            closed.write_summary({})
    Run.open(run.path, {}, {}).record("x", [], {})
    assert Run.open(run.path, {}, {}).done == {"x"}, "a lock ends with its run"


def test_a_run_that_fails_to_begin_leaves_nothing(tmp_path: Path) -> None:
    def measure() -> dict[str, float]:
        with pytest.raises(RunError, match="is being written by process"):
            Run.resume(tmp_path / "run", {}, {})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Run.resume(tmp_path / "run", {}, {}, measure=measure)
    assert list(tmp_path.iterdir()) == []


def test_without_flock_the_file_is_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "FCNTL", None)
    held = RunLock.take(tmp_path)
    with pytest.raises(RunError, match=r"by process \d+ since .*; if that process has ended, remove .*run\.lock"):
        RunLock.take(tmp_path)
    held.release()
    held.release()
    RunLock.take(tmp_path).release()
    assert list(tmp_path.iterdir()) == []
