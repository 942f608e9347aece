"""The figures of what the cache decided: when the deep blocks ran, and the drift that decided it.

Easy to get wrong: a policy without a drift leaves NaN, and so does a first step; neither is drawn as zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

from wcsim.report.canvas import Panel, colour, count_axis, draw, label_ends, last_finite

ROW_GAP = 0.12
"""Share of a row left empty between rollout steps."""


def decision_panels(episode: int, shown: dict[str, np.ndarray], hits: Sequence[np.ndarray]) -> list[Panel]:
    """Panels of one episode's decisions.

    shown: `hit` bool, `drift`, `threshold` float32, each `[T, S]`, of that episode.  hits: `hit` of every episode.
    """
    if shown["hit"].size == 0:
        return []
    return [_map_panel(episode, shown["hit"], np.concatenate(list(hits))), *_drift_panel(episode, shown)]


def _map_panel(episode: int, hit: np.ndarray, all_hits: np.ndarray) -> Panel:
    def paint(figure: Figure) -> None:
        top, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 4))
        count = hit.shape[1]
        share = 100.0 * all_hits.mean(axis=0)
        top.fill_between(np.arange(count + 1) + 0.5, np.append(share, share[-1]), step="post",
                         color=colour("muted"), alpha=0.35, linewidth=0)
        top.set_ylim(0, 100)
        top.set_yticks([0, 100], ["0%", "100%"])
        top.tick_params(bottom=False)
        axes.add_patch(PathPatch(computed_cells(~hit), facecolor=colour("computed"), linewidth=0))
        axes.set_facecolor(colour("skipped"))
        axes.grid(False)
        axes.set_xlim(0.5, count + 0.5)
        axes.set_ylim(len(hit) + 0.5, 0.5)
        axes.set_ylabel("rollout step")
        count_axis(axes, "denoise step")
        axes.yaxis.get_major_locator().set_params(integer=True)
        handles = [Patch(facecolor=colour(name), edgecolor=colour("computed"), linewidth=0.6, label=name)
                   for name in ("computed", "skipped")]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
        top.text(1.02, 0.5, "skipped,\nall episodes", transform=top.transAxes, va="center", color=colour("muted"))

    description = (
        f"Which denoise steps ran the deep blocks at each rollout step of episode {episode}, "
        "and above it the share of steps that skipped them over all episodes"
    )
    return Panel(f"Deep blocks, episode {episode}", draw("cache-map", description, paint, height_in=3.5))


def computed_cells(computed: np.ndarray) -> Path:
    """One outline around every run of True cells of `[T, S]`, with cell (t, s) centred on x = s + 1, y = t + 1."""
    vertices: list[tuple[float, float]] = []
    for row, cells in enumerate(computed, start=1):
        changes = np.flatnonzero(np.diff(np.concatenate(([0], cells.astype(np.int8), [0]))))
        low, high = row - 0.5 + ROW_GAP / 2, row + 0.5 - ROW_GAP / 2
        for left, right in zip(changes[::2] + 0.5, changes[1::2] + 0.5, strict=True):
            vertices += [(left, low), (right, low), (right, high), (left, high), (left, low)]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * (len(vertices) // 5)
    return Path(np.array(vertices).reshape(-1, 2), codes)


def _drift_panel(episode: int, shown: dict[str, np.ndarray]) -> list[Panel]:
    drift, threshold = shown["drift"], shown["threshold"]
    step = len(drift) // 2
    if not np.isfinite(drift[step]).any():
        return []

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        denoise = np.arange(1, drift.shape[1] + 1)
        _band(axes, drift)
        axes.plot(denoise, drift[step], color=colour("muted"), linewidth=1.1)
        for skipped, name in ((False, "computed"), (True, "skipped")):
            at = (shown["hit"][step] == skipped) & np.isfinite(drift[step])
            axes.plot(denoise[at], drift[step][at], linestyle="none", marker="o", markersize=4.5, label=name,
                      markerfacecolor=colour(name), markeredgecolor=colour("computed"))
        axes.plot(denoise, threshold[step], color=colour("alert"), linewidth=1.3, linestyle=(0, (5, 2)))
        axes.set_ylim(0, 1.05 * max(np.nanmax(drift), np.nanmax(threshold[step], initial=0.0)))
        count_axis(axes, "denoise step")
        end = last_finite(threshold[step])
        label_ends(axes, [] if end is None else [(end, "threshold", "alert")])
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderaxespad=0.2, handletextpad=0.2)

    description = f"Drift against threshold over the denoise steps of rollout step {step + 1}, episode {episode}"
    title = f"Drift, episode {episode}, rollout step {step + 1}"
    return [Panel(title, draw("cache-drift", description, paint, height_in=3.5))]


def _band(axes: Axes, drift: np.ndarray) -> None:
    """Where the middle 80 % of the episode's rollout steps lie."""
    columns = [column[np.isfinite(column)] for column in drift.T]
    low, high = np.array([np.percentile(c, [10, 90]) if c.size else (np.nan, np.nan) for c in columns]).T
    axes.fill_between(np.arange(1, len(columns) + 1), low, high, color=colour("muted"), alpha=0.15, linewidth=0)
