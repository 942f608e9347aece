"""The page of a goal run, from rows made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wcsim.experiments.goals_summary import summarise
from wcsim.report.compare import write_comparison, write_page_of
from wcsim.track.files import from_lines, to_lines
from wcsim.track.runs import Run

ARMS = {"uncached": {"kind": "mpc"}, "cached <b>": {"kind": "mpc"}, "still": {"kind": "still"}}


def row(start: int, place: str, arm: str, number: int) -> dict[str, Any]:
    plans = arm != "still"
    return {
        "episode": number, "start": start, "seed": start, "arm": arm, "place": place, "steps": 9 + start,
        "reached": plans and start != 2, "block_reached": True, "agent_px": 4.0 + start, "block_px": 6.0,
        "block_deg": None if start else float("inf"), "plans": 2 * plans, "calls": 60 * plans,
        "promised": [3.0] * plans, "came": [4.5] * plans, "rank_agreement": [], "regret": [],
        "prediction": [0.2] * plans, "act_ms": [90.0 if arm == "uncached" else 30.0, 1.0],
    }


def goals(path: Path, *, audited: bool = True) -> Path:
    config = {"name": "reaching", "world": "made-up", "episodes": 3, "goal_ticks": 25, "max_steps": 50,
              "within_px": 20.0, "within_degrees": 20.0, "arms": ARMS, "places": ["truth", "world"],
              "reference": "uncached"}
    run = Run.create(path, config, {"device": "cpu"})
    keys = [(start, place, arm) for start in range(3) for place in config["places"] for arm in ARMS]
    rows = [row(*key, number) for number, key in enumerate(keys)]
    told = {"tau": 0.8, "regret": 0.1, "true_tau": 0.5, "true_regret": 2.0}
    if audited:
        rows += [{"episode": 99 + start, "start": start, "seed": start, "arm": None, "place": "truth", "spread": 9.0,
                  "opinions": {"uncached": told, "cached <b>": told}, "ms": {"uncached": 70.0, "cached <b>": 30.0}}
                 for start in range(2)]
    for one in from_lines(to_lines(rows), "rows")[0]:
        run.record(str(one["episode"]), [], one)
    run.write_summary(summarise(run.episodes, config))
    return path


@pytest.mark.parametrize("audited", [True, False])
def test_the_page_of_a_goal_run_lays_arms_side_by_side(tmp_path: Path, audited: bool) -> None:
    text = write_page_of(goals(tmp_path / "run", audited=audited)).read_text("utf-8")
    for anchor in ("success", "price", "promises", "audit"):
        assert f'id="{anchor}"' in text
    assert "cached &lt;b&gt;" in text
    assert "<b>" not in text
    assert "+1.500" in text  # what came less what was promised
    assert ("No starts were audited." in text) != audited
    assert text.count("<svg") == 1


def test_goal_runs_can_be_compared(tmp_path: Path) -> None:
    paths = [goals(tmp_path / "a"), goals(tmp_path / "b", audited=False)]
    text = write_comparison(paths, tmp_path / "comparison.html").read_text("utf-8")
    assert "places.truth.arms.uncached.success_rate" in text
