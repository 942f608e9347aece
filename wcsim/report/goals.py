"""The page of a goal run: which policies reach goals, at what price, and how far the cheap ways of imagining mislead.

Easy to get wrong: policies are compared start by start, so the intervals of their rates may overlap where the paired
test still tells them apart; both are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wcsim.report import phrases
from wcsim.report.canvas import Panel, colour, draw, plain_numbers
from wcsim.report.conditions import conditions
from wcsim.report.evaluation import ends, signed
from wcsim.report.measures import UNITS, Measure, errors, spec_of
from wcsim.report.sections import Section, Table, write_page
from wcsim.runs.run import Run
from wcsim.strict_yaml import dump_yaml

Row = Mapping[str, Any]
HUES = ("cached", "truth")
PLACES = {"truth": "the truth", "world": "the imagined environment"}


def write_goals(run: Run) -> Path:
    """Write `report.html` into the run; returns its path.  Raises RunError where the run has not ended."""
    summary, config = run.read_summary(), run.config
    within = ", ".join(f"{value:g} {UNITS.get(unit, unit)}" for unit, value in config["within"].items())
    lede = (
        f"From {phrases.plural(summary['episodes'], 'held-out start')}, policies tried to bring the scene to where a "
        f"demonstrator left it {phrases.plural(summary['goal_ticks'], 'tick')} later, within "
        f"{phrases.plural(summary['max_steps'], 'step')}: all errors of one unit together within {within}. Planners "
        f"used the world {config['world']}. {conditions(run)}"
    )
    return write_page(
        run.path / "report.html", str(config["name"]), lede,
        [_success(summary, errors(spec_of(run.manifest))), _price(summary), _promises(summary), _audit(summary)],
        sources={"Configuration": dump_yaml(config), "Manifest": dumps(run.manifest, indent=2)},
        also=", and episodes.csv every episode",
    )


def _success(summary: Row, shown: Sequence[Measure]) -> Section:
    tables = tuple(Table(
        f"Acting in {PLACES[place['name']]}; errors are those at the end",
        ("", "reached", "95%", "scene alone", "95%", *(measure.column for measure in shown), "steps", "clipped",
         f"{summary['reference']} alone / this alone", "p"),
        tuple(_success_row(policy, shown) for policy in place["policies"])) for place in summary["places"])
    return Section(
        "success", "Who reaches the goal", "", "Bars are 95% intervals; the last columns are McNemar's exact test of "
        f"the same starts against {summary['reference']}.",
        (_bars("success", "Goals reached", summary["places"], "success_rate", "success_interval"),), tables)


def _success_row(policy: Row, shown: Sequence[Measure]) -> tuple[str, ...]:
    against = policy["against"]
    paired = (phrases.NONE,) * 2 if against is None else (
        f"{against['only_reference']} / {against['only_this']}", phrases.number(against["mcnemar_p"], 3))
    return (policy["name"], phrases.percent(policy["success_rate"]), ends(policy["success_interval"], phrases.percent),
            phrases.percent(policy["scene_success_rate"]), ends(policy["scene_success_interval"], phrases.percent),
            *(_with_interval(policy[one.key], policy[f"{one.key}_interval"]) for one in shown),
            phrases.number(policy["steps"]), phrases.number(policy["clipped"]), *paired)


def _with_interval(value: float | None, interval: Sequence[float | None]) -> str:
    known = ends(interval, phrases.number)
    return phrases.number(value) + ("" if known == phrases.NONE else f" ({known})")


def _price(summary: Row) -> Section:
    places = summary["timing"]["places"]
    calls = {(place["name"], policy["name"]): policy["calls_per_action"] for place in summary["places"]
             for policy in place["policies"]}
    tables = tuple(Table(
        f"Acting in {PLACES[place['name']]}",
        ("", "seconds per action", f"times fewer than {summary['reference']}", "95%", "p50, ms", "p95", "p99", "max",
         "candidates per action"),
        tuple((policy["name"], phrases.number(policy["seconds_per_action"], 4), phrases.times(policy["faster"]),
               ends(policy["faster_interval"], phrases.times),
               *(phrases.number(policy["act_ms"][key], 1) for key in ("p50", "p95", "p99", "max")),
               phrases.number(calls[place["name"], policy["name"]])) for policy in place["policies"]))
        for place in places)
    return Section("price", "What an action costs", "", "Seconds of the whole policy, over actions with and without a "
                   "new plan; the ratio, of planners, is the median over starts.", tables=tables)


def _promises(summary: Row) -> Section:
    rows = tuple(
        (f"{policy['name']}, in {PLACES[place['name']]}", phrases.number(policy["promised"]),
         phrases.number(policy["came"]), signed(policy["gap"]), ends(policy["gap_interval"], signed),
         phrases.number(policy["prediction"], 3), phrases.number(policy["rank_agreement"], 3),
         phrases.number(policy["regret"]))
        for place in summary["places"] for policy in place["policies"] if policy["gap"] is not None)
    if not rows:
        return Section("promises", "What plans promised", missing="No planner gave up a plan.")
    return Section(
        "promises", "What plans promised, and what came",
        how="Costs of the ticks that a plan was followed: as imagined, and as then seen. What came dearer than "
        "promised is the exploitation gap. The last columns are of successive halving: how a cheap rung agreed with a "
        "proper one on the survivors, and what trusting it would have cost.",
        tables=(Table("Promised and realised costs", ("", "promised", "came", "gap", "95%", "prediction error",
                                                      "rung's tau", "rung's regret"), rows),))


def _audit(summary: Row) -> Section:
    audit = summary["audit"]
    if audit is None:
        return Section("audit", "How fidelities rank candidates", missing="No starts were audited.")
    ms = summary["timing"]["candidate_ms"]
    rows = tuple((scoring["name"], *(text for key in ("tau", "regret", "true_tau", "true_regret") for text in (
        phrases.number(scoring[key], 3), ends(scoring[f"{key}_interval"]))), phrases.number(ms[scoring["name"]], 1))
        for scoring in audit["scorings"])
    reference = summary["reference"]
    head = ("", f"tau with {reference}", "95%", "regret there", "95%", "tau with the truth", "95%", "true regret",
            "95%", "ms per candidate")
    return Section(
        "audit", "How fidelities rank candidates",
        f"{phrases.plural(audit['starts'], 'start')}, one set of candidates each; their true costs spread by "
        f"{phrases.number(audit['spread'])} on average.",
        "Kendall's tau is 1 for the same order. Regret is what the favourite costs more than the best one, by whom it "
        "is compared with.", tables=(Table("Rank agreement and top-1 regret", head, rows),))


def _bars(name: str, title: str, places: Sequence[Row], value: str, interval: str) -> Panel:
    """A group of points per policy, one per place, with intervals."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        names = [policy["name"] for policy in places[0]["policies"]]
        for number, place in enumerate(places):
            x = np.arange(len(names)) + 0.16 * (number - (len(places) - 1) / 2)
            y = np.array([policy[value] for policy in place["policies"]], dtype=np.float64)
            bars = np.abs(np.array([policy[interval] for policy in place["policies"]], dtype=np.float64).T - y)
            axes.errorbar(x, y, yerr=bars, linestyle="none", marker="os"[number % 2], markersize=4.5,
                          color=colour(HUES[number % len(HUES)]), label=f"in {PLACES[place['name']]}")
        axes.set_xticks(range(len(names)), names, fontsize=7)
        axes.set_ylim(-0.02, 1.02)
        plain_numbers(axes)
        figure.legend(loc="outside lower center", ncols=2, fontsize=7)

    return Panel(title, draw(name, title, paint, height_in=3.0))
