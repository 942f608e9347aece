from __future__ import annotations

import json
import math
import re
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wcsim.errors import ConfigError, RunError
from wcsim.runs import files, manifest
from wcsim.runs.run import Run

CONFIG = {"name": "demo", "cache": {"kind": "worldcache", "threshold": 0.05}, "seeds": [1, 2], "small": 1e-05}
MANIFEST = {"seeds": {"episodes": [1, 2]}}


def job_of(episode: int) -> str:
    return f"start={episode}"


def steps_of(episode: int) -> list[dict[str, Any]]:
    return [{"episode": episode, "job": job_of(episode), "horizon": h, "psnr_db": 30.1 / h, "lost": math.nan}
            for h in range(1, episode + 3)]


def episode_of(episode: int) -> dict[str, Any]:
    return {"episode": episode, "job": job_of(episode), "success": episode % 2 == 0, "coverage": 0.1 * episode}


def record(run: Run, episodes: range) -> None:
    for episode in episodes:
        if job_of(episode) not in run.done:
            run.record(job_of(episode), steps_of(episode), episode_of(episode))


def made(path: Path, manifest: dict[str, Any]) -> Path:
    """A run without episodes that nobody writes."""
    with Run.create(path, CONFIG, manifest):
        return path


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs" / "demo", CONFIG, MANIFEST)
    record(run, range(2))
    run.write_summary({"success_rate": np.float64(0.5), "speedup": math.inf, "curve": np.array([1.0, math.nan])})
    run.close()
    for other in (Run(run.path), Run.open(run.path, CONFIG, MANIFEST)):
        assert (other.config, other.manifest) == (CONFIG, {"format": manifest.FORMAT, **MANIFEST})
        assert (other.steps, other.episodes) == (run.steps, run.episodes)
        assert other.read_summary() == {"success_rate": 0.5, "speedup": None, "curve": [1.0, None]}
        other.close()
    assert run.episodes == [episode_of(0), episode_of(1)]
    assert run.steps[0] == {"episode": 0, "job": "start=0", "horizon": 1, "psnr_db": 30.1, "lost": None}
    assert list(contents(run.path)) == [
        "config.yaml", "episodes.jsonl", "manifest.json", "steps.jsonl", "summary.json",
    ]  # fmt: skip


def test_json_has_sorted_keys_and_no_nan(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG, MANIFEST)
    run.record("x", [], {"b": math.nan, "a": np.float32(0.5), "c": (np.int64(1), -math.inf, 0.1)})
    text = (run.path / "episodes.jsonl").read_text()
    assert re.sub("[0-9a-f]{64}", "#", text) == (
        '{"a": 0.5, "b": null, "c": [1, null, 0.1], "job": "x", "sha256": {"arrays": {}, "row": "#", "steps": "#"}}\n')


@pytest.mark.parametrize("kind", ["empty", "run", "file", "dangling"])
def test_what_exists_is_refused_and_untouched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "empty":
        path.mkdir()
    elif kind == "run":
        with Run.create(path, CONFIG, MANIFEST) as run:
            record(run, range(1))
    elif kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path)
    with pytest.raises(RunError, match="exists"):
        Run.create(path, CONFIG, MANIFEST)
    assert contents(tmp_path) == before
    assert not (tmp_path / "elsewhere").exists()


def test_a_config_that_yaml_cannot_keep_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="YAML"):
        Run.create(tmp_path / "run", {"path": object()}, MANIFEST)
    with pytest.raises(TypeError):
        Run.create(tmp_path / "run", CONFIG, {"device": object()})
    assert list(tmp_path.iterdir()) == []


def test_another_config_is_refused_by_its_keys(tmp_path: Path) -> None:
    path = made(tmp_path / "run", MANIFEST)
    before = contents(path)
    other = {**CONFIG, "cache": {"kind": "worldcache", "threshold": 0.08}, "episodes": 4}
    del other["small"]
    with pytest.raises(RunError) as caught:
        Run.open(path, other, MANIFEST)
    message = str(caught.value)
    assert "cache.threshold (stored 0.05, given 0.08)" in message
    assert "episodes (stored nothing, given 4)" in message
    assert "small (stored 1e-05, given nothing)" in message
    assert "kind" not in message
    assert "seeds" not in message
    assert contents(path) == before


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match=r"has no config\.yaml"):
            Run.open(path, CONFIG, MANIFEST)
    assert list(tmp_path.iterdir()) == []


def writes() -> list[tuple[str, bytes]]:
    written = []
    with tempfile.TemporaryDirectory() as folder, Run.create(Path(folder) / "run", CONFIG, MANIFEST) as run:
        for episode in range(3):
            before = contents(run.path)
            record(run, range(episode + 1))
            written += [(name, contents(run.path)[name][len(before[name]):])
                        for name in ("steps.jsonl", "episodes.jsonl")]
    return written


WRITES = writes()
"""What a run of three episodes writes, in the order in which it reaches the disk."""


@settings(max_examples=30, deadline=None)
@given(left=st.integers(0, sum(len(content) for _, content in WRITES)))
def test_killed_at_any_byte_and_resumed_equals_unbroken(left: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        killed = Path(folder) / "killed"
        Run.create(killed, CONFIG, MANIFEST).close()
        for name, content in WRITES:
            with (killed / name).open("ab") as file:
                file.write(content[:left])
            left = max(0, left - len(content))

        complete = (killed / "episodes.jsonl").read_bytes().count(b"\n")
        seen = Run(killed)
        resumed = Run.open(killed, CONFIG, MANIFEST)
        assert len(resumed.episodes) == len(seen.episodes) == complete
        assert resumed.steps == seen.steps
        record(resumed, range(3))
        for name in ("steps.jsonl", "episodes.jsonl"):
            assert (killed / name).read_bytes() == b"".join(content for other, content in WRITES if other == name)
        assert resumed.steps == Run(killed).steps
        resumed.close()


def test_reading_changes_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG, MANIFEST)
    record(run, range(1))
    files.append(run.path / "steps.jsonl", files.to_lines(steps_of(1)))
    files.append(run.path / "episodes.jsonl", b'{"episode": 1')
    run.close()
    before = contents(run.path)
    assert Run(run.path).steps == run.steps
    assert contents(run.path) == before
    Run.open(run.path, CONFIG, MANIFEST)
    assert contents(run.path) != before


@pytest.mark.parametrize("damage", [b"{oops\n", b"[1]\n", b"\x00\x00\n", b"\n"])
def test_damage_before_the_end_is_an_error_not_a_guess(tmp_path: Path, damage: bytes) -> None:
    run = Run.create(tmp_path / "run", CONFIG, MANIFEST)
    record(run, range(1))
    files.append(run.path / "episodes.jsonl", damage)
    run.close()
    before = contents(run.path)
    with pytest.raises(RunError, match=r"episodes\.jsonl line 2"):
        Run.open(run.path, CONFIG, MANIFEST)
    assert contents(run.path) == before


def test_an_episode_is_recorded_once_and_whole(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG, MANIFEST)
    record(run, range(1))
    before = contents(run.path)
    with pytest.raises(RunError, match="start=0 is already recorded"):
        run.record("start=0", steps_of(0), episode_of(0))
    with pytest.raises(ValueError, match="steps of start=1 name start=2"):
        run.record("start=1", steps_of(2), episode_of(1))
    with pytest.raises(TypeError):
        run.record("start=1", steps_of(1), {"agent": object()})
    assert contents(run.path) == before
    assert len(run.episodes) == 1


def test_arrays_are_kept_whole(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG, MANIFEST)
    frames, hit = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), np.array([True, False])
    run.save_arrays("0003", frames=frames, hit=hit)
    run.save_arrays("0003", frames=frames, hit=~hit)
    kept = Run(run.path).load_arrays("0003")
    np.testing.assert_array_equal(kept["frames"], frames)
    np.testing.assert_array_equal(kept["hit"], ~hit)
    assert [file.name for file in (run.path / "episodes").iterdir()] == ["0003.npz"]
    with pytest.raises(RunError, match="no arrays named '4'"):
        run.load_arrays("4")
    with pytest.raises(ValueError, match="Python objects"):
        run.save_arrays("5", things=np.array([object()]))


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden"])
def test_arrays_stay_in_the_run(tmp_path: Path, name: str) -> None:
    run = Run.create(tmp_path / "run", CONFIG, MANIFEST)
    with pytest.raises(ValueError, match="name of arrays"):
        run.save_arrays(name, frames=np.zeros(1))


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create(tmp_path / "run", CONFIG, MANIFEST)
    with pytest.raises(RunError, match=r"no summary\.json yet"):
        run.read_summary()
    run.write_summary({"success_rate": 1.0})

    def no_disk(descriptor: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", no_disk)
        with pytest.raises(OSError, match="no space"):
            run.write_summary({"success_rate": 0.0})
    assert run.read_summary() == {"success_rate": 1.0}


def test_a_manifest_says_what_it_ran_on_and_not_where() -> None:
    made = manifest.make_manifest(device="cpu", seeds={"episodes": [1, 2]}, inputs={"world": "ab12"})
    assert set(made["versions"]) == {"python", "torch", "diffusers", "numpy", "gymnasium", "wcsim"}
    assert made["device"] == "cpu"
    assert made["seeds"] == {"episodes": [1, 2]}
    text = files.encode(made)
    assert json.loads(text) == made
    assert socket.gethostname() not in text
    assert str(Path.cwd()) not in text


THEN = {"versions": {"python": "3.12.1", "torch": "2.13.0"}, "device": "cpu", "inputs": {"world a": "ab" * 32},
        "torch_threads": 1, "platform": "Linux x86_64", "latency": {"fine": 1.0}}


@pytest.mark.parametrize(("change", "message"), [
    ({"versions": {"python": "3.13.0", "torch": "2.13.0"}}, "python 3.12 then, 3.13 now"),
    ({"versions": {"python": "3.12.1", "torch": "2.14.0"}}, r"torch 2.13.0 then, 2.14.0 now"),
    ({"device": "NVIDIA H200"}, "device cpu then, NVIDIA H200 now"),
    ({"inputs": {"world a": "cd" * 32}}, r"world a differs \(stored abababababab, now cdcdcdcdcdcd\)"),
    ({"inputs": {}}, r"world a differs \(stored abababababab, now nothing\)"),
    ({"inputs": THEN["inputs"] | {f"more {n}": "e" * 64 for n in range(6)}}, "more 3 .*; and 2 more; .*--fork"),
])
def test_what_a_run_depends_on_is_compared(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = made(tmp_path / "run", THEN)
    before = contents(path)
    with pytest.raises(RunError, match=message):
        Run.open(path, CONFIG, THEN | change)
    assert contents(path) == before


def test_what_is_only_recorded_is_not_compared(tmp_path: Path) -> None:
    path = made(tmp_path / "run", THEN)
    now = THEN | {"versions": {"python": "3.12.9", "torch": "2.13.0"}, "torch_threads": 8, "platform": "Darwin arm64"}
    del now["latency"]
    assert Run.open(path, CONFIG, now).manifest["latency"] == {"fine": 1.0}


def test_only_a_new_run_measures(tmp_path: Path) -> None:
    run = Run.resume(tmp_path / "run", CONFIG, MANIFEST, measure=lambda: {"latency": 5.0})
    assert run.manifest["latency"] == 5.0
    run.close()
    again = Run.resume(tmp_path / "run", CONFIG, MANIFEST, measure=lambda: pytest.fail("measured again"))
    assert again.manifest == run.manifest


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "run", MANIFEST)
    (path / "manifest.json").write_text('{"device": "cpu"}')
    with pytest.raises(RunError, match=r"has run format 1, this wcsim reads 2; .*--fork"):
        Run(path)
