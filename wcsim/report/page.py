"""One self-contained page per run, made from what is on disk.

Every number comes from `summary.json` or the rows, so a page can be written again at any time.  Easy to get wrong:
names in a configuration are untrusted text; only the SVG that this package draws goes into the page unescaped.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.metrics.horizon import COMPARISONS
from wcsim.report import phrases
from wcsim.report.conditions import conditions
from wcsim.report.decisions import decision_panels
from wcsim.report.figures import PLACES, error_panels, latency_panels, task_panels
from wcsim.report.measures import Measure, leading, measures, spec_of
from wcsim.report.template import drawn, fill
from wcsim.report.video import Clip, compose, encode_mp4
from wcsim.runs import files
from wcsim.runs.run import Run
from wcsim.strict_yaml import dump_yaml

EMBEDDED = 3
"""Episodes whose video is inside the page; the others lie beside it."""

DEFAULT_FPS = 10.0
"""Of the videos of a run too short to say how fast its world moves."""

SPAN_TREE = {
    "plan": 1, "truth": 1, "imagine": 1, "encode": 2, "state_model": 2, "embed": 2, "policy": 2, "probe": 2, "deep": 2,
    "head": 2, "solver": 2, "decode": 1, "estimate": 1,
}
"""Span to its depth inside the control step, in reading order; others follow at depth 1."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A key number.  value: as in the summary.  text: as people read it.  notes: what to read it against, by line."""

    name: str
    value: float | None
    text: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Video:
    """One episode's video.  source: a data URI, or None where it is not inside the page."""

    episode: int
    file: str
    caption: str
    source: str | None


def write_report(run_dir: Path) -> Path:
    """Write `episode_*.mp4` and `report.html` into a run directory; returns the page's path.

    Raises RunError where there is no run, or one that has not written its summary yet.
    """
    run = Run(run_dir)
    summary = run.read_summary()
    kept = {row["episode"]: arrays for row in run.episodes if (arrays := _arrays(run, row["episode"])) is not None}
    fps = frames_per_second(summary)
    videos = [_write_video(run, row, fps, embed=i < EMBEDDED)
              for i, row in enumerate(row for row in run.episodes if row["episode"] in kept)]
    page = run.path / "report.html"
    files.replace(page, render(run, summary, kept, videos).encode())
    return page


def _arrays(run: Run, episode: int) -> dict[str, np.ndarray] | None:
    name = f"ep_{episode:04d}"
    return run.load_arrays(name) if run.has_arrays(name) else None


def frames_per_second(summary: Mapping[str, Any]) -> float:
    """World frames per second: as stored, or as the real-time factor implies."""
    mean, factor = (summary.get("latency_ms") or {}).get("mean"), summary.get("real_time_factor")
    if summary.get("fps"):
        return float(summary["fps"])
    return round(1e3 / (mean * factor), 3) if mean and factor else DEFAULT_FPS


def clip_of(run: Run, episode: int) -> Clip:
    """One recorded episode, ready to be shown.  Raises RunError where its arrays are not there."""
    arrays = run.load_arrays(f"ep_{episode:04d}")
    steps = [step for step in run.steps if step["episode"] == episode]
    measure = leading(spec_of(run.manifest))
    errors = {place: np.array([step["error"][f"{place}_vs_truth"][measure.key] for step in steps], dtype=np.float64)
              for place in ("cached", "uncached")}
    # At the start all places show the same frame: no error, and a similarity without a bound.
    return Clip({place: arrays[place] for place in PLACES}, errors, measure.title, np.nan if measure.rises else 0.0)


def _write_video(run: Run, row: Mapping[str, Any], fps: float, *, embed: bool) -> Video:
    number = row["episode"]
    content = encode_mp4(compose(clip_of(run, number)), fps)
    path = run.path / f"episode_{number:04d}.mp4"
    files.replace(path, content)
    ended = ", ".join(f"{place} {phrases.percent(row['final_progress'][place])}" for place in PLACES)
    progress = spec_of(run.manifest).progress
    caption = f"Episode {number}, {phrases.plural(row['steps'], 'step')}. {progress.capitalize()} at the end: {ended}."
    source = f"data:video/mp4;base64,{b64encode(content).decode()}" if embed else None
    return Video(number, path.name, caption, source)


def render(
    run: Run, summary: Mapping[str, Any], kept: Mapping[int, dict[str, np.ndarray]], videos: Sequence[Video]
) -> str:
    """The page.  kept: episode to its arrays, those there are."""
    hits = [arrays["hit"] for arrays in kept.values()]
    spec = spec_of(run.manifest)
    what_ran = phrases.what_ran(run.config, run.manifest, hits[0].shape[1] if hits else None)
    return fill(
        "page.html",
        title=str(run.config.get("name", run.path.name)),
        what_ran=f"{what_ran} {conditions(run)}",
        summary=summary,
        tiles=tiles(summary, spec.progress, leading(spec)),
        progress=spec.progress,
        measures=measures(spec),
        videos=videos,
        panels=_panels(run, summary, kept),
        readings=_readings(summary, leading(spec)),
        spans=list(span_rows(summary)),
        episodes=run.episodes,
        comparisons=tuple(COMPARISONS),
        horizons=sorted(summary["error"]["cached_vs_truth"], key=int),
        fps=frames_per_second(summary),
        config=dump_yaml(run.config),
        manifest=dumps(run.manifest, indent=2),
    )


def _panels(
    run: Run, summary: Mapping[str, Any], kept: Mapping[int, dict[str, np.ndarray]]
) -> dict[str, list[dict[str, Any]]]:
    """Section to its drawings."""
    spec = spec_of(run.manifest)
    shown = next(iter(kept), None)
    hits = [arrays["hit"] for arrays in kept.values()]
    error_bound = (run.config.get("policy") or {}).get("error_bound")
    return {
        "error": drawn(error_panels(run.steps, spec)),
        "latency": drawn(latency_panels(run.steps, summary.get("deadline_ms"))),
        "cache": drawn([] if shown is None else decision_panels(shown, kept[shown], hits)),
        "task": drawn(task_panels(run.steps, spec.progress, error_bound)),
    }


def _readings(summary: Mapping[str, Any], measure: Measure) -> dict[str, str]:
    """Section to the sentence that says what there is to see."""
    return {"error": phrases.error_reading(summary, measure), "latency": phrases.latency_reading(summary),
            "cache": phrases.cache_reading(summary), "planning": phrases.planning_reading(summary)}


def tiles(summary: Mapping[str, Any], progress: str, measure: Measure) -> list[Tile]:
    """The key numbers of a run.  progress: what the task calls its own measure."""
    by_place = summary.get("final_progress_by_place") or {}
    latency = (summary.get("latency_ms") or {}).get("p95")
    success, reached, hit_rate, speedup = (
        summary.get(name) for name in ("success_rate", "final_progress", "hit_rate", "speedup")
    )
    return [
        Tile("Success", success, phrases.percent(success),
             _interval(summary.get("success_interval"), phrases.percent, f", n = {summary.get('episodes')}")),
        Tile(f"{progress.capitalize()} at the end", reached, phrases.percent(reached),
             tuple(f"{place} {phrases.percent(by_place.get(place))}" for place in ("truth", "uncached"))),
        Tile("Cache speed-up", speedup, phrases.times(speedup),
             _interval(summary.get("speedup_interval"), phrases.times)),
        Tile("Cache hit rate", hit_rate, phrases.percent(hit_rate),
             ("of denoise steps;", f"{phrases.percent(summary.get('skipped'))} of blocks")),
        Tile("Latency, p95", latency, phrases.measured(latency, "ms"),
             (f"deadline {phrases.measured(summary.get('deadline_ms'), 'ms')},",
              f"met by {phrases.percent(summary.get('deadline_attainment'))}")),
        *(_error_tile(summary["error"], horizon, measure) for horizon in ("8", "16")),
    ]


def _error_tile(error: Mapping[str, Any], horizon: str, measure: Measure) -> Tile:
    cached, uncached = (error[f"{place}_vs_truth"][horizon].get(measure.key) for place in ("cached", "uncached"))
    name = f"{'Similarity' if measure.rises else 'Error'} at {horizon} steps"
    return Tile(name, cached, phrases.measured(cached, measure.unit),
                (f"{measure.name};", f"uncached {phrases.measured(uncached, measure.unit)}"))


def _interval(
    interval: Sequence[float | None] | None, write: Callable[[float | None], str], more: str = ""
) -> tuple[str, ...]:
    if interval is None or None in interval:
        return ("no interval",)
    return ("95% interval", phrases.span_of(*(write(end) for end in interval)) + more)


def span_rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Name, depth and percentiles of the control step and every span inside it."""
    spans = summary.get("spans_ms") or {}
    yield "control step", 0, summary.get("latency_ms") or {}
    for name in [*(name for name in SPAN_TREE if name in spans), *(name for name in spans if name not in SPAN_TREE)]:
        yield name, SPAN_TREE.get(name, 1), spans[name]
    yield "first step of an episode", 0, summary.get("first_step_ms") or {}
