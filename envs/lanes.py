"""What environments share: a task, a world and a fidelity, through which any number of lanes are imagined together.

A `Lane` is an immutable value, so a reference to one is a snapshot, and branches share it without a copy.  Easy to get
wrong: what one lane sees must not depend on its neighbours, to the last bit, or a cache would decide otherwise; so all
products and convolutions on the CPU are batch-invariant (`wcsim.world.batch_invariant`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
from torch import Tensor

from wcsim.envs.agreement import check_reports
from wcsim.envs.inputs import Inputs
from wcsim.envs.observations import no_robot_state, robot_state
from wcsim.envs.tasks import Start, Task
from wcsim.errors import NotFiniteError
from wcsim.estimate import Estimate
from wcsim.spans import Spans
from wcsim.spec import Values
from wcsim.types import Fidelity, Trace, WorldState
from wcsim.world.checkpoints import find_world
from wcsim.world.checks import told
from wcsim.world.spread import load_spread
from wcsim.world.traces import lane_of, part_of
from wcsim.world.world import World


@lru_cache(maxsize=4)
def load_world(name: str, *, device: str = "cpu", compiled: bool = False) -> World:
    """Worlds are immutable, so every environment of a process shares one copy.  device: one, or several as
    `cuda:0,cuda:1`, which share the lanes out (`wcsim.world.spread`)."""
    return load_spread(name, device.split(","), compiled=compiled)


@lru_cache(maxsize=4)
def fingerprint(name: str) -> str:
    """SHA-256 of a world's description, which holds the hashes of its weights."""
    return sha256((find_world(name) / "world.json").read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Ahead:
    """Frames that were imagined together and are shown one by one.

    after: the state behind the last of them.  actions: `[k, A]` that lead to them.  latents: `[k, C, h, w]`.  frames:
    `[k, H, W, 3]` uint8, read-only.  shown: how many have been.  trace: what it took to imagine them, in one pass or a
    pass each.  estimate: of the k frames, None until one of them is to be shown.  changed: `[k]` share of each frame's
    pixels that the world's guardrail changed.  robot: what the world's state model says of the robot, `[k, size]` by
    quantity, for a task with proprioception.
    """

    after: WorldState
    actions: np.ndarray
    latents: Tensor
    frames: np.ndarray
    trace: Trace
    changed: np.ndarray
    shown: int = 0
    estimate: Estimate | None = None
    robot: Values | None = None

    def leads_to(self, actions: np.ndarray) -> bool:
        """Whether the next frames are those that `actions` `[k, A]` ask for."""
        return np.array_equal(self.actions[self.shown : self.shown + len(actions)], actions)

    @property
    def trace_of_next(self) -> Trace:
        """What it took to imagine the next frame, where it had a pass of its own; else the whole trace."""
        if len(self.trace.hit) != len(self.frames):
            return self.trace
        return part_of(self.trace, np.s_[self.shown : self.shown + 1])


@dataclass(frozen=True, slots=True)
class Lane:
    """Where one episode stands; nothing in it ever changes.

    state: the rollout, one lane, at the frame on show or, where frames are `ahead`, at the one before the first of
    them.  pixels: the frame on show `[H, W, 3]`, read-only.  robot: the robot's state as last seen `[R]` float32.
    latent: of the frame on show, None at a start.  changed: share of its pixels that the guardrail changed.
    """

    state: WorldState
    pixels: np.ndarray
    robot: np.ndarray
    latent: Tensor | None = None
    changed: float = 0.0
    ahead: Ahead | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """What one lane has after a reset or a step.  estimate: of one lane.  trace: None after a reset.  guardrail: name
    of the world's, if it has one."""

    lane: Lane
    estimate: Estimate
    reward: float
    trace: Trace | None
    guardrail: str | None = None

    @property
    def success(self) -> bool:
        """Whether the task is solved in this frame."""
        return bool(self.estimate.success[0])

    @property
    def info(self) -> dict[str, Any]:
        """Deterministic values under the same keys after a reset and a step; a quantity not found is zero."""
        estimate, trace = self.estimate, self.trace
        return {
            "is_success": self.success,
            "progress": float(estimate.progress[0]),
            "shape_ok": bool(estimate.shape_ok[0]),
            **{f"{name}_found": bool(found[0]) for name, found in estimate.found.items()},
            **{name: np.nan_to_num(value[0]).astype(np.float64) for name, value in estimate.values.items()},
            "hit_rate": trace.hit_rate if trace else 0.0,
            "skipped": trace.skipped if trace else 0.0,
            **({} if self.guardrail is None else {"guardrail": self.guardrail, "guardrail_changed": self.lane.changed}),
        }


class Imagination(Inputs):
    """N lanes of one task in one world at one fidelity; keeps nothing between calls."""

    def __init__(self, task: Task, world: World, fidelity: Fidelity) -> None:
        super().__init__(task)
        if task.proprioception and world.state_model is not None:
            check_reports(task, world.spec.name, world.state_model)
        self.world, self.fidelity = world, fidelity

    def begin(self, start: Start, seed: int) -> Tick:
        """A lane at the last frame of a start, its noise numbered by `seed`."""
        return self.begin_all([start], [seed])[0]

    def begin_all(self, starts: Sequence[Start], seeds: Sequence[int]) -> list[Tick]:
        """A lane for each start, its noise numbered by its seed; all are estimated in one call."""
        starts = [self.check_start(start) for start in starts]
        states = [self.world.init(start.frames[None], start.actions[None], [seed])
                  for start, seed in zip(starts, seeds, strict=True)]
        robot = no_robot_state(self.task.state, len(starts))
        lanes = [Lane(state, read_only(start.frames[-1].copy()), robot[n])
                 for n, (state, start) in enumerate(zip(states, starts, strict=True))]
        estimate = self.task.estimate(np.stack([lane.pixels for lane in lanes]))
        read = self._reports(self.world.read_state(WorldState.join(states)))
        return self._ticks(lanes, estimate, [None] * len(lanes), read)

    def step(self, lanes: Sequence[Lane], actions: np.ndarray, spans: Spans) -> list[Tick]:
        """One control tick for every lane under checked actions `[N, A]`: one forward pass for all that need one, and
        one call of the task's estimator."""
        ready = self.estimated(self.expect(lanes, actions[:, None], spans), spans)
        aheads = [ahead_of(lane) for lane in ready]
        estimate = Estimate.join([estimate_of(ahead).select(ahead.shown) for ahead in aheads])
        said = {name: np.stack([(ahead.robot or {})[name][ahead.shown] for ahead in aheads])
                for name in aheads[0].robot or {}}
        return self._ticks([show_next(lane) for lane in ready], estimate, [ahead.trace_of_next for ahead in aheads],
                           said)

    def estimated(self, lanes: Sequence[Lane], spans: Spans) -> list[Lane]:
        """The lanes with an estimate of all frames ahead of them, those that lack one in one call."""
        found = list(lanes)
        blank = [n for n, lane in enumerate(found) if ahead_of(lane).estimate is None]
        if not blank:
            return found
        with spans("estimate"):
            estimate = self.task.estimate(np.concatenate([ahead_of(found[n]).frames for n in blank]))
        first = 0
        for n in blank:
            ahead = ahead_of(found[n])
            part, first = np.s_[first : first + len(ahead.frames)], first + len(ahead.frames)
            found[n] = replace(found[n], ahead=replace(ahead, estimate=estimate.select(part)))
        return found

    def expect(
        self, lanes: Sequence[Lane], actions: np.ndarray, spans: Spans, *, together: bool = True
    ) -> list[Lane]:
        """The lanes with the frames of checked actions `[N, k, A]` ahead of them, all lanes in one batch.

        together: the frames of a lane in one pass, with the noise of a chunk; else one after the other, as k steps
        would.  Lanes that have these frames ahead already stay as they are.
        """
        found = list(lanes)
        blank = [n for n, lane in enumerate(found) if lane.ahead is None or not lane.ahead.leads_to(actions[n])]
        if not blank:
            return found
        with spans("imagine"):
            states = [self.state_of(found[n]) for n in blank]
            fidelity = self.fidelity if together else replace(self.fidelity, chunk=1)
            joined = WorldState.join(states)
            after, latents, trace = self.world.advance(joined, actions[blank], fidelity)
            said = self._reports(self.world.predict_state(joined, actions[blank])) if self._reported else {}
        with spans("decode"):
            frames, changed = self._decode(latents, states)
            read_only(frames)
        for row, n in enumerate(blank):
            ahead = Ahead(after.select([row]), actions[n], latents[row], frames[row], lane_of(trace, row),
                          changed[row], robot={name: value[row] for name, value in said.items()})
            found[n] = replace(found[n], state=states[row], ahead=ahead)
        return found

    def _decode(self, latents: Tensor, states: Sequence[WorldState]) -> tuple[np.ndarray, np.ndarray]:
        """Frames `[n, k, H, W, 3]`, and `[n, k]` how much a guardrail changed; an error says where they belong."""
        try:
            return self.world.decode_guarded(latents)
        except NotFiniteError as error:
            first = [int(state.frame) + 1 for state in states]
            raise NotFiniteError(f"{error} in frames from {first} on, {told(self.fidelity)}") from None

    def state_of(self, lane: Lane) -> WorldState:
        """The rollout's state at the frame on show; within a chunk, its shown frames are taken in as if seen."""
        state = lane.state
        for tick in range(lane.ahead.shown if lane.ahead else 0):
            assert lane.ahead is not None
            state = self.world.observe(state, lane.ahead.latents[tick, None], lane.ahead.actions[tick, None])
        return state

    def anchor(self, lane: Lane, frames: np.ndarray, actions: np.ndarray) -> Lane:
        """The lane with real frames `[T, H, W, 3]` and the actions `[T-1, A]` between them as its whole past.

        The frame on show, the seed and the numbering of the noise stay.
        """
        frames, actions = self.check_past(frames, actions)
        now = self.state_of(lane)
        state = self.world.init(frames[None], actions[None], now.seed.tolist())
        return replace(lane, state=replace(state, frame=now.frame), ahead=None)

    @property
    def _reported(self) -> frozenset[str]:
        """Quantities that the robot reports itself, here through the world's state model."""
        model = self.world.state_model
        if not self.task.proprioception or model is None:
            return frozenset()
        return frozenset(model.quantities) & {quantity.name for quantity in self.task.state.robot}

    def _reports(self, values: Values) -> dict[str, np.ndarray]:
        return {name: value for name, value in values.items() if name in self._reported}

    def _ticks(self, lanes: Sequence[Lane], estimate: Estimate, traces: Sequence[Trace | None], said: Values
               ) -> list[Tick]:
        """What lanes have at the frames on show; a quantity of the robot that is not found keeps its last value.
        said: what the robot reports of itself, `[N, size]` by quantity."""
        robot = robot_state(self.task.state, estimate.told(said, all_of=True), np.stack([lane.robot for lane in lanes]))
        estimate = estimate.told(said)
        reward = self.task.reward(estimate)
        return [Tick(replace(lane, robot=read_only(robot[n].copy())), estimate.select(n), float(reward[n]), traces[n],
                     self.world.guardrail)
                for n, lane in enumerate(lanes)]


def read_only(array: np.ndarray) -> np.ndarray:
    """The array itself, from now on read-only."""
    array.setflags(write=False)
    return array


def ahead_of(lane: Lane) -> Ahead:
    """What is ahead of a lane that has something ahead."""
    assert lane.ahead is not None
    return lane.ahead


def estimate_of(ahead: Ahead) -> Estimate:
    """The estimate of frames that have one."""
    assert ahead.estimate is not None
    return ahead.estimate


def show_next(lane: Lane) -> Lane:
    """The lane with the first frame ahead of it on show."""
    ahead = ahead_of(lane)
    seen = replace(lane, pixels=ahead.frames[ahead.shown], latent=ahead.latents[ahead.shown],
                   changed=float(ahead.changed[ahead.shown]))
    if ahead.shown + 1 < len(ahead.frames):
        return replace(seen, ahead=replace(ahead, shown=ahead.shown + 1))
    return replace(seen, state=ahead.after, ahead=None)
