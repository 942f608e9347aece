"""The page of a policy evaluation: does the world rank policies as the truth does, and what does caching change?

Easy to get wrong: agreement is of means over starts, so every point of the scatter carries an interval in both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wcsim.report import phrases
from wcsim.report.canvas import Panel, colour, draw, plain_numbers
from wcsim.report.conditions import conditions
from wcsim.report.measures import spec_of
from wcsim.report.page import Tile
from wcsim.report.sections import Section, Table, write_page
from wcsim.runs.run import Run
from wcsim.strict_yaml import dump_yaml

SCORES = {
    "success": ("success_rate", "success_interval", "Success rate"),
    "final_progress": ("final_progress", "final_progress_interval", "Progress at the end"),
    "max_progress": ("max_progress", "max_progress_interval", "Most progress"),
    "return": ("return", "return_interval", "Return"),
}
"""Score to its value, its interval and its name."""

STATISTICS = {"pearson": "Pearson's r", "spearman": "Spearman's rho", "mmrv": "MMRV"}


def write_evaluation(run: Run) -> Path:
    """Write `report.html` into the run; returns its path.  Raises RunError where the run has not ended."""
    summary = run.read_summary()
    config, score = run.config, SCORES[summary["score"]][2].lower()
    places = f"{'in the truth, ' if summary['agreement'] else ''}in the world {config['world']} without a cache"
    lede = (
        f"{len(summary['policies'])} policies played the task "
        f"{config['task']['name']} from {phrases.plural(summary['starts'], 'start')} for at most "
        f"{phrases.plural(summary['max_steps'], 'step')}, {places} and with it. "
        f"They are compared by {score}. Progress is the task's {spec_of(run.manifest).progress}. "
        f"{conditions(run)}"
    )
    true = [_agreement(summary)] if summary["agreement"] else [_ranking(summary)]
    read = [_estimator(summary)] if summary["estimator"] else []
    sections = [*true, _caching(summary), _policies(summary), *read, _timing(summary)]
    return write_page(
        run.path / "report.html", str(config["name"]), lede, sections, tiles=tiles(summary),
        sources={"Configuration": dump_yaml(config),
                 "Manifest": dumps(run.manifest, indent=2)},
        also=", and episodes.csv every episode",
    )


def tiles(summary: Mapping[str, Any]) -> list[Tile]:
    """The key numbers."""
    shown = list[Tile]()
    for name, title in STATISTICS.items() if summary["agreement"] else ():
        by = summary[name]
        shown.append(Tile(f"{title}, uncached", by["uncached"], phrases.number(by["uncached"], 3),
                         ("95% interval", ends(by["uncached_interval"]))))
        shown.append(Tile("changed by caching", by["change"], signed(by["change"]),
                         ("95% interval", ends(by["change_interval"], signed))))
    return shown


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return phrases.NONE if value is None else f"{value:+.3f}"


def ends(
    interval: Sequence[float | None], write: Callable[[float | None], str] = lambda value: phrases.number(value, 3)
) -> str:
    """An interval as text."""
    low, high = (write(end) for end in interval)
    return phrases.NONE if None in interval else f"{low} to {high}"


def _ranking(summary: Mapping[str, Any]) -> Section:
    """The policies, best first, where there is no truth to compare with."""
    value, interval, title = SCORES[summary["score"]]
    ranked = sorted(summary["policies"], key=lambda policy: (-policy["uncached"][value], policy["name"]))
    rows = tuple((str(rank), policy["name"], *(text for place in summary["places"] for text in (
        phrases.number(policy[place][value], 3), ends(policy[place][interval]))))
        for rank, policy in enumerate(ranked, start=1))
    table = Table(title, ("rank", "policy", *(text for place in summary["places"] for text in (place, "95%"))), rows)
    return Section("ranking", "Which policy is best in the world?",
                   f"By {title.lower()} in the uncached world: {', '.join(policy['name'] for policy in ranked)}. No "
                   "simulator or robot was asked, so nothing here says how well the world knows the truth.",
                   tables=(table,))


def _agreement(summary: Mapping[str, Any]) -> Section:
    r, violation = summary["pearson"], summary["mmrv"]
    reading = (
        f"Between the uncached world and the truth, Pearson's r is {phrases.number(r['uncached'], 3)} and the mean "
        f"maximum rank violation {phrases.number(violation['uncached'], 3)}; with the cache they are "
        f"{phrases.number(r['cached'], 3)} and {phrases.number(violation['cached'], 3)}."
    )
    rows = []
    for score, (_, _, title) in SCORES.items():
        for name, statistic in STATISTICS.items():
            by = summary["agreement"][score][name]
            rows.append((f"{title}, {statistic}", *(
                text for key, write in (("uncached", None), ("cached", None), ("change", signed))
                for text in ((write or (lambda value: phrases.number(value, 3)))(by[key]),
                             ends(by[f"{key}_interval"], *([write] if write else []))))))
    table = Table("Agreement with the truth", ("", "uncached", "95%", "cached", "95%", "change", "95%"), tuple(rows))
    return Section(
        "agreement", "Does the world rank policies as the truth does?", reading,
        "Each point is a policy; bars are 95% intervals of its mean. On the dashed line world and truth agree. A "
        "statistic is missing where all policies score alike. MMRV is in the unit of the score, and 0 is best.",
        tuple(scatter(summary, score) for score in dict.fromkeys((summary["score"], "success"))), (table,),
    )


def scatter(summary: Mapping[str, Any], score: str) -> Panel:
    """Score in the world against score in the truth, a point per policy and world."""
    value, interval, title = SCORES[score]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for world, marker in (("uncached", "o"), ("cached", "D")):
            points = [(policy["truth"], policy[world]) for policy in summary["policies"]]
            x, y = (np.array([point[side][value] for point in points]) for side in (0, 1))
            bars = [np.abs(np.array([point[side][interval] for point in points], dtype=np.float64).T
                           - centre) for side, centre in ((0, x), (1, y))]
            axes.errorbar(x, y, xerr=np.nan_to_num(bars[0]), yerr=np.nan_to_num(bars[1]), linestyle="none",
                          marker=marker, markersize=4.5, linewidth=0.8, color=colour(world), label=f"{world} world")
        _diagonal(axes)
        _name(axes, {policy["name"]: (policy["truth"][value], policy["uncached"][value])
                     for policy in summary["policies"]})
        axes.set_xlabel(f"{title.lower()}, in the truth")
        axes.legend(loc="upper left")
        plain_numbers(axes)

    return Panel(f"{title}: world against truth",
                 draw(f"scatter-{score}", f"{title} of every policy in the world against the truth", paint,
                      height_in=3.8))


def _name(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Names beside the axes, each with a line to its point: policies may score alike, their names shall not overlap."""
    low, high = axes.get_ylim()
    height = -1.0
    for name, point in sorted(points.items(), key=lambda item: item[1][1]):
        height = max((point[1] - low) / (high - low), height + 0.07)
        axes.annotate(name, point, xytext=(1.03, height), textcoords="axes fraction", fontsize=7, va="center",
                      color=colour("muted"), annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": colour("muted"), "shrinkB": 3})


def _diagonal(axes: Axes) -> None:
    low, high = min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color=colour("truth"), linewidth=1.0, linestyle=(0, (5, 2)))
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)


def _caching(summary: Mapping[str, Any]) -> Section:
    caching, cache = summary["caching"], summary["cache"]
    reading = (
        f"The cache skipped the deep blocks in {phrases.percent(cache['hit_rate'])} of denoise steps. It changed the "
        f"progress at the end by {signed(caching['final_progress'])} on average "
        f"({ends(caching['final_progress_interval'], signed)}); single episodes ended "
        f"{phrases.number(caching['final_progress_apart'], 3)} apart. "
        f"{phrases.plural(caching['only_uncached'], 'episode')} succeeded only without it and "
        f"{caching['only_cached']} only with it (McNemar p = "
        f"{phrases.number(caching['mcnemar_p'], 3)})."
    )
    rows = tuple(
        (policy["name"], signed(policy["caching"]["final_progress"]),
         ends(policy["caching"]["final_progress_interval"], signed), str(policy["caching"]["only_uncached"]),
         str(policy["caching"]["only_cached"]), phrases.number(policy["caching"]["mcnemar_p"], 3))
        for policy in summary["policies"]
    )
    table = Table("Cached less uncached, same starts and noise",
                  ("policy", "progress", "95%", "won by uncached alone", "won by cached alone", "McNemar p"), rows)
    return Section("caching", "What does caching change?", reading, panels=(_change_panel(summary),), tables=(table,))


def _change_panel(summary: Mapping[str, Any]) -> Panel:
    policies = summary["policies"]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, policy in enumerate(policies):
            low, high = policy["caching"]["final_progress_interval"]
            if low is not None:
                axes.plot([low, high], [place, place], color=colour("cached"))
            axes.plot(policy["caching"]["final_progress"], place, marker="D", color=colour("cached"), markersize=4.5)
        axes.axvline(0.0, color=colour("truth"), linewidth=1.0, linestyle=(0, (5, 2)))
        axes.set_yticks(range(len(policies)), [policy["name"] for policy in policies])
        axes.invert_yaxis()
        axes.set_xlabel("progress at the end, cached less uncached")

    return Panel("Change by caching, with 95% intervals",
                 draw("caching", "Change of progress by caching, per policy", paint, height_in=3.8))


def _policies(summary: Mapping[str, Any]) -> Section:
    tables, places = [], summary["places"]
    for value, interval, title in SCORES.values():
        write = phrases.percent if value == "success_rate" else (lambda number: phrases.number(number, 3))
        rows = tuple(
            (policy["name"], *(text for place in places
                               for text in (write(policy[place][value]), ends(policy[place][interval], write))))
            for policy in summary["policies"])
        tables.append(Table(title, ("policy", *(text for place in places for text in (place, "95%"))), rows))
    clipped = tuple((policy["name"], phrases.percent(policy["clipped"])) for policy in summary["policies"])
    tables.append(Table("Actions out of bounds, which were clipped", ("policy", "share of actions"), clipped))
    return Section("policies", "Every policy in every place", tables=tuple(tables))


def _estimator(summary: Mapping[str, Any]) -> Section:
    read = summary["estimator"]
    error = read["progress_error"]
    return Section("estimator", "How far the estimator can be trusted", (
        f"On the last frames of {phrases.plural(read['episodes'], 'true episode')}, whose state is known, the "
        f"estimator reads progress {signed(read['progress_bias'])} off on average, {phrases.number(error['p50'], 3)} "
        f"in the median and at most {phrases.number(error['p95'], 3)} in 19 of 20; it agrees on success in "
        f"{phrases.percent(read['success_agreement'])} of them."))


def _timing(summary: Mapping[str, Any]) -> Section:
    rows = tuple((place, *(phrases.number(summary["timing"][place][key], decimals)
                           for key, decimals in (("steps", 0), ("seconds", 0), ("seconds_per_step", 4))))
                 for place in summary["places"])
    return Section("timing", "What it cost", tables=(
        Table("Process seconds, policies and estimator included", ("", "steps", "seconds", "seconds per step"), rows),))
