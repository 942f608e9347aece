"""Short runs of the shipped worlds, and what their results are called in `tests/golden`.

This file alone knows today's names of the code: after a rename, adapt it here, and leave the stored names and numbers
as they are.  Easy to get wrong: nothing that depends on the clock may come in, no latency, speed-up or deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.config import validate
from wcsim.envs.tasks import Task, make_task
from wcsim.estimate import Estimate
from wcsim.experiments.bench.cache import run_cache_benchmark
from wcsim.experiments.bench.cache_settings import CacheBenchConfig
from wcsim.experiments.closed_loop import ClosedLoop, ClosedLoopConfig
from wcsim.experiments.evaluation import Evaluation, EvaluationConfig
from wcsim.runs.run import Run

PLACES = ("truth", "cached", "uncached")
STEPS = 5
"""Steps of every closed loop and evaluation."""
PUSHT = {"name": "pusht", "options": {"start": "near", "near_px": 60, "near_degrees": 25}}
PENDULUM = {"name": "pendulum"}
WORLDCACHE = {"steps": 8, "solver": "euler", "cache": {"preset": "worldcache", "threshold": 0.2}}
OURS = {"steps": 8, "solver": "unipc", "context": 2, "cache": "wcsim"}
PLANNER = {"kind": "mpc", "horizon": 4, "rounds": 2, "candidates": 6, "elites": 2, "replan_every": 2}

CLOSED_LOOPS: dict[str, dict[str, Any]] = {
    "pusht-96": {
        "first_seed": 700_006, "task": PUSHT, "fidelity": WORLDCACHE,
        "policy": {**PLANNER, "fidelity": {"steps": 2, "context": 2}, "objective": {"kind": "state_goal"}},
    },
    "pendulum-64": {
        "task": PENDULUM, "fidelity": WORLDCACHE,
        "policy": {**PLANNER, "fidelity": {"steps": 2, "context": 2},
                   "objective": {"kind": "latent_goal", "discount": 0.5}},
    },
}
EVALUATIONS: dict[str, dict[str, Any]] = {
    "pusht-96": {"task": PUSHT, "policies": [{"kind": "expert", "name": "expert"},
                                             {"kind": "random", "name": "random", "hold": 2}]},
    "pendulum-64": {"task": PENDULUM, "policies": [{"kind": "random", "name": "random", "hold": 2},
                                                   {"kind": "replay", "name": "no torque", "path": "zeros.npy"}]},
}
BENCHMARK = {
    "episodes": 2, "horizon": 4, "rounds": 1, "batches": [2], "steps": [8], "reference_steps": 12,
    "sweeps": [{"policy": "worldcache", "knob": "threshold", "values": [0.2]},
               {"policy": "wcsim", "knob": "threshold", "values": [0.2]}],
}

ERRORS = {
    "pusht": {"agent_px": "agent_xy", "block_px": "block_xy", "block_angle_deg": "block_angle_deg"},
    "pendulum": {"tip_px": "tip_xy", "angle_deg": "rod_angle_deg"},
}
"""Errors of the bodies, by task; those of frames are in `PICTURES`."""
PICTURES = {"psnr_db": "psnr_db", "ssim": "ssim", "latent": "latent_distance"}
SKIPPED = {"hit_rate": "denoise_steps_skipped", "skipped": "blocks_skipped"}
EPISODE = {
    "steps": "steps", "success": "success", "final_progress": "final_progress", "max_progress": "best_progress",
    "return": "return", "estimated_success": "estimated_success", "estimated_progress": "estimated_final_progress",
    "progress": "progress_to_4_digits", **SKIPPED,
}
BENCHED = {"latent_error": "latent_error", "psnr_to_uncached_db": "psnr_to_uncached_db", "sharpness": "sharpness",
           "shape_ok": "shape_whole", **SKIPPED}


@dataclass(frozen=True, slots=True)
class Played:
    """What a run gave.  frames: by place, `[T + 1, H, W, 3]` uint8.  values: nested, by stored name."""

    frames: dict[str, np.ndarray]
    values: dict[str, Any]


def closed_loop(world: str, folder: Path) -> Played:
    """One episode of `STEPS` steps, planned in the cached world and played in the truth and in both worlds."""
    settings = {"name": "golden", "world": world, "episodes": 1, "max_steps": STEPS, "threads": 1}
    config = validate(ClosedLoopConfig, settings | CLOSED_LOOPS[world])
    run = ClosedLoop(config).run(folder / "run")
    arrays, rows = run.load_arrays("ep_0000"), run.steps
    task = make_task(config.task.name, **config.task.options)
    frames = {place: arrays[place] for place in PLACES}
    return Played(frames, {
        "actions": arrays["actions"],
        "state": true_states(task, config.first_seed, arrays["actions"]),
        "estimated": {place: named_states(task, task.estimate(seen)) for place, seen in frames.items()},
        "progress": {place: [row["progress"][place] for row in rows] for place in PLACES},
        "reward": [row["reward"] for row in rows],
        "error": {pair: {name: [row["error"][pair][ours] for row in rows]
                         for ours, name in {**PICTURES, **ERRORS[task.name]}.items()} for pair in rows[0]["error"]},
        "plan": {name: [row["plan"][ours] for row in rows]
                 for ours, name in {"cost": "cost", "calls": "model_calls", "rounds": "rounds"}.items()},
        "decisions": {"deep_blocks_skipped": arrays["hit"].astype(bool)},
        "cache": {name: arrays[name] for name in ("drift", "threshold", "gain")},
        "summary": _loop_summary(run),
    })


def _loop_summary(run: Run) -> dict[str, Any]:
    """The numbers of `summary.json` that no clock touches."""
    summary = run.read_summary()
    return {
        "success_rate": summary["success_rate"], "final_progress": summary["final_progress_by_place"],
        "shape_whole": summary["shape_ok"], "return": run.episodes[0]["return"], **renamed(summary, SKIPPED),
    }


def true_states(task: Task, seed: int, actions: np.ndarray) -> dict[str, Any]:
    """The simulator's own states under these actions, the start included."""
    truth = task.make_truth()
    seen = [truth.restore(task.start(seed).truth), *(truth.step(action) for action in actions)]
    truth.close()
    states = named_states(task, Estimate.join([look.estimate for look in seen]))
    if task.name == "pendulum":
        states["rod_speed"] = np.array([look.state[1] for look in seen])
    return states


def named_states(task: Task, estimate: Estimate) -> dict[str, Any]:
    """Estimates by their stored names, `[T, ...]`; lengths in simulator pixels, angles in radians, NaN if not found."""
    values = estimate.values
    place = {"tip_xy": values["tip"], "rod_angle": values["angle"][:, 0]} if task.name == "pendulum" else {
        "agent_xy": values["agent"], "block_xy": values["block"], "block_angle": values["block_angle"][:, 0]}
    return {**place, "progress": estimate.progress, "success": estimate.success}


def evaluation(world: str, folder: Path) -> Played:
    """Two policies from two starts in every place."""
    np.save(folder / "zeros.npy", np.zeros((STEPS, 1)))
    policies = [{**one, "path": str(folder / one["path"])} if "path" in one else one
                for one in EVALUATIONS[world]["policies"]]
    settings = {"name": "golden", "world": world, "starts": 2, "max_steps": STEPS, "threads": 1, "fidelity": OURS}
    config = validate(EvaluationConfig, settings | EVALUATIONS[world] | {"policies": policies})
    run = Evaluation(config).run(folder / "run", progress=lambda done, total: None)
    rows = {f"{row['policy']}, {row['place']}, start {row['start']}": renamed(row, EPISODE) for row in run.episodes}
    summary = run.read_summary()
    return Played({}, {
        "episodes": rows,
        "summary": {
            "final_progress": {one["name"]: {place: one[place]["final_progress"] for place in PLACES}
                               for one in summary["policies"]},
            "final_progress_error": summary["caching"]["final_progress_error"],
            "final_progress_apart": summary["caching"]["final_progress_apart"],
            "estimator_bias": summary["estimator"]["progress_bias"], **renamed(summary["cache"], SKIPPED),
        },
    })


def cache_benchmark(world: str, folder: Path) -> Played:
    """Two caches and no cache from two held-out starts: distances, errors and shares skipped."""
    folder.joinpath("run").mkdir()
    config = validate(CacheBenchConfig, {"name": "golden", "world": world} | BENCHMARK)
    summary = run_cache_benchmark(config, folder / "run", lambda line: None)
    bodies = ERRORS[EVALUATIONS[world]["task"]["name"]]
    rows = {f"{row['policy']} {row['knob']}".strip(): {
        **renamed(row, BENCHED), "truth_loss": renamed(row["truth_loss"], {"psnr": "psnr_db", **bodies}),
    } for row in summary["curves"]}
    errors = renamed(summary["official_errors"], {"psnr_db": "psnr_db", **bodies})
    return Played({}, {"contestants": rows, "uncached_error": errors,
                       "floor": renamed(summary["floor"], {"latent_error": "latent_error"})})


def renamed(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The named entries under their stored names."""
    return {stored: row[name] for name, stored in names.items()}


SCENARIOS: dict[str, Callable[[str, Path], Played]] = {
    "closed_loop": closed_loop, "evaluation": evaluation, "cache_benchmark": cache_benchmark,
}
SHIPPED = ("pusht-96", "pendulum-64")
