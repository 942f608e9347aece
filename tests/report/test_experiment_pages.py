"""Pages of evaluations, sweeps and comparisons, from rows made by hand."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wcsim.errors import RunError
from wcsim.experiments import budget_summary, evaluation_summary
from wcsim.report.compare import kind_of, leaves, write_comparison, write_page_of
from wcsim.track.runs import Run

MANIFEST = {"device": "cpu", "torch_threads": 1, "latency": {}}
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


def evaluation(path: Path, *, shift: float = 0.0, name: str = "ranking") -> Path:
    rng = np.random.default_rng(0)
    config = {"name": name, "world": "made-up", "task": {"name": "pusht"}, "starts": 6, "max_steps": 9,
              "score": "final_coverage", "policies": [{"name": skill, "kind": "expert"} for skill in SKILLS]}
    run = Run.create(path, config, MANIFEST)
    for k, (policy, skill) in enumerate(SKILLS.items()):
        for w, world in enumerate(evaluation_summary.WORLDS):
            for start in range(6):
                covered = float(np.clip(skill + 0.1 * rng.normal() + shift * w, 0, 1))
                run.record(f"policy={policy},world={world},start={start}", [], {
                    "episode": (k * 3 + w) * 6 + start, "policy": policy, "world": world, "start": start, "seed": start,
                    "steps": 9, "success": covered > 0.8, "final_coverage": covered, "max_coverage": covered,
                    "return": 9 * covered, "judged_success": covered > 0.8, "judged_coverage": covered + 0.01,
                    "hit_rate": 0.5, "skipped": 0.4, "seconds": 1.0,
                })
    run.write_summary(evaluation_summary.summarise(run.episodes, config))
    return path


def sweep(path: Path, *, delays: bool = True) -> Path:
    config = {"governed": {"efforts": ["cached"] * 2},
              "name": "sweep", "world": "made-up", "episodes": 2, "max_steps": 9, "clock": "simulated"}
    run = Run.create(path, config, MANIFEST)
    cells = [(world, "cem", deadline, "wait", None) for world in ("cached", "uncached") for deadline in (100, 900)]
    cells += [("cached", "cem", 900, mode, ticks) for mode in ("naive", "freeze") for ticks in (0, 1)] if delays else []
    cells += [("governed", "cem", 900, "wait", None)] if delays else []
    for number, (effort, planner, deadline, mode, delay) in enumerate(cells):
        for start in range(2):
            run.record(f"cell={number},start={start}", [], {
                "episode": 2 * number + start, "cell": number, "effort": effort, "planner": planner,
                "deadline_ms": float(deadline), "mode": mode, "delay": delay, "governed": effort == "governed",
                "levels": [0, 1], "start": start, "seed": start, "steps": 9, "world_s": 0.9,
                "success": bool(start), "final_coverage": 0.3 + 0.1 * start, "max_coverage": 0.5, "waited": 1,
                "plans": 2, "plan_ms": [80.0, 90.0], "calls": 40, "rounds": 4, "latent_error": None,
            })
    run.write_summary(budget_summary.summarise(run.episodes, config, {}))
    return path


def test_the_page_of_an_evaluation_says_what_agrees_and_what_caching_changed(tmp_path: Path) -> None:
    text = read(write_page_of(evaluation(tmp_path / "run")))
    assert "Pearson's r" in text.replace("&#39;", "'")
    assert "fair &lt;b&gt;" in text
    assert "<b>" not in text
    assert text.count("<svg") >= 3
    assert "McNemar" in text
    for anchor in ("agreement", "caching", "policies", "judge", "timing"):
        assert f'id="{anchor}"' in text


def test_an_evaluation_without_any_success_still_has_a_page(tmp_path: Path) -> None:
    assert "\u2013" in read(write_page_of(evaluation(tmp_path / "run", shift=-1.0)))


@pytest.mark.parametrize("delays", [True, False])
def test_the_page_of_a_sweep_says_which_setting_to_take(tmp_path: Path, delays: bool) -> None:
    text = read(write_page_of(sweep(tmp_path / "run", delays=delays)))
    assert "Within 100 ms, cem on cached covers most: 0.35." in text
    assert ("naive, 1 tick" in text) == delays
    assert ("No delays were swept." in text) != delays
    assert text.count("<svg") == (4 if delays else 2)  # nothing was predicted, so there is no panel of it


def test_runs_are_compared_by_what_they_share(tmp_path: Path) -> None:
    paths = [evaluation(tmp_path / "a"), evaluation(tmp_path / "b", shift=0.05, name="shifted")]
    text = read(write_comparison(paths, tmp_path / "comparison.html"))
    assert "ranking against shifted" in text
    assert "policies.good.cached.final_coverage" in text
    assert "configurations are equal" in text
    same = read(write_comparison([paths[0], paths[0]], tmp_path / "same.html"))
    assert str(paths[0]) in same


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
