"""Runs as they grow: what is told of them, and that nothing else can be read."""

from __future__ import annotations

import json
import os
from urllib.request import urlopen

import pytest

from served import served
from wcsim.errors import ConfigError
from wcsim.serve.watch import POINTS, Watched, played, shortened, trained


def training(folder, rows):
    folder.mkdir(exist_ok=True)
    (folder / "recipe.json").write_text("{}")
    lines = [{"stage": "codec", "step": n, "seconds": 2.0 * n, "train": {"loss": 1.0 / (n + 1)},
              "held_out": {"psnr": n}} for n in range(rows)]
    (folder / "scalars.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_training_grows(tmp_path):
    watched = Watched(tmp_path)
    training(tmp_path / "mine", 0)
    (told,) = watched.runs()
    assert (told["kind"], told["line"], told["curves"]) == ("training", "no checkpoint yet", {})
    training(tmp_path / "mine", 3)
    (told,) = watched.runs()
    assert told["line"] == "codec step 2, 4 s"
    assert told["curves"] == {"codec: loss, train": [(0, 1.0), (1, 0.5), (2, 1 / 3)],
                              "codec: psnr, held out": [(0, 0.0), (1, 1.0), (2, 2.0)]}


def test_a_run_grows(tmp_path):
    (tmp_path / "config.yaml").write_text("name: a\n")
    (tmp_path / "episodes.jsonl").write_text('{"episode": 4, "success": true, "progress": 0.5}\n{"episode": 5, "prog')
    told = Watched(tmp_path).runs()[0]
    assert (told["kind"], told["line"]) == ("run", "1 episodes, stopped")
    assert told["curves"] == {"success": [(0, 1.0)], "progress": [(0, 0.5)]}
    (tmp_path / "progress.json").write_text("{")
    assert "cannot be read now" in Watched(tmp_path).runs()[0]["line"]
    (tmp_path / "progress.json").unlink()
    (tmp_path / "summary.json").write_text("{}")
    assert Watched(tmp_path).runs()[0]["line"] == "1 episodes, ended"


def test_curves_are_finite_and_short():
    assert played([{"a": float("nan"), "b": "text", "c": None}]) == {}
    assert trained([]) == {}
    assert len(shortened({"a": [(n, n) for n in range(10 * POINTS + 1)]})["a"]) <= POINTS


def get(address, path):
    with urlopen(address.replace("ws", "http", 1) + path) as answer:
        return answer.status, answer.read(), answer.headers


def test_only_what_was_found_is_read(tmp_path):
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(b"secret")
    runs = tmp_path / "runs"
    run = training(tmp_path / "runs-one", 1)
    runs.mkdir()
    run = run.rename(runs / "one")
    os.symlink(outside, run / "linked.mp4")
    os.symlink(training(tmp_path / "elsewhere", 1), runs / "linked")
    (run / "episode_0000.mp4").write_bytes(b"film")
    before = sorted((path, path.lstat().st_mtime_ns) for path in runs.rglob("*"))
    with served("", watch=runs) as (address, _):
        assert b"<h1>Runs" in get(address, "/")[1]
        told = json.loads(get(address, "/watch/runs")[1])
        assert told["drives"] is False
        (one,) = told["runs"]
        assert [film["name"] for film in one["videos"]] == ["episode 0000"]
        _, content, headers = get(address, f"/watch/video/{one['videos'][0]['key']}")
        assert (content, headers["Content-Type"]) == (b"film", "video/mp4")
        for key in ("0" * 20, "..%2Foutside.mp4", "episode_0000.mp4"):
            with pytest.raises(Exception, match="404"):
                get(address, f"/watch/video/{key}")
        assert str(tmp_path) not in json.dumps(told)
    assert sorted((path, path.lstat().st_mtime_ns) for path in runs.rglob("*")) == before


def test_a_token_is_needed_here_too(tmp_path):
    training(tmp_path / "mine", 1)
    with served("", watch=tmp_path, token="x" * 20) as (address, _):
        for path in ("/watch", "/watch/runs", "/watch/video/" + "0" * 20):
            with pytest.raises(Exception, match="403"):
                get(address, path)


def test_the_folder_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        Watched(tmp_path / "none")
