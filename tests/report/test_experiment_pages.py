"""Pages of evaluations, sweeps and comparisons, from rows made by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from fabricated_run import NAMES, SPECS, TABLE, begin, manifest_of, record
from wcsim.errors import RunError
from wcsim.experiments import budget_summary, evaluation_summary
from wcsim.report.compare import kind_of, leaves, write_comparison, write_page_of
from wcsim.spec import StateSpec

LEDE = re.compile(r'class="lede">(.*?)</p>', re.DOTALL)
SKILLS = {"good": 0.8, "fair <b>": 0.5, "bad": 0.2}


class Strict(HTMLParser):
    """Knows that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in {"meta", "br", "link", "path", "use", "rect", "image", "circle", "img", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


def read(page: Path) -> str:
    """A page that stands alone: whole, and without anything fetched."""
    text = page.read_text("utf-8")
    parser = Strict()
    parser.feed(text)
    assert parser.open == []
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", text.replace('xlink:href="#', ""))
    return text


def evaluation(
    path: Path, *, shift: float = 0.0, name: str = "ranking", spec: StateSpec = TABLE,
    skills: Mapping[str, float] = MappingProxyType(SKILLS)
) -> Path:
    rng = np.random.default_rng(0)
    config = {"name": name, "world": "made-up", "task": {"name": "table"}, "starts": 6, "max_steps": 9,
              "score": "final_progress", "policies": [{"name": skill, "kind": "expert"} for skill in skills]}
    run = begin(path, config, manifest_of(spec))
    for k, (policy, skill) in enumerate(skills.items()):
        for w, place in enumerate(evaluation_summary.PLACES):
            for start in range(6):
                reached = float(np.clip(skill + 0.1 * rng.normal() + shift * w, 0, 1))
                record(run, [], {
                    "episode": (k * 3 + w) * 6 + start, "policy": policy, "place": place, "start": start, "seed": start,
                    "steps": 9, "success": reached > 0.8, "final_progress": reached, "max_progress": reached,
                    "return": 9 * reached, "estimated_success": reached > 0.8, "estimated_progress": reached + 0.01,
                    "hit_rate": 0.5, "skipped": 0.4, "seconds": 1.0, "clipped": k,
                })
    run.write_summary(evaluation_summary.summarise(run.episodes, config))
    return path


def sweep(path: Path, *, delays: bool = True, spec: StateSpec = TABLE, planner: str = "cem") -> Path:
    config = {"governed": {"efforts": ["cached"] * 2},
              "name": "sweep", "world": "made-up", "episodes": 2, "max_steps": 9, "clock": "simulated"}
    run = begin(path, config, manifest_of(spec))
    cells: list[tuple[str, str, int, str, int | None]] = [
        (effort, planner, deadline, "wait", None) for effort in ("cached", "uncached") for deadline in (100, 900)]
    cells += [("cached", planner, 900, mode, d) for mode in ("naive", "freeze") for d in (0, 1)] if delays else []
    cells += [("governed", planner, 900, "wait", None)] if delays else []
    for number, (effort, planner, deadline, mode, delay) in enumerate(cells):
        for start in range(2):
            record(run, [], {
                "episode": 2 * number + start, "cell": f"cell {number}", "effort": effort, "planner": planner,
                "deadline_ms": float(deadline), "mode": mode, "delay": delay, "governed": effort == "governed",
                "levels": [0, 1], "start": start, "seed": start, "steps": 9, "world_s": 0.9,
                "success": bool(start), "final_progress": 0.3 + 0.1 * start, "max_progress": 0.5, "waited": 1,
                "clipped": 3 * (effort == "cached"),
                "plans": 2, "plan_ms": [80.0, 90.0], "calls": 40, "rounds": 4, "latent_error": None,
            })
    run.write_summary(budget_summary.summarise(run.episodes, config, {}, [f"cell {n}" for n in range(len(cells))]))
    return path


def test_the_page_of_an_evaluation_says_what_agrees_and_what_caching_changed(tmp_path: Path) -> None:
    text = read(write_page_of(evaluation(tmp_path / "run")))
    assert "Pearson's r" in text.replace("&#39;", "'")
    assert "fair &lt;b&gt;" in text
    assert "<b>" not in text
    assert text.count("<svg") >= 3
    assert "McNemar" in text
    (lede,) = LEDE.findall(text)
    assert "Progress is the task&#39;s coverage." in lede
    assert "labels: none" in lede
    assert "Actions clipped to the bounds: 18 of 162 by fair &lt;b&gt;, 36 of 162 by bad, none by the others." in lede
    for anchor in ("agreement", "caching", "policies", "estimator", "timing"):
        assert f'id="{anchor}"' in text


def test_an_evaluation_without_any_success_still_has_a_page(tmp_path: Path) -> None:
    assert "\u2013" in read(write_page_of(evaluation(tmp_path / "run", shift=-1.0)))


@pytest.mark.parametrize("delays", [True, False])
def test_the_page_of_a_sweep_says_which_setting_to_take(tmp_path: Path, delays: bool) -> None:
    text = read(write_page_of(sweep(tmp_path / "run", delays=delays)))
    assert "Within 100 ms, cem on cached gets furthest: 0.35." in text
    (lede,) = LEDE.findall(text)
    assert "labels: none" in lede
    assert f"Actions clipped to the bounds: {36 if delays else 12} of {108 if delays else 36} by cem on cached" in lede
    assert ("naive, 1 tick" in text) == delays
    assert ("No delays were swept." in text) != delays
    assert text.count("<svg") == (4 if delays else 2)  # nothing was predicted, so there is no panel of it


def test_runs_are_compared_by_what_they_share(tmp_path: Path) -> None:
    paths = [evaluation(tmp_path / "a"), evaluation(tmp_path / "b", shift=0.05, name="shifted")]
    text = read(write_comparison(paths, tmp_path / "comparison.html"))
    assert "ranking against shifted" in text
    assert "policies.good.cached.final_progress" in text
    assert "configurations are equal" in text
    same = read(write_comparison([paths[0], paths[0]], tmp_path / "same.html"))
    assert str(paths[0]) in same


@pytest.mark.parametrize("task", SPECS)
def test_there_are_pages_for_every_task(task: str, tmp_path: Path) -> None:
    paths = [evaluation(tmp_path / "a", spec=SPECS[task]), sweep(tmp_path / "b", spec=SPECS[task])]
    for path in paths:
        assert f"Progress is the task&#39;s {SPECS[task].progress}." in read(write_page_of(path))
    read(write_comparison([paths[0]] * 2, tmp_path / "comparison.html"))


def test_names_of_policies_are_text_in_pages_and_their_figures(tmp_path: Path) -> None:
    paths = [evaluation(tmp_path / str(n), skills=dict.fromkeys(NAMES, 0.5), name=name)
             for n, name in enumerate(NAMES)]
    page = read(write_page_of(paths[0]))
    assert "<b>" not in page
    figures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    for name in NAMES:
        assert f">{escape(name, quote=False)}</text>" in figures
    page = read(write_comparison(paths, tmp_path / "comparison.html"))
    assert "<b>" not in page
    assert f"<h1>{escape(' against '.join(NAMES))}</h1>" in page
    page = read(write_page_of(sweep(tmp_path / "sweep", planner="$x$ <b>")))
    assert ">cached, $x$ &lt;b&gt;</text>" in page


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    paths = [evaluation(tmp_path / "a"), sweep(tmp_path / "b")]
    with pytest.raises(RunError, match="one kind can be compared, got budget, evaluation"):
        write_comparison(paths, tmp_path / "page.html")
    with pytest.raises(RunError, match="two runs or more"):
        write_comparison(paths[:1], tmp_path / "page.html")
    (tmp_path / "a" / "summary.json").unlink()
    with pytest.raises(RunError, match="has not ended"):
        write_page_of(tmp_path / "a")


def test_leaves_are_the_numbers_of_a_summary() -> None:
    summary = {"a": {"b": 1.5, "c": None, "text": "x", "flag": True}, "list": [1, 2],
               "policies": [{"name": "p", "x": 2}]}
    assert dict(leaves(summary)) == {"a.b": 1.5, "a.c": None, "policies.p.x": 2}
    assert kind_of({}) == "closed loop"
