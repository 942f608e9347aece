"""How well a world imagines: actions replayed from held-out truth, errors by horizon, and what they should beat.

Episodes come from the task's scripted exploration on seeds that training never saw.  The truth's poses are the
simulator's, the world's are the pixel judge's.  Easy to get wrong: block errors count episodes in which the block moves
(an unmoved block is no evidence), and the median over episodes hides none of those whose block was lost (they are
infinite).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from rich.table import Table
from torch import Tensor

from wcsim.cache.none import NoCache
from wcsim.envs.imagined import load_world
from wcsim.envs.judge import Judgement
from wcsim.envs.tasks import Task, make_task, play_exploration
from wcsim.report.sheet import by_rank, contact_sheet
from wcsim.track import files, metrics
from wcsim.track.stats import bootstrap
from wcsim.types import Fidelity
from wcsim.world.world import World

Say = Callable[[str], None]

HORIZONS = (1, 2, 4, 8, 16, 32)
SENSITIVITY_HORIZON = 8
LOST_PX = 20.0
MOVED_PX, MOVED_DEG = 2.0, 2.0
"""Total motion of the true block from which an episode counts as moving."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Recorded truth: frames `[N, H+1, ...]` uint8, actions `[N, H, A]`, poses `[N, H+1, 5]`."""

    frames: np.ndarray
    actions: np.ndarray
    poses: np.ndarray

    @property
    def moving(self) -> np.ndarray:
        """`[N, H]` whether the block has moved by each horizon."""
        later = self.poses[:, 1:]
        start = np.broadcast_to(self.poses[:, :1], later.shape)
        return np.asarray((metrics.block_px(later, start) > MOVED_PX) | (metrics.block_deg(later, start) > MOVED_DEG))


def record(task: Task, first_seed: int, episodes: int, lead: int, horizon: int = max(HORIZONS)) -> HeldOut:
    """Play the task's exploration; `lead` more ticks than the horizon, for context."""
    steps = horizon + lead
    played = [play_exploration(task, seed, steps) for seed in range(first_seed, first_seed + episodes)]
    return HeldOut(
        np.array([[frame.pixels for frame in seen] for seen, _ in played]),
        np.array([done for _, done in played]),
        np.array([[pose_of(frame.judgement)[0] for frame in seen] for seen, _ in played]),
    )


def pose_of(judgement: Judgement) -> np.ndarray:
    """Poses `[N, 5]` as `wcsim.track.metrics` takes them."""
    return np.concatenate([judgement.agent, judgement.block], axis=1)


def judge_all(task: Task, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poses `[N, T, 5]` and shape_ok `[N, T]` of frames `[N, T, H, W, 3]`."""
    judged = task.judge(frames.reshape(-1, *frames.shape[2:]))
    return pose_of(judged).reshape(*frames.shape[:2], 5), judged.shape_ok.reshape(frames.shape[:2])


class Rollouts:
    """Replays actions in a world from the frame at index `lead`, with a given number of context frames.  say: told
    which rollout goes on, and how far it is."""

    def __init__(self, world: World, task: Task, truth: HeldOut, lead: int, steps: int, say: Say) -> None:
        self.world, self.task, self.truth, self.lead, self.steps, self._say = world, task, truth, lead, steps, say

    def imagine(self, actions: np.ndarray, *, context: int, chunk: int, description: str) -> np.ndarray:
        """Frames `[N, k, H, W, 3]` under actions `[N, k, A]`; each episode's noise is seeded by its number."""
        past = slice(self.lead - context + 1, self.lead + 1)
        state = self.world.init(self.truth.frames[:, past], self.truth.actions[:, past][:, :-1],
                                np.arange(len(actions)))
        fidelity = Fidelity(self.steps, NoCache(), chunk=chunk)
        latents: list[Tensor] = []
        for first in range(0, actions.shape[1], chunk):
            self._say(f"{description}, step {first} of {actions.shape[1]}")
            state, new, _ = self.world.advance(state, actions[:, first : first + chunk], fidelity)
            latents.extend(new.unbind(1))
        return np.stack([self.world.decode(frame) for frame in latents], axis=1)


def measure_world(
    name: str, *, first_seed: int, episodes: int, steps: int | None, out: Path, say: Say = lambda text: None
) -> dict[str, Any]:
    """Measure and write `summary.json` and the picture `episodes.png` under `out`; the summary.  say: told what goes
    on."""
    world = load_world(name)
    task = make_task(world.spec.task)
    lead = world.spec.max_context - 1
    say("the truth")
    truth = record(task, first_seed, episodes, lead)
    rolls = Rollouts(world, task, truth, lead, steps or world.spec.default_steps, say)
    future = HeldOut(truth.frames[:, lead:], truth.actions[:, lead:], truth.poses[:, lead:])
    most = world.spec.max_chunk
    frames = rolls.imagine(future.actions, context=lead + 1, chunk=most, description="imagine")
    errors = errors_of(task, frames, future)
    still = np.repeat(future.frames[:, :1], max(HORIZONS), axis=1)
    summary = {
        "world": world.spec.name, "first_seed": first_seed, "episodes": episodes, "denoise_steps": rolls.steps,
        **codec_figures(world, task, truth),
        "horizon": by_horizon(errors, future),
        "copy_last_frame": by_horizon(errors_of(task, still, future), future),
        "constant_velocity": by_horizon(pose_errors(constant_velocity(truth, lead), future), future),
        "valid_horizon": valid_horizon(errors, future),
        **sensitivity(rolls, future, most),
        "variants": variants(rolls, future, most),
    }
    out.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(out / "episodes.png", sheet_of(frames, errors["block_px"], future))
    files.replace(out / "summary.json", (files.encode(summary, indent=2) + "\n").encode())
    return dict(json.loads(files.encode(summary)))


def sheet_of(frames: np.ndarray, block_px: np.ndarray, truth: HeldOut) -> np.ndarray:
    """Three moving episodes by the rank of their block's error at horizon 16: a good, a middling and a bad one."""
    moving = np.flatnonzero(truth.moving[:, 15]) if truth.moving[:, 15].sum() >= 3 else np.arange(len(frames))
    chosen = moving[by_rank(block_px[moving, 15])]
    at = np.array(HORIZONS)
    labels = [f"error {block_px[episode, 15]:.0f} px" for episode in chosen]
    return contact_sheet(truth.frames[chosen][:, at], frames[chosen][:, at - 1], HORIZONS, labels)


def codec_figures(world: World, task: Task, truth: HeldOut) -> dict[str, float]:
    """Reconstruction of held-out frames: PSNR, and the agent's distance from the simulator's at the 99th percentile."""
    frames = truth.frames[:, ::4]
    again = world.decode(world.encode(frames))
    poses, _ = judge_all(task, again)
    original, _ = judge_all(task, frames)
    apart = np.nan_to_num(metrics.agent_px(poses, truth.poses[:, ::4]), nan=np.inf)
    floor = np.nan_to_num(metrics.agent_px(original, truth.poses[:, ::4]), nan=np.inf)
    return {
        "codec_psnr_db": float(metrics.psnr_db(again, frames).mean()),
        "codec_agent_px": float(np.quantile(apart, 0.99, method="higher")),
        "judge_agent_px": float(np.quantile(floor, 0.99, method="higher")),
    }


Errors = dict[str, np.ndarray]
"""Metric to `[N, H]`."""


def errors_of(task: Task, frames: np.ndarray, truth: HeldOut) -> Errors:
    """All metrics of imagined frames `[N, H, ...]` against the truth after its start."""
    poses, shape_ok = judge_all(task, frames)
    reference = truth.frames[:, 1 : frames.shape[1] + 1]
    return {"psnr_db": metrics.psnr_db(frames, reference), "shape_ok": shape_ok.astype(np.float64),
            **pose_errors(poses, truth)}


def pose_errors(poses: np.ndarray, truth: HeldOut) -> Errors:
    """Pose metrics `[N, H]`, infinite where a pose was lost."""
    reference = truth.poses[:, 1 : poses.shape[1] + 1]
    kinds: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "block_px": metrics.block_px, "block_deg": metrics.block_deg, "agent_px": metrics.agent_px}
    return {name: np.nan_to_num(metric(poses, reference), nan=np.inf) for name, metric in kinds.items()}


def constant_velocity(truth: HeldOut, lead: int) -> np.ndarray:
    """Poses `[N, H, 5]` if everything went on as between the last two frames of the context."""
    now, before = truth.poses[:, lead], truth.poses[:, lead - 1] if lead else truth.poses[:, lead]
    ticks = np.arange(1, max(HORIZONS) + 1)[None, :, None]
    return np.asarray(now[:, None] + ticks * (now - before)[:, None])


def by_horizon(errors: Errors, truth: HeldOut) -> dict[str, dict[str, Any]]:
    """Per horizon: the median over episodes with its bootstrap interval; of shape_ok the mean."""
    table: dict[str, dict[str, Any]] = {}
    for horizon in HORIZONS:
        table[str(horizon)] = {}
        for name, values in errors.items():
            if horizon > values.shape[1]:
                continue
            column = values[:, horizon - 1]
            if name.startswith("block"):
                column = column[truth.moving[:, horizon - 1]]
            if name == "shape_ok":
                table[str(horizon)][name] = float(column.mean())
                continue
            table[str(horizon)][name] = float(np.median(column)) if len(column) else None
            if len(column) > 1 and np.isfinite(column).all():
                interval = bootstrap(column, generator=np.random.default_rng(0))
                table[str(horizon)][f"{name}_interval"] = [interval.low, interval.high]
            table[str(horizon)][f"{name}_n"] = len(column)
    return table


def valid_horizon(errors: Errors, truth: HeldOut) -> float:
    """Median over moving episodes of the first step whose block error passes 20 px; the longest horizon if none."""
    passed = errors["block_px"] > LOST_PX
    first = np.where(passed.any(1), passed.argmax(1) + 1, max(HORIZONS))
    moving = truth.moving[:, -1]
    return float(np.median(first[moving] if moving.any() else first))


def sensitivity(rolls: Rollouts, truth: HeldOut, chunk: int) -> dict[str, Any]:
    """Pose error under wrong actions over that under the true ones, at horizon 8: the agent's, and the block's."""
    ticks = slice(0, SENSITIVITY_HORIZON)
    actions = truth.actions[:, ticks]
    low, high = (np.array(bound) for bound in (rolls.task.action.low, rolls.task.action.high))
    wrong = {
        "shuffled": np.roll(actions, 1, axis=0),
        "zero": np.broadcast_to(low, actions.shape),
        "mirrored": low + high - actions,
    }
    played = {"true": actions, **wrong}
    end = HeldOut(truth.frames, truth.actions, truth.poses[:, SENSITIVITY_HORIZON - 1 :])
    at_end = {}
    for name, given in played.items():
        frames = rolls.imagine(np.ascontiguousarray(given, dtype=np.float32), context=rolls.lead + 1, chunk=chunk,
                               description=f"{name} actions")
        at_end[name] = pose_errors(judge_all(rolls.task, frames[:, -1:])[0], end)
    moving = truth.moving[:, SENSITIVITY_HORIZON - 1]

    def median(name: str, metric: str) -> float:
        column = at_end[name][metric][:, 0]
        return float(np.median(column[moving] if metric == "block_px" and moving.any() else column))

    return {
        "action_sensitivity": {
            name: {metric: median(name, metric) / median("true", metric) for metric in ("agent_px", "block_px")}
            for name in wrong
        },
        "action_errors": {name: {metric: median(name, metric) for metric in ("agent_px", "block_px")}
                          for name in played},
    }


def variants(rolls: Rollouts, truth: HeldOut, most: int) -> dict[str, dict[str, Any]]:
    """The same rollout by other chunk and context lengths, at horizon 8."""
    actions = truth.actions[:, :SENSITIVITY_HORIZON]
    table = {}
    for context in sorted({1, rolls.lead + 1}):
        for chunk in sorted({1, most}):
            name = f"context {context}, chunk {chunk}"
            frames = rolls.imagine(actions, context=context, chunk=chunk, description=name)
            errors = by_horizon(errors_of(rolls.task, frames, truth), truth)[str(SENSITIVITY_HORIZON)]
            table[name] = {key: errors[key] for key in ("psnr_db", "agent_px", "block_px", "block_deg", "shape_ok")}
    return table


def table_of(summary: dict[str, Any]) -> Table:
    """The figures by horizon, for a terminal."""
    table = Table("horizon", "PSNR dB", "block px", "block deg", "agent px", "shape ok",
                  title=f"{summary['world']}: {summary['episodes']} held-out episodes")
    for horizon in map(str, HORIZONS):
        row = summary["horizon"][horizon]
        table.add_row(horizon, *(f"{row[key]:.2f}" if row.get(key) is not None else "-" for key in
                                 ("psnr_db", "block_px", "block_deg", "agent_px", "shape_ok")))
    return table
