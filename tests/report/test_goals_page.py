"""The page of a goal run, from rows made by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fabricated_run import SPECS, TABLE, begin, manifest_of, record
from wcsim.experiments.goals_summary import summarise
from wcsim.report.compare import write_comparison, write_page_of
from wcsim.report.measures import errors
from wcsim.runs.files import from_lines, to_lines
from wcsim.spec import StateSpec

POLICIES = {"uncached": "mpc", "cached <b>": "mpc", "$x$": "hold"}


def row(start: int, place: str, policy: str, number: int, metrics: Sequence[str]) -> dict[str, Any]:
    plans = policy != "$x$"
    errors: dict[str, float | None] = {metric: 4.0 + start + at for at, metric in enumerate(metrics)}
    if metrics:
        errors[metrics[-1]] = None if start else float("inf")
    return {
        "episode": number, "start": start, "seed": start, "policy": policy, "place": place, "steps": 9 + start,
        "reached": plans and start != 2, "scene_reached": True, **errors, "plans": 2 * plans, "calls": 60 * plans,
        "promised": [3.0] * plans, "came": [4.5] * plans, "rank_agreement": [], "regret": [],
        "prediction": [0.2] * plans, "act_ms": [90.0 if policy == "uncached" else 30.0, 1.0], "clipped": 2 * plans,
    }


def goals(path: Path, *, audited: bool = True, spec: StateSpec = TABLE) -> Path:
    config = {"name": "reaching", "world": "made-up", "episodes": 3, "goal_ticks": 25, "max_steps": 50,
              "within": {"px": 20.0, "deg": 20.0}, "places": ["truth", "world"], "reference": "uncached",
              "policies": [{"name": name, "kind": kind} for name, kind in POLICIES.items()]}
    run = begin(path, config, manifest_of(spec))
    keys = [(start, place, policy) for start in range(3) for place in ("truth", "world") for policy in POLICIES]
    rows = [row(*key, number, spec.metrics) for number, key in enumerate(keys)]
    told = {"tau": 0.8, "regret": 0.1, "true_tau": 0.5, "true_regret": 2.0}
    if audited:
        rows += [{"episode": 99 + start, "start": start, "seed": start, "policy": None, "place": "truth", "spread": 9.0,
                  "scorings": {"uncached": told, "cached <b>": told}, "ms": {"uncached": 70.0, "cached <b>": 30.0}}
                 for start in range(2)]
    for one in from_lines(to_lines(rows), "rows")[0]:
        record(run, [], one)
    run.write_summary(summarise(run.episodes, config, spec.metrics))
    return path


@pytest.mark.parametrize("audited", [True, False])
def test_the_page_of_a_goal_run_lays_policies_side_by_side(tmp_path: Path, audited: bool) -> None:
    text = write_page_of(goals(tmp_path / "run", audited=audited)).read_text("utf-8")
    for anchor in ("success", "price", "promises", "audit"):
        assert f'id="{anchor}"' in text
    assert "cached &lt;b&gt;" in text
    assert "<b>" not in text
    assert ">$x$</text>" in text
    assert "(\u2013)" not in text
    assert "all errors of one unit together within 20 px, 20 degrees" in text
    lede = text[text.index('class="lede"') : text.index("<section")]
    assert "labels: none" in lede
    assert "12 of 60 by uncached, 12 of 60 by cached &lt;b&gt;, none by the others." in lede
    assert "+1.500" in text  # what came less what was promised
    assert ("No starts were audited." in text) != audited
    assert text.count("<svg") == 1


@pytest.mark.parametrize("task", SPECS)
def test_columns_follow_the_quantities(task: str, tmp_path: Path) -> None:
    text = write_page_of(goals(tmp_path / "run", spec=SPECS[task])).read_text("utf-8")
    head = re.findall(r'<th scope="col">([^<]*)', text)
    at = head.index("scene alone") + 2
    shown = [measure.column for measure in errors(SPECS[task])]
    assert head[at : at + len(shown) + 2] == [*shown, "steps", "clipped"]


def test_goal_runs_can_be_compared(tmp_path: Path) -> None:
    paths = [goals(tmp_path / "a"), goals(tmp_path / "b", audited=False)]
    text = write_comparison(paths, tmp_path / "comparison.html").read_text("utf-8")
    assert "places.truth.policies.uncached.success_rate" in text
