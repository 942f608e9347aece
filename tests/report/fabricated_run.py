"""A run that never happened, for tests of the report alone: rows and frames are drawn from formulas and a seed.

Three tasks: one with a robot and a thing on a table, one without any position, one without any quantity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pytest

from wcsim.experiments.summary import PLACES, summarise
from wcsim.runs.run import Run
from wcsim.spec import Quantity, StateSpec

TABLE = StateSpec((
    Quantity("agent", 2, "px", "position", "robot", low=0.0, high=512.0),
    Quantity("block", 2, "px", "position", goal=True, low=0.0, high=512.0, moved=1.0, lost=20.0),
    Quantity("block_angle", 1, "rad", "angle", goal=True, weight=60.0),
), "coverage")

ARM = StateSpec((
    Quantity("grip", 1, "1", "binary", "robot"),
    Quantity("hand", 4, "1", "quaternion", "robot"),
    Quantity("height", 1, "cm", "scalar", goal=True, low=0.0, high=40.0, lost=5.0),
), "height reached")

RECORDING = StateSpec(())

SPECS = {"table": TABLE, "arm": ARM, "recording": RECORDING}

NAMES = ("$x$", r"\frac{1}{2}", "[red]alert[/red]", "#0072b2", "<b>bold</b>")
"""Names that a figure, a page or a terminal might take for something else than text."""

CONFIG: dict[str, Any] = {
    "name": "fabricated", "world": "made-up", "task": {"name": "table", "options": {"start": "near"}},
    "episodes": 3, "first_seed": 700_000, "max_steps": 12, "acts_in": "world", "device": "cpu", "threads": 2,
    "fidelity": {"steps": 10, "solver": "euler", "context": None, "chunk": None,
                 "cache": {"kind": "worldcache", "threshold": 0.05}},
    "policy": {"kind": "mpc", "name": "mpc", "horizon": 8, "error_bound": 0.3,
               "fidelity": {"steps": 4, "cache": {"kind": "none"}}},
    "deadline_ms": 1000.0,
}

SIZE = 96


class Fabricate(Protocol):
    def __call__(
        self, path: Path, *, spec: StateSpec = TABLE, episodes: int = 3, steps: int = 12, denoise: int = 10,
        labels: str = "none", **config: Any
    ) -> Run: ...


@pytest.fixture(scope="session", name="fabricate")
def fixture_fabricate() -> Fabricate:
    return fabricate


def manifest_of(spec: StateSpec = TABLE, labels: str = "none") -> dict[str, Any]:
    """What a manifest holds of a task and a world."""
    return {"device": "cpu", "torch_threads": 2, "versions": {"wcsim": "0.1.0"}, "seeds": {"first_seed": 700_000},
            "state": spec.to_json(), "labels": labels}


def begin(path: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Run:
    """A new run."""
    return Run.create(path, config, manifest)


def record(run: Run, steps: Sequence[Mapping[str, Any]], episode: Mapping[str, Any]) -> None:
    """Add an episode to a run."""
    run.record(f"episode={episode['episode']}", steps, episode)


def fabricate(
    path: Path, *, spec: StateSpec = TABLE, episodes: int = 3, steps: int = 12, denoise: int = 10,
    labels: str = "none", **config: Any
) -> Run:
    """A complete run directory; without episodes there is no summary either."""
    given = {**CONFIG, "episodes": episodes, "max_steps": steps, **config}
    run = begin(path, given, manifest_of(spec, labels))
    rng = np.random.default_rng(0)
    for episode in range(episodes):
        count = steps - episode % 2
        decisions = _decisions(rng, count, denoise)
        rows = [_step(rng, spec, episode, h, decisions["hit"][h - 1]) for h in range(1, count + 1)]
        poses = _poses(rows)
        run.save_arrays(f"ep_{episode:04d}", actions=np.zeros((count, 2)), **decisions,
                        **{place: np.array([scene(*pose) for pose in path]) for place, path in poses.items()})
        record(run, rows, _episode(episode, rows))
    if episodes:
        run.write_summary(summarise(run, deadline_ms=given["deadline_ms"], fps=10.0))
    return run


def scene(agent: np.ndarray, block: np.ndarray) -> np.ndarray:
    """`[96, 96, 3]` uint8: a goal, a T at `block` (x, y, angle) and an agent at `[2]`, in frame pixels."""
    frame = np.full((SIZE, SIZE, 3), 255, dtype=np.uint8)
    for (x, y, angle), tint in (((48.0, 48.0, 0.8), (144, 238, 144)), (tuple(block), (119, 136, 153))):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        for bar in (((-11, -3), (11, -3), (11, 3), (-11, 3)), ((-3, 3), (3, 3), (3, 19), (-3, 19))):
            cv2.fillPoly(frame, [np.rint(np.array(bar) @ turn.T + (x, y)).astype(np.int32)], tint)
    cv2.circle(frame, tuple(np.rint(agent).astype(int).tolist()), 3, (65, 105, 225), -1)
    return frame


def _decisions(rng: np.random.Generator, steps: int, denoise: int) -> dict[str, np.ndarray]:
    """A drift that adds up until it passes the threshold."""
    hit = np.zeros((steps, denoise), dtype=bool)
    drift, threshold, gain = (np.full((steps, denoise), np.nan, dtype=np.float32) for _ in range(3))
    for t in range(steps):
        total = 0.0
        for s in range(1, denoise):
            total += float(rng.uniform(0.005, 0.03) * (1.0 + 1.5 * (s > 0.8 * denoise)))
            drift[t, s], threshold[t, s], gain[t, s] = total, 0.05 * (1.0 + 0.5 * s / denoise), 1.0
            hit[t, s] = 2 < s < denoise - 1 and total < threshold[t, s]
            total = total if hit[t, s] else 0.0
    return {"hit": hit, "drift": drift, "threshold": threshold, "gain": gain}


def _errors(rng: np.random.Generator, spec: StateSpec, horizon: int, scale: float) -> dict[str, float | None]:
    size = scale * float(rng.lognormal(0.0, 0.35)) * horizon
    errors: dict[str, float | None] = {
        "psnr_db": 38.0 - 4.0 * float(np.log1p(size)), "ssim": 1.0 - 0.004 * size, "latent": 0.02 * size,
    }
    lost = bool(rng.random() < 0.02)
    for place, quantity in enumerate(spec):
        error = float(size > 9.0) if quantity.kind == "binary" else 0.3 * (place + 1) * size
        errors[quantity.metric] = None if lost and quantity.role == "scene" else error
    return errors


def _spans(rng: np.random.Generator, hit: np.ndarray, reason: str | None) -> dict[str, float]:
    deep, probe = 11.0 * (hit.size - float(hit.sum())) * rng.uniform(0.95, 1.1), 1.9 * hit.size
    spans = {"embed": 6.0, "head": 5.0, "probe": probe, "deep": deep, "policy": 9.0, "decode": 14.0,
             "estimate": 4.0, "encode": 7.0}
    spans["imagine"] = probe + deep + 9.0 + 18.0 + rng.uniform(2.0, 6.0)
    spans["plan"] = 1.2 if reason is None else float(rng.uniform(900.0, 1300.0))
    spans["step"] = sum(spans[name] for name in ("plan", "imagine", "decode", "estimate"))
    return spans


def _step(rng: np.random.Generator, spec: StateSpec, episode: int, horizon: int, hit: np.ndarray) -> dict[str, Any]:
    reason = "start" if horizon == 1 else "error" if rng.random() < 0.08 else "schedule" if horizon % 4 == 1 else None
    spans = _spans(rng, hit, reason)
    prediction = None if horizon == 1 else {
        "latent": float(rng.gamma(4.0, 0.035)) + (0.25 if reason == "error" else 0.0),
        **{metric: None if place else 1.0 for place, metric in enumerate(spec.metrics)},
    }
    progress = min(0.96, 0.35 + 0.5 * horizon / 14 + 0.04 * episode)
    return {
        "episode": episode, "horizon": horizon,
        "error": {"cached_vs_truth": _errors(rng, spec, horizon, 1.05),
                  "uncached_vs_truth": _errors(rng, spec, horizon, 1.0),
                  "cached_vs_uncached": _errors(rng, spec, horizon, 0.2)},
        "progress": {"truth": progress - 0.03, "cached": progress, "uncached": progress - 0.01},
        "reward": progress, "clipped": horizon % 4 == 0, "shape_ok": dict.fromkeys(PLACES, True), "spans_ms": spans,
        "imagine_ms": {"cached": spans["imagine"], "uncached": 13.2 * hit.size + 30.0 * rng.uniform(0.9, 1.2)},
        "hit_rate": float(hit.mean()), "skipped": float(hit.mean()) * 0.85,
        "plan": {"reason": reason, "cost": 0.4, "calls": 64 if reason else 0, "rounds": 2, "exhausted": False,
                 "deadline_met": True, "prediction_error": prediction},
    }


def _poses(rows: list[dict[str, Any]]) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Place to agent and block per frame; the worlds' blocks wander off the truth's."""
    poses: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for place, drift in (("truth", 0.0), ("cached", 0.06), ("uncached", 0.05)):
        poses[place] = []
        for t in range(len(rows) + 1):
            share = t / len(rows)
            block = np.array([30.0 + 17.0 * share + drift * t, 34.0 + 12.0 * share - drift * t, 0.2 + 0.6 * share])
            poses[place].append((block[:2] - (12.0, 10.0 - 3.0 * np.sin(t)), block))
    return poses


def _episode(number: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    final = rows[-1]["progress"]
    return {
        "episode": number, "seed": 700_000 + number, "steps": len(rows), "acted_in": "cached",
        "success": {place: share > 0.82 for place, share in final.items()}, "final_progress": final,
        "return": sum(row["reward"] for row in rows), "clipped": sum(row["clipped"] for row in rows),
    }
