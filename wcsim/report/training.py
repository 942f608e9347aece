"""The page of a training: curves, held-out figures by horizon, and clips with the truth above imagination.

Easy to get wrong: the page stands alone and opens offline; clips are picked by rank of their error, not by eye.

Shapes: N episodes, h frames, H W frame.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wcsim.report.canvas import Panel, colour, draw
from wcsim.report.sheet import by_rank
from wcsim.report.template import drawn, fill
from wcsim.report.video import Clip, compose, encode_mp4
from wcsim.runs import files

Row = Mapping[str, Any]

MAIN = {"codec": "psnr_db", "state_model": None, "transformer": "velocity"}
"""The curve that says most of a stage; None: its loss."""


@dataclass(frozen=True, slots=True)
class Clips:
    """truth, imagined: `[N, h, H, W, 3]` uint8.  quality: `[N]`, higher is better.  fps: frames per second."""

    truth: np.ndarray
    imagined: np.ndarray
    quality: np.ndarray
    fps: float


def write_training(out: Path, summary: Row, scalars: Sequence[Row], clips: Clips) -> Path:
    """Write `train.html` into a folder; returns its path."""
    videos = []
    for rank, number in zip(("good", "middling", "bad"), by_rank(-clips.quality), strict=True):
        clip = Clip({"truth": clips.truth[number], "uncached": clips.imagined[number]}, {})
        content = encode_mp4(compose(clip), clips.fps)
        videos.append((f"a {rank} episode, {clips.quality[number]:.1f} dB",
                       "data:video/mp4;base64," + b64encode(content).decode()))
    page = out / "train.html"
    files.replace(page, fill(
        "training.html", title=summary["world"], summary=summary, videos=videos, curves=drawn(curves(scalars)),
        horizons=drawn([*horizon_panels(summary), *state_panels(summary)])).encode())
    return page


def curves(scalars: Sequence[Row]) -> list[Panel]:
    """Every scalar of every stage, training and held out, over steps."""
    names = dict.fromkeys((row["stage"], name) for row in scalars for name in (*row["train"], *row["held_out"]))
    return [curve(stage, name, [row for row in scalars if row["stage"] == stage]) for stage, name in names]


def curve(stage: str, name: str, rows: Sequence[Row]) -> Panel:
    """One scalar over steps."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for split, tint in (("train", "uncached"), ("held_out", "cached")):
            points = [(row["step"], row[split][name]) for row in rows if name in row[split]]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour(tint), label=split.replace("_", " "))
        axes.set_xlabel("step")
        axes.legend()

    title = f"{stage}: {name}"
    return Panel(title, draw(f"curve-{stage}-{name}", f"{title} against steps", paint, height_in=2.2))


def horizon_panels(summary: Row) -> list[Panel]:
    """PSNR and SSIM against the horizon, beside copying the last frame."""
    panels = []
    for name, title in (("psnr_db", "PSNR, dB"), ("ssim", "SSIM")):

        def paint(figure: Figure, name: str = name, title: str = title) -> None:
            axes = figure.add_subplot()
            for kind, label, tint in (("horizon", "imagined", "cached"), ("copy_last_frame", "last frame copied",
                                                                          "muted")):
                rows = summary[kind]
                axes.plot([int(h) for h in rows], [rows[h][name] for h in rows], color=colour(tint), marker="o",
                          label=label)
            axes.set_xlabel("frames ahead")
            axes.set_ylabel(title)
            axes.legend()

        panels.append(Panel(title, draw(f"horizon-{name}", f"{title} against frames ahead", paint)))
    return panels


def state_panels(summary: Row) -> list[Panel]:
    """Errors of the robot's state against the horizon, each as a share of what holding it would cost."""
    errors = summary["robot_state"]
    if errors is None:
        return []

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        horizons = [int(h) for h in errors["predicted"]]
        share = np.array([errors["predicted"][str(h)] for h in horizons]) / np.maximum(
            np.array([errors["held"][str(h)] for h in horizons]), 1e-9)
        axes.plot(horizons, share, marker="o", color=colour("cached"), alpha=0.6)
        axes.set_xlabel("frames ahead")
        axes.set_ylabel("error / error of holding")
        axes.set_ylim(bottom=0)

    title = "Robot state, each number"
    return [Panel(title, draw("state", "Error of the predicted robot state as a share of that of holding it", paint))]
