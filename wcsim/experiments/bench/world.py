"""How well a world imagines: actions replayed from held-out truth, errors by horizon, and what they should beat.

Episodes come from the task's scripted exploration on seeds that training never saw.  The truth's values are the
simulator's, the world's are estimated from its frames.  Easy to get wrong: errors of the scene count episodes in which
it moves (what nothing moved is no evidence), and the median over episodes hides none in which a quantity was lost (its
error is infinite).
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
from wcsim.envs.lanes import load_world
from wcsim.envs.tasks import Task, make_task, play_exploration
from wcsim.estimate import Estimate
from wcsim.metrics import images
from wcsim.metrics.stats import bootstrap
from wcsim.report.sheet import by_rank, contact_sheet
from wcsim.runs import files
from wcsim.spec import Quantity, StateSpec, Values
from wcsim.types import Fidelity
from wcsim.world.world import World

Say = Callable[[str], None]

HORIZONS = (1, 2, 4, 8, 16, 32)
SENSITIVITY_HORIZON = 8


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Recorded truth: frames `[N, H+1, ...]` uint8, actions `[N, H, A]`, values: quantity name to `[N, H+1, size]`."""

    frames: np.ndarray
    actions: np.ndarray
    values: dict[str, np.ndarray]

    def part(self, ticks: slice | np.ndarray) -> HeldOut:
        """Some of the ticks, frames and values alike."""
        return HeldOut(self.frames[:, ticks], self.actions, {name: value[:, ticks]
                                                             for name, value in self.values.items()})

    def moving(self, quantity: Quantity, spec: StateSpec) -> np.ndarray:
        """`[N, H]` whether the thing that a quantity belongs to has moved by each horizon.

        Scene quantities move together, as position and angle of one thing do; the robot always counts as moving.
        """
        later = next(iter(self.values.values()))[:, 1:]
        if quantity.role == "robot":
            return np.ones(later.shape[:2], dtype=bool)
        return np.asarray(np.any([self._changed(one) for one in spec.scene], axis=0))

    def _changed(self, quantity: Quantity) -> np.ndarray:
        value = self.values[quantity.name]
        return np.asarray(quantity.error(value[:, 1:], value[:, :1]) > quantity.moved)


def record(task: Task, first_seed: int, episodes: int, lead: int, horizon: int = max(HORIZONS)) -> HeldOut:
    """Play the task's exploration; `lead` more ticks than the horizon, for context."""
    steps = horizon + lead
    played = [play_exploration(task, seed, steps) for seed in range(first_seed, first_seed + episodes)]
    values = [Estimate.join([frame.estimate for frame in seen]).values for seen, _ in played]
    return HeldOut(
        np.array([[frame.pixels for frame in seen] for seen, _ in played]),
        np.array([done for _, done in played]),
        {name: np.array([value[name] for value in values]) for name in task.state.names},
    )


def estimate_all(task: Task, frames: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Values `[N, T, size]` and shape_ok `[N, T]` of frames `[N, T, H, W, 3]`."""
    lead = frames.shape[:2]
    seen = task.estimate(frames.reshape(-1, *frames.shape[2:]))
    return {name: value.reshape(*lead, -1) for name, value in seen.values.items()}, seen.shape_ok.reshape(lead)


class Rollouts:
    """Replays actions in a world from the frame at index `lead`, with a given number of context frames.  say: receives
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
    """Measure and write `summary.json` and the sheet `episodes.png` under `out`; the summary.  say: receives what goes
    on."""
    world = load_world(name)
    task = make_task(world.spec.task)
    out.mkdir(parents=True, exist_ok=True)
    lead = world.spec.max_context - 1
    say("the truth")
    truth = record(task, first_seed, episodes, lead)
    rolls = Rollouts(world, task, truth, lead, steps or world.spec.default_steps, say)
    future = HeldOut(truth.frames, truth.actions[:, lead:], truth.values).part(slice(lead, None))
    most = world.spec.max_chunk
    frames = rolls.imagine(future.actions, context=lead + 1, chunk=most, description="imagine")
    errors = errors_of(task, frames, future)
    copied = np.repeat(future.frames[:, :1], max(HORIZONS), axis=1)
    summary = {
        "world": world.spec.name, "labels": world.spec.labels, "first_seed": first_seed,
        "episodes": episodes, "denoise_steps": rolls.steps, "state": task.state.to_json(),
        **codec_figures(world, task, truth),
        "horizon": by_horizon(task, errors, future),
        "copy_last_frame": by_horizon(task, errors_of(task, copied, future), future),
        "constant_velocity": by_horizon(task, value_errors(task, constant_velocity(task, truth, lead), future), future),
        "valid_horizon": valid_horizon(task, errors, future),
        **sensitivity(rolls, future, most),
        "variants": variants(rolls, future, most),
    }
    imageio.imwrite(out / "episodes.png", sheet_of(task, frames, errors, future))
    files.replace(out / "summary.json", (files.encode(summary, indent=2) + "\n").encode())
    return dict(json.loads(files.encode(summary)))


def leading(task: Task) -> Quantity | None:
    """The quantity by which episodes are ranked: the goal's first, else the first; None for a task without any."""
    return next(iter((*task.state.goal, *task.state)), None)


def sheet_of(task: Task, frames: np.ndarray, errors: Errors, truth: HeldOut) -> np.ndarray:
    """Three moving episodes by the rank of their error at horizon 16: a good, a middling and a bad one."""
    quantity = leading(task)
    name, unit = ("psnr_db", "dB") if quantity is None else (quantity.metric, quantity.error_unit)
    moving = np.arange(len(frames))
    if quantity is not None and (moved := truth.moving(quantity, task.state)[:, 15]).sum() >= 3:
        moving = np.flatnonzero(moved)
    chosen = moving[by_rank(errors[name][moving, 15])]
    at = np.array(HORIZONS)
    labels = [f"error {errors[name][episode, 15]:.3g} {unit}" for episode in chosen]
    return contact_sheet(truth.frames[chosen][:, at], frames[chosen][:, at - 1], HORIZONS, labels)


def codec_figures(world: World, task: Task, truth: HeldOut) -> dict[str, Any]:
    """Reconstruction of held-out frames: PSNR, and every quantity's error at the 99th percentile, through the codec and
    on the true frames."""
    every = slice(None, None, 4)
    frames, true = truth.frames[:, every], {name: value[:, every] for name, value in truth.values.items()}
    again = world.decode(world.encode(frames))

    def tail(shown: np.ndarray) -> dict[str, float]:
        values, _ = estimate_all(task, shown)
        apart = task.state.errors(values, true)
        return {name: float(np.quantile(np.nan_to_num(error, nan=np.inf), 0.99, method="higher"))
                for name, error in apart.items()}

    return {"codec_psnr_db": float(images.psnr_db(again, frames).mean()), "codec_p99": tail(again),
            "estimator_p99": tail(frames)}


Errors = dict[str, np.ndarray]
"""Metric to `[N, H]`."""


def errors_of(task: Task, frames: np.ndarray, truth: HeldOut) -> Errors:
    """All metrics of imagined frames `[N, H, ...]` against the truth after its start."""
    values, shape_ok = estimate_all(task, frames)
    reference = truth.frames[:, 1 : frames.shape[1] + 1]
    return {"psnr_db": images.psnr_db(frames, reference), "shape_ok": shape_ok.astype(np.float64),
            **value_errors(task, values, truth)}


def value_errors(task: Task, values: Values, truth: HeldOut) -> Errors:
    """Errors `[N, H]` of the task's quantities, infinite where one was lost."""
    length = next((value.shape[1] for value in values.values()), 0)
    reference = {name: value[:, 1 : length + 1] for name, value in truth.values.items()}
    return {name: np.nan_to_num(error, nan=np.inf) for name, error in task.state.errors(values, reference).items()}


def constant_velocity(task: Task, truth: HeldOut, lead: int) -> dict[str, np.ndarray]:
    """Values `[N, H, size]` if everything went on as between the last two frames of the context."""
    ticks = np.arange(1, max(HORIZONS) + 1)[None, :, None]
    predicted = {}
    for name in task.state.names:
        now = truth.values[name][:, lead]
        before = truth.values[name][:, lead - 1] if lead else now
        predicted[name] = np.asarray(now[:, None] + ticks * (now - before)[:, None])
    return predicted


def by_horizon(task: Task, errors: Errors, truth: HeldOut) -> dict[str, dict[str, Any]]:
    """Per horizon: the median over episodes with its bootstrap interval; of shape_ok the mean.

    Errors of the scene count the episodes in which it moves: what nothing moved is no evidence.
    """
    quantities = {quantity.metric: quantity for quantity in task.state}
    table: dict[str, dict[str, Any]] = {}
    for horizon in HORIZONS:
        row = table[str(horizon)] = {}
        for name, values in errors.items():
            if horizon > values.shape[1]:
                continue
            column = values[:, horizon - 1]
            if name in quantities:
                column = column[truth.moving(quantities[name], task.state)[:, horizon - 1]]
            row |= {name: float(column.mean())} if name == "shape_ok" else figures(name, column)
    return table


def figures(name: str, column: np.ndarray) -> dict[str, Any]:
    """The median of a column, its interval, and how many episodes it is of."""
    row: dict[str, Any] = {name: float(np.median(column)) if len(column) else None, f"{name}_n": len(column)}
    if len(column) > 1 and np.isfinite(column).all():
        interval = bootstrap(column, generator=np.random.default_rng(0))
        row[f"{name}_interval"] = [interval.low, interval.high]
    return row


def valid_horizon(task: Task, errors: Errors, truth: HeldOut) -> float | None:
    """Median over moving episodes of the first step at which the leading quantity is lost; the longest horizon if none.
    None where it cannot be lost."""
    quantity = leading(task)
    if quantity is None or not np.isfinite(quantity.lost):
        return None
    passed = errors[quantity.metric] > quantity.lost
    first = np.where(passed.any(1), passed.argmax(1) + 1, max(HORIZONS))
    moving = truth.moving(quantity, task.state)[:, -1]
    return float(np.median(first[moving] if moving.any() else first))


def sensitivity(rolls: Rollouts, truth: HeldOut, chunk: int) -> dict[str, Any]:
    """Errors under wrong actions over those under the true ones, at horizon 8, by quantity that can be compared."""
    actions = truth.actions[:, :SENSITIVITY_HORIZON]
    low, high = (np.array(bound) for bound in (rolls.task.action.low, rolls.task.action.high))
    wrong = {
        "shuffled": np.roll(actions, 1, axis=0),
        "zero": np.broadcast_to(np.clip(0.0, low, high), actions.shape),
        "mirrored": low + high - actions,
    }
    played = {"true": actions, **wrong}
    at_end = {name: errors_at_end(rolls, truth, given, chunk, name) for name, given in played.items()}
    return {
        "action_sensitivity": {name: {metric: at_end[name][metric] / at_end["true"][metric]
                                      for metric in at_end[name]} for name in wrong},
        "action_errors": at_end,
    }


def errors_at_end(rolls: Rollouts, truth: HeldOut, actions: np.ndarray, chunk: int, name: str) -> dict[str, float]:
    """Median errors at horizon 8 under some actions, of the positions alone."""
    spec = rolls.task.state
    frames = rolls.imagine(np.ascontiguousarray(actions, dtype=np.float32), context=rolls.lead + 1, chunk=chunk,
                           description=f"{name} actions")
    end = truth.part(slice(SENSITIVITY_HORIZON - 1, None))
    errors = value_errors(rolls.task, estimate_all(rolls.task, frames[:, -1:])[0], end)
    medians = {}
    for quantity in spec:
        if quantity.kind in ("position", "scalar"):
            column, moving = errors[quantity.metric][:, 0], truth.moving(quantity, spec)[:, SENSITIVITY_HORIZON - 1]
            medians[quantity.metric] = float(np.median(column[moving] if moving.any() else column))
    return medians


def variants(rolls: Rollouts, truth: HeldOut, most: int) -> dict[str, dict[str, Any]]:
    """The same rollout by other chunk and context lengths, at horizon 8."""
    actions = truth.actions[:, :SENSITIVITY_HORIZON]
    table = {}
    for context in sorted({1, rolls.lead + 1}):
        for chunk in sorted({1, most}):
            name = f"context {context}, chunk {chunk}"
            frames = rolls.imagine(actions, context=context, chunk=chunk, description=name)
            errors = by_horizon(rolls.task, errors_of(rolls.task, frames, truth), truth)[str(SENSITIVITY_HORIZON)]
            table[name] = {key: errors[key] for key in ("psnr_db", *rolls.task.state.metrics, "shape_ok")}
    return table


def table_of(summary: dict[str, Any]) -> Table:
    """The figures by horizon, for a terminal."""
    names = ["psnr_db", *(row["metric"] for row in summary["state"]["quantities"]), "shape_ok"]
    table = Table("horizon", *(name.replace("_", " ") for name in names),
                  title=f"{summary['world']}: {summary['episodes']} held-out episodes; labels: {summary['labels']}")
    for horizon in map(str, HORIZONS):
        row = summary["horizon"][horizon]
        table.add_row(horizon, *(f"{row[key]:.2f}" if row.get(key) is not None else "-" for key in names))
    return table
