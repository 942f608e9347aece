"""The page of a goal run: who reaches its goals, at what price, and how far the cheap ways of imagining mislead.

Easy to get wrong: arms are compared start by start, so the intervals of their rates may overlap where the paired test
still tells them apart; both are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure

from wcsim.report import phrases
from wcsim.report.canvas import Panel, colour, draw, plain_numbers
from wcsim.report.evaluation import ends, signed
from wcsim.report.sections import Section, Table, write_page
from wcsim.track.runs import Run

Row = Mapping[str, Any]
HUES = ("cached", "truth")
PLACES = {"truth": "the truth", "world": "the imagined environment"}


def write_goals(run: Run) -> Path:
    """Write `report.html` into the run; returns its path.  Raises RunError where the run has not ended."""
    summary, config = run.read_summary(), run.config
    lede = (
        f"From {phrases.plural(summary['episodes'], 'held-out start')}, agents tried to bring the table to where a "
        f"demonstrator left it {phrases.plural(summary['goal_ticks'], 'tick')} later, within "
        f"{phrases.plural(summary['max_steps'], 'step')}: agent and block within {config['within_px']:g} px, the block "
        f"turned within {config['within_degrees']:g} degrees. Planners thought in the world {config['world']}."
    )
    return write_page(
        run.path / "report.html", str(config["name"]), lede,
        [_success(summary), _price(summary), _promises(summary), _audit(summary)],
        sources={"Configuration": yaml.safe_dump(config, sort_keys=False), "Manifest": dumps(run.manifest, indent=2)},
        also=", and episodes.csv every episode",
    )


def _success(summary: Row) -> Section:
    tables = tuple(Table(
        f"Acting in {PLACES[place['name']]}",
        ("", "reached", "95%", "block alone", "95%", "block off, px", "95%", "turn off, degrees", "steps",
         f"{summary['reference']} alone / this alone", "p"),
        tuple(_success_row(arm) for arm in place["arms"])) for place in summary["places"])
    return Section(
        "success", "Who reaches the goal", "", "Bars are 95% intervals; the last columns are McNemar's exact test of "
        f"the same starts against {summary['reference']}.",
        (_bars("success", "Goals reached", summary["places"], "success_rate", "success_interval"),), tables)


def _success_row(arm: Row) -> tuple[str, ...]:
    against = arm["against"]
    paired = (phrases.NONE,) * 2 if against is None else (
        f"{against['only_reference']} / {against['only_this']}", phrases.number(against["mcnemar_p"], 3))
    return (arm["name"], phrases.percent(arm["success_rate"]), ends(arm["success_interval"], phrases.percent),
            phrases.percent(arm["block_success_rate"]), ends(arm["block_success_interval"], phrases.percent),
            phrases.number(arm["block_px"]), ends(arm["block_px_interval"], phrases.number),
            phrases.number(arm["block_deg"]), phrases.number(arm["steps"]), *paired)


def _price(summary: Row) -> Section:
    places = summary["timing"]["places"]
    calls = {(place["name"], arm["name"]): arm["calls_per_action"] for place in summary["places"]
             for arm in place["arms"]}
    tables = tuple(Table(
        f"Acting in {PLACES[place['name']]}",
        ("", "seconds per action", f"times fewer than {summary['reference']}", "95%", "p50, ms", "p95", "p99", "max",
         "candidates per action"),
        tuple((arm["name"], phrases.number(arm["seconds_per_action"], 4), phrases.times(arm["faster"]),
               ends(arm["faster_interval"], phrases.times),
               *(phrases.number(arm["act_ms"][key], 1) for key in ("p50", "p95", "p99", "max")),
               phrases.number(calls[place["name"], arm["name"]])) for arm in place["arms"])) for place in places)
    return Section("price", "What an action costs", "", "Seconds of the whole agent, over actions with and without a "
                   "new plan; the ratio, of planners, is the median over starts.", tables=tables)


def _promises(summary: Row) -> Section:
    rows = tuple(
        (f"{arm['name']}, in {PLACES[place['name']]}", phrases.number(arm["promised"]), phrases.number(arm["came"]),
         signed(arm["gap"]), ends(arm["gap_interval"], signed), phrases.number(arm["prediction"], 3),
         phrases.number(arm["rank_agreement"], 3), phrases.number(arm["regret"]))
        for place in summary["places"] for arm in place["arms"] if arm["gap"] is not None)
    if not rows:
        return Section("promises", "What plans promised", missing="No planner gave up a plan.")
    return Section(
        "promises", "What plans promised, and what came",
        how="Costs of the ticks that a plan was followed: as imagined, and as then seen. What came dearer than "
        "promised is the exploitation gap. The last columns are of screenings: how a cheap look agreed with a proper "
        "one on the survivors, and what trusting it would have cost.",
        tables=(Table("Promised and realised costs", ("", "promised", "came", "gap", "95%", "prediction error",
                                                      "screen's tau", "screen's regret"), rows),))


def _audit(summary: Row) -> Section:
    audit = summary["audit"]
    if audit is None:
        return Section("audit", "How fidelities rank candidates", missing="No starts were audited.")
    ms = summary["timing"]["candidate_ms"]
    rows = tuple((told["name"], *(text for key in ("tau", "regret", "true_tau", "true_regret") for text in (
        phrases.number(told[key], 3), ends(told[f"{key}_interval"]))), phrases.number(ms[told["name"]], 1))
        for told in audit["opinions"])
    reference = summary["reference"]
    head = ("", f"tau with {reference}", "95%", "regret there", "95%", "tau with the truth", "95%", "true regret",
            "95%", "ms per candidate")
    return Section(
        "audit", "How fidelities rank candidates",
        f"{phrases.plural(audit['starts'], 'start')}, one set of candidates each; their true costs spread by "
        f"{phrases.number(audit['spread'])} on average.",
        "Kendall's tau is 1 for the same order. Regret is what the favourite costs more than the best one, by whom it "
        "is held against.", tables=(Table("Rank agreement and top-1 regret", head, rows),))


def _bars(name: str, title: str, places: Sequence[Row], value: str, interval: str) -> Panel:
    """A group of points per arm, one per place, with intervals."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        names = [arm["name"] for arm in places[0]["arms"]]
        for number, place in enumerate(places):
            x = np.arange(len(names)) + 0.16 * (number - (len(places) - 1) / 2)
            y = np.array([arm[value] for arm in place["arms"]], dtype=np.float64)
            bars = np.abs(np.array([arm[interval] for arm in place["arms"]], dtype=np.float64).T - y)
            axes.errorbar(x, y, yerr=bars, linestyle="none", marker="os"[number % 2], markersize=4.5,
                          color=colour(HUES[number % len(HUES)]), label=f"in {PLACES[place['name']]}")
        axes.set_xticks(range(len(names)), names, fontsize=7)
        axes.set_ylim(-0.02, 1.02)
        plain_numbers(axes)
        figure.legend(loc="outside lower center", ncols=2, fontsize=7)

    return Panel(title, draw(name, title, paint, height_in=3.0))
