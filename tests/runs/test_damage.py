"""Files of a run that were cut, emptied or edited are found, and the message names file and episode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wcsim.errors import RunError
from wcsim.runs.run import Run

CONFIG, MANIFEST = {"name": "first"}, {"device": "cpu"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two episodes of two steps, with arrays."""
    with Run.create(tmp_path / "run", CONFIG, MANIFEST) as run:
        for job in ("start=0", "start=1"):
            run.save_arrays(job.replace("=", "_"), frames=np.arange(6))
            run.record(job, [{"horizon": 1, "error": 0.5}, {"horizon": 2, "error": 0.25}], {"success": True})
    return tmp_path / "run"


def rewrite(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: (path / file).write_bytes(change((path / file).read_bytes())) and None


def drop_sums(content: bytes) -> bytes:
    rows = [json.loads(line) for line in content.splitlines()]
    del rows[0]["sha256"]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize(("damage", "message"), [
    (rewrite("steps.jsonl", lambda old: b""), r"steps\.jsonl: the steps of start=0 are not as they were"),
    (rewrite("steps.jsonl", lambda old: old[:-9]), r"steps\.jsonl: the steps of start=1 are not"),
    (rewrite("steps.jsonl", lambda old: old.replace(b"0.25", b"0.26", 1)), "the steps of start=0 are not"),
    (rewrite("steps.jsonl", lambda old: old.replace(b"start=1", b"start=0")), "the steps of start=0 are not"),
    (rewrite("steps.jsonl", lambda old: old + old.splitlines(keepends=True)[-1]), "the steps of start=1 are not"),
    (rewrite("steps.jsonl", lambda old: old[:20] + b"\n" + old[20:]), r"steps\.jsonl line 1 is not JSON"),
    (rewrite("episodes.jsonl", lambda old: old.replace(b"true", b"false", 1)), r"episodes\.jsonl line 1, start=0, is"),
    (rewrite("episodes.jsonl", lambda old: old.replace(b"start=1", b"start=2")), "line 2, start=2, is not as it was"),
    (rewrite("episodes.jsonl", lambda old: old + old), "line 3: start=0 was recorded before"),
    (rewrite("episodes.jsonl", lambda old: b""), r"episodes\.jsonl lacks episodes whose steps .*: start=0, start=1"),
    (rewrite("episodes.jsonl", drop_sums), "line 1, start=0, has no checksums"),
    (rewrite("manifest.json", lambda old: old[:10]), r"manifest\.json is not JSON"),
    (rewrite("manifest.json", lambda old: old.replace(b"cpu", b"cuda")), r"manifest\.json is not as it was written"),
    (rewrite("manifest.json", lambda old: old.replace(b'"sha256": {', b'"sha256": [], "x": {')), "as it was written"),
    (rewrite("config.yaml", lambda old: old.replace(b"first", b"second")), r"config\.yaml is not as it was written"),
])
def test_damaged_rows_are_named_to_readers_and_writers(
    path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(RunError, match=message):
        Run(path)
    with pytest.raises(RunError, match=message):
        Run.resume(path, CONFIG, MANIFEST)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_damaged_arrays_are_named(path: Path) -> None:
    file = path / "episodes/start_1.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    message = r"start_1\.npz, the arrays of start=1, is not as it was recorded"
    assert Run(path).load_arrays("start_0")["frames"].tolist() == list(range(6))
    with pytest.raises(RunError, match=message):
        Run(path).load_arrays("start_1")
    with pytest.raises(RunError, match=message):
        Run.open(path, CONFIG, MANIFEST)
    file.unlink()
    with pytest.raises(RunError, match=r"start_1\.npz, the arrays of start=1, is missing"):
        Run.open(path, CONFIG, MANIFEST)
    file.write_bytes(whole)
    with Run.open(path, CONFIG, MANIFEST) as run, pytest.raises(RunError, match="'start_1' belong to start=1"):
        run.save_arrays("start_1", frames=np.arange(7))


def test_what_a_kill_leaves_is_no_damage(path: Path) -> None:
    for name in ("steps.jsonl", "episodes.jsonl"):
        with (path / name).open("ab") as file:
            file.write(b'{"job": "start=2", "hor')
    (path / "episodes/start_2.npz").write_bytes(b"half")
    assert Run(path).done == {"start=0", "start=1"}
    with pytest.raises(RunError, match=r"start_2\.npz does not load"):
        Run(path).load_arrays("start_2")
    with Run.open(path, CONFIG, MANIFEST) as run:
        run.save_arrays("start_2", frames=np.arange(6))
        run.record("start=2", [{"horizon": 1}], {"success": False})
    assert Run(path).load_arrays("start_2")["frames"].tolist() == list(range(6))
    assert len(Run(path).steps) == 5


def test_a_summary_that_was_edited_is_named(path: Path) -> None:
    with Run.open(path, CONFIG, MANIFEST) as run:
        run.write_summary({"score": 0.5, "none": float("nan")})
    assert Run(path).read_summary() == {"score": 0.5, "none": None}
    file = path / "summary.json"
    file.write_bytes(file.read_bytes().replace(b"0.5", b"0.9"))
    with pytest.raises(RunError, match=r"summary\.json is not as it was written"):
        Run(path).read_summary()


def test_a_run_with_nothing_recorded_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "run"
    Run.create(path, CONFIG, MANIFEST).close()
    (path / "episodes").mkdir()
    (path / "progress.json").write_text("{}")
    with Run.resume(path, {"name": "second"}, {"device": "cuda"}) as run:
        assert (run.config, run.manifest["device"]) == ({"name": "second"}, "cuda")
        with pytest.raises(RunError, match="being written"):
            Run.resume(path, CONFIG, MANIFEST)
        run.record("start=0", [], {})
    with pytest.raises(RunError, match=r"another configuration: name .*--fork"):
        Run.resume(path, CONFIG, MANIFEST)


def test_what_is_not_ours_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run"
    Run.create(path, CONFIG, MANIFEST).close()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="another configuration"):
        Run.resume(path, {"name": "second"}, MANIFEST)
    assert (path / "notes.txt").read_text() == "mine"
