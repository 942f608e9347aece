from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabricated_run import NAMES, SPECS, TABLE, record
from wcsim.errors import RunError
from wcsim.metrics.horizon import COMPARISONS, at_horizons
from wcsim.report.measures import leading, measures
from wcsim.report.page import clip_of, frames_per_second, tiles, write_report
from wcsim.runs.run import Run

SECTIONS = {"numbers", "videos", "error", "latency", "cache", "task", "sources"}
Fabricate = Callable[..., Run]

METRICS = ("block_px", "block_angle_deg", "agent_px", "psnr_db", "ssim", "latent")
"""In the order of the page's table."""

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Checks that elements nest, and keeps ids, addresses and exact values."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.values: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.addresses += [given[name] or "" for name in ("src", "href", "xlink:href") if name in given]
        if tag == "data":
            self.values.append(given["value"] or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, fabricate: Fabricate) -> Path:
    return write_report(fabricate(tmp_path_factory.mktemp("report") / "run", episodes=4, steps=9).path)


def read(page: Path) -> Reader:
    return Reader(page.read_text("utf-8"))


def test_the_page_is_whole(page: Path) -> None:
    reader = read(page)
    assert reader.open == []
    assert set(reader.ids) >= SECTIONS
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.counts["svg"] == 10
    assert reader.counts["table"] == 3


def test_the_page_needs_nothing_but_itself(page: Path) -> None:
    text = page.read_text("utf-8")
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert re.findall(r"https?:|//\w+\.|@import|@font-face", re.sub(r"data:video/mp4;base64,[^\"]*", "", text)) == []
    for address in read(page).addresses:
        assert address.startswith(("#", "data:video/mp4;base64,", "episode_")), address


def test_videos_lie_beside_the_page_and_the_first_ones_inside(page: Path) -> None:
    assert sorted(path.name for path in page.parent.glob("*.mp4")) == [f"episode_{n:04d}.mp4" for n in range(4)]
    assert read(page).counts["video"] == 3
    assert not list(page.parent.glob(".*.tmp"))


def test_numbers_are_those_of_the_summary(page: Path) -> None:
    summary = json.loads((page.parent / "summary.json").read_text())
    values = [float(value) if value else None for value in read(page).values]
    keys = ("success_rate", "final_progress", "speedup", "hit_rate")
    expected = [*(summary[key] for key in keys), summary["latency_ms"]["p95"]]
    expected += [summary["error"]["cached_vs_truth"][h]["block_px"] for h in ("8", "16")]
    for comparison in COMPARISONS:
        for horizon in ("1", "4", "8", "16"):
            by_metric = summary["error"][comparison][horizon]
            expected += [by_metric[m] for m in METRICS]
    expected += [summary["latency_ms"][key] for key in ("n", "mean", "p50", "p95", "p99", "max")]
    assert values[: len(expected)] == expected
    assert None in expected  # horizon 16 lies beyond this run


def test_the_same_run_gives_the_same_page(page: Path) -> None:
    before = page.read_bytes()
    assert write_report(page.parent).read_bytes() == before


def test_names_from_outside_are_text(tmp_path: Path, fabricate: Fabricate) -> None:
    hostile = '</title><script>alert("x")</script>'
    task = {"name": hostile}
    fabricate(tmp_path / "run", episodes=1, steps=2, name=hostile, world=hostile, task=task, policy={"kind": hostile})
    text = write_report(tmp_path / "run").read_text("utf-8")
    assert "alert(" in text
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert Reader(text).open == []


@pytest.mark.parametrize("name", NAMES)
def test_names_of_policies_and_runs_are_text(name: str, tmp_path: Path, fabricate: Fabricate) -> None:
    run = fabricate(tmp_path / "run", episodes=1, steps=2, name=name, policy={"kind": name, "name": name})
    text = write_report(run.path).read_text("utf-8")
    assert Reader(text).counts.get("b") is None
    shown = unescape(text)
    assert f"The policy {name} acted" in shown
    assert f"<h1>{name}</h1>" in shown


@pytest.mark.parametrize("task", SPECS)
def test_there_is_a_page_for_every_task(task: str, tmp_path: Path, fabricate: Fabricate) -> None:
    spec = SPECS[task]
    run = fabricate(tmp_path / "run", spec=spec, episodes=2, steps=9)
    text = write_report(run.path).read_text("utf-8")
    reader = Reader(text)
    assert set(reader.ids) >= SECTIONS
    assert reader.counts["svg"] == 7 + len(spec)
    shown = [measure.column for measure in measures(spec)]
    assert re.findall(r'<th scope="col">([^<]*)', text)[1 : len(shown) + 3] == [*shown, "SSIM", "latent, relative"]
    assert f"{spec.progress} at the end" in text
    summary = run.read_summary()
    last = tiles(summary, spec.progress, leading(spec))[-2]
    assert last.name == ("Error at 8 steps" if len(spec) else "Similarity at 8 steps")
    assert last.value == summary["error"]["cached_vs_truth"]["8"][leading(spec).key]
    assert f"Below: the {leading(spec).what}" in text
    clip = clip_of(run, 0)
    assert clip.title == leading(spec).title
    assert clip.errors["cached"].tolist() == pytest.approx(
        [step["error"]["cached_vs_truth"][leading(spec).key] or np.nan for step in run.steps[:9]], nan_ok=True)
    assert np.isnan(clip.start) == (len(spec) == 0)


def test_a_page_says_what_the_world_was_trained_on_and_what_was_clipped(tmp_path: Path, fabricate: Fabricate) -> None:
    text = write_report(fabricate(tmp_path / "a", episodes=2, steps=9).path).read_text("utf-8")
    lede = text[text.index('class="lede"') : text.index('class="tiles"')]
    assert "trained on frames and actions alone (labels: none). Actions clipped to the bounds: 4 of 17 by mpc." in lede
    text = write_report(fabricate(tmp_path / "b", episodes=1, steps=2, labels="states").path).read_text("utf-8")
    assert "trained with labels (labels: states). No action was clipped to the bounds, of 2." in text


def test_a_run_that_does_not_say_what_it_measures_is_refused(tmp_path: Path, fabricate: Fabricate) -> None:
    run = fabricate(tmp_path / "run", episodes=1, steps=2)
    told = {key: value for key, value in run.manifest.items() if key != "state"}
    (run.path / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(RunError, match="no 'state'"):
        write_report(run.path)


def empty_summary() -> dict[str, Any]:
    return {"error": at_horizons([]), "episodes": 0, "steps": 0, "deadline_ms": 1000.0, "success_rate": None}


def test_a_run_without_episodes_says_so(tmp_path: Path, fabricate: Fabricate) -> None:
    run = fabricate(tmp_path / "run", episodes=0)
    run.write_summary(empty_summary())
    text = write_report(run.path).read_text("utf-8")
    assert set(Reader(text).ids) >= SECTIONS
    for line in ("No episode kept its frames", "No error was measured", "No step was timed", "No cache decision",
                 "Neither progress nor planning", "No episode has been recorded"):
        assert line in text


def test_what_was_not_measured_is_a_dash(tmp_path: Path, fabricate: Fabricate) -> None:
    assert {tile.text for tile in tiles(empty_summary(), "coverage", leading(TABLE))} == {"\u2013"}
    run = fabricate(tmp_path / "run", episodes=0)
    places = dict.fromkeys(("truth", "cached", "uncached"))
    step = {"episode": 0, "horizon": 1, "error": dict.fromkeys(COMPARISONS, dict.fromkeys(METRICS)), "reward": None,
            "plan": None, "progress": places, "spans_ms": None, "imagine_ms": None}
    record(run, [step], {"episode": 0, "seed": 700_000, "steps": 1, "acted_in": "cached", "success": places,
                         "final_progress": places, "return": None, "clipped": None})
    run.write_summary(empty_summary())
    text = write_report(run.path).read_text("utf-8")
    assert "No error was measured" in text
    assert "None" not in text


def test_a_run_that_has_not_ended_is_refused(tmp_path: Path, fabricate: Fabricate) -> None:
    run = fabricate(tmp_path / "run", episodes=0)
    with pytest.raises(RunError, match=r"no summary\.json yet"):
        write_report(run.path)
    assert not (run.path / "report.html").exists()


def test_the_rate_is_that_of_the_world() -> None:
    assert frames_per_second({"latency_ms": {"mean": 400.0}, "real_time_factor": 0.25}) == 10.0
    assert frames_per_second({"fps": 24}) == 24.0
    assert frames_per_second({"latency_ms": {"mean": None}, "real_time_factor": None}) == 10.0
