"""Measure PushT's pixel estimator against the simulator's state on held-out frames.

    python scripts/estimator_accuracy.py --codec wcsim/assets/pusht-96/vae --out out.json

Prints a table per condition (the simulator's frames; with noise; blurred; through the codec) and group of frames
(docs/history/judge.md says what they are), and writes the same numbers as JSON.  Frames near the goal are rendered
here: exploration seldom comes there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely

from wcsim.envs.pusht import AGENT_RADIUS_PX, SCENE, PushT, block_gap
from wcsim.envs.pusht_estimator import PushTEstimator
from wcsim.envs.pusht_truth import GOAL_POSE, SUCCESS_COVERAGE, TABLE_PX, PushTTruth, TruthFrame, start_at, values_of
from wcsim.envs.tasks import make_task, play_exploration
from wcsim.estimate import Estimate

NOISE_SIGMA = 4.0
"""Standard deviation of the added noise in grey levels: 36 dB."""

BLUR_SIGMA_PX = 0.8
"""Standard deviation of the blur, in frame pixels."""

IN_VIEW = 0.75
"""Share of the block that must be on the table and not under the agent for a frame to count as in view."""

CONTACT_PX = 2.0
"""Gap between agent and block up to which they count as touching."""

NEAR_GOAL = (1000, 4.0, 0.03)
"""Rendered frames with the block near its goal: how many, and how far off (standard deviations, px and radians)."""

CLEAR = 0.03
"""A coverage further than this from what counts as success is a clear case."""

QUANTILES = (50, 95, 99)

STEPS = 48
"""Control ticks of an episode."""


def near_goal() -> tuple[np.ndarray, np.ndarray]:
    """Simulator frames `[N, 96, 96, 3]` and states `[N, 7]` on both sides of success."""
    count, pixels, radians = NEAR_GOAL
    rng, truth = np.random.default_rng(0), PushTTruth()
    seen: list[TruthFrame] = []
    while len(seen) < count:
        block = rng.normal(GOAL_POSE, (pixels, pixels, radians))
        agent = rng.uniform(100, TABLE_PX - 100, 2)
        if block_gap(agent, block) > 0:
            seen.append(truth.reset(start=start_at(agent, block)))
    truth.close()
    return np.array([frame.pixels for frame in seen]), np.array([frame.state for frame in seen])


def noisy(frames: np.ndarray) -> np.ndarray:
    """Gaussian noise of NOISE_SIGMA, the same on every call."""
    noise = np.random.default_rng(0).normal(0, NOISE_SIGMA, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def blurred(frames: np.ndarray) -> np.ndarray:
    """Gaussian blur of BLUR_SIGMA_PX."""
    return np.array([cv2.GaussianBlur(frame, (0, 0), BLUR_SIGMA_PX) for frame in frames])


def through_codec(folder: Path, refine_steps: int) -> Callable[[np.ndarray], np.ndarray]:
    """Encode and decode, as imagined frames are decoded."""
    import torch

    from wcsim.world.codec import Codec

    codec = Codec.load(folder, refine_steps)

    @torch.no_grad()
    def again(frames: np.ndarray) -> np.ndarray:
        return np.concatenate([codec.decode(codec.encode(frames[first : first + 16]))
                               for first in range(0, len(frames), 16)])

    return again


def groups_of(states: np.ndarray) -> dict[str, np.ndarray]:
    """Group name to `[N]` bool, from the simulator's state `[N, 7]`."""
    blocks = SCENE.polygons(states[:, 2:5])
    agents = shapely.buffer(shapely.points(states[:, :2]), AGENT_RADIUS_PX)
    seen = shapely.difference(shapely.intersection(blocks, shapely.box(0, 0, TABLE_PX, TABLE_PX)), agents)
    in_view = shapely.area(seen) / shapely.area(blocks) >= IN_VIEW
    touching = shapely.distance(blocks, shapely.points(states[:, :2])) - AGENT_RADIUS_PX <= CONTACT_PX
    return {"in view": in_view, "of these touching": in_view & touching, "mostly hidden": ~in_view}


def errors_of(found: Estimate, states: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """Counts and error quantiles over the `chosen` frames; errors only where the estimator found something."""
    coverage = SCENE.coverage(states[:, 2:5])
    apart = PushT.state.errors(found.values, values_of(states[:, :2], states[:, 2:5]))
    errors = {quantity.metric: (apart[quantity.metric], found.found[quantity.name]) for quantity in PushT.state}
    errors["coverage"] = np.abs(found.progress - coverage), np.ones(len(states), dtype=bool)
    shown = {"block_found": found.found["block"], "agent_found": found.found["agent"], "shape_ok": found.shape_ok}
    row: dict[str, Any] = {"frames": int(chosen.sum())}
    for name, yes in shown.items():
        row[name] = float(yes[chosen].mean()) if chosen.any() else None
    for name, (error, known) in errors.items():
        values = error[chosen & known]
        row[name] = dict(zip((f"p{q}" for q in QUANTILES), np.percentile(values, QUANTILES).tolist(), strict=True)
                         ) | {"max": float(values.max())} if len(values) else None
    solved = coverage > SUCCESS_COVERAGE
    row["successes"] = int((solved & chosen).sum())
    wrong = (found.success != solved) & chosen
    row["success_wrong"] = int(wrong.sum())
    row["success_wrong_clear"] = int((wrong & (np.abs(coverage - SUCCESS_COVERAGE) > CLEAR)).sum())
    row["fit_p1"] = {name: float(np.percentile(found.fit[name][chosen], 1)) if chosen.any() else None
                     for name in ("block", "agent")}
    return row


def milliseconds(estimator: PushTEstimator, frames: np.ndarray, batch: int) -> float:
    """Processor time per frame, over a few hundred of them."""
    frames = frames[:: max(1, len(frames) // 256)]
    estimator(frames[:batch])
    started = time.process_time()
    for first in range(0, len(frames), batch):
        estimator(frames[first : first + batch])
    return 1e3 * (time.process_time() - started) / len(frames)


def row_text(row: dict[str, Any]) -> str:
    """One line of the printed table, also valid in Markdown."""
    cells = [f"{row['frames']}"]
    for name, digits in (("block_px", 2), ("block_angle_deg", 2), ("agent_px", 2), ("coverage", 3)):
        cells.append(" / ".join(f"{value:.{digits}f}" for value in row[name].values()) if row[name] else "-")
    cells += [f"{100 * row[name]:.2f}" if row["frames"] else "-" for name in ("block_found", "agent_found", "shape_ok")]
    return " | ".join([*cells, str(row["successes"]), f"{row['success_wrong']} ({row['success_wrong_clear']})"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-seed", type=int, default=600_000, help="of the episodes of exploration")
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--codec", type=Path, help="also read frames that went through this codec")
    parser.add_argument("--refine-steps", type=int, default=2, help="of that codec (default: those of pusht-96)")
    parser.add_argument("--every", type=int, default=1, help="read every n-th frame (codec: every 8th of them)")
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    arguments = parser.parse_args()

    task, seeds = make_task("pusht"), range(arguments.first_seed, arguments.first_seed + arguments.episodes)
    looks = [look for seed in seeds for look in play_exploration(task, seed, STEPS)[0]][:: arguments.every]
    frames, states = np.array([look.pixels for look in looks]), np.array([look.state for look in looks])
    conditions: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
        "simulator": (np.asarray, 1), "noise": (noisy, 1), "blur": (blurred, 1)}
    if arguments.codec:
        conditions["codec"] = through_codec(arguments.codec, arguments.refine_steps), 8

    estimator, goal = PushTEstimator(SCENE), near_goal()
    result: dict[str, Any] = {"first_seed": arguments.first_seed, "episodes": arguments.episodes,
                              "every": arguments.every, "conditions": {}}
    print("condition | group | frames | block px | block deg | agent px | coverage | "
          "block found % | agent found % | shape ok % | successes | called wrong (clear ones)")
    for condition, (change, thinned) in conditions.items():
        known = states[::thinned]
        found = estimator(change(frames[::thinned]))
        rows = {group: errors_of(found, known, chosen) for group, chosen in groups_of(known).items()}
        found, known = estimator(change(goal[0][::thinned])), goal[1][::thinned]
        rows["near goal"] = errors_of(found, known, np.ones(len(known), dtype=bool))
        result["conditions"][condition] = rows
        for group, row in rows.items():
            print(f"{condition} | {group} | {row_text(row)}")
    result["ms_per_frame"] = {str(batch): milliseconds(estimator, frames, batch) for batch in (64, 1)}
    print(f"processor ms per frame: {result['ms_per_frame']['64']:.2f} in batches of 64, "
          f"{result['ms_per_frame']['1']:.2f} one by one")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
