"""What environments share: a task, a world and a fidelity, through which any number of lanes are imagined together.

A `Lane` is an immutable value, so whoever keeps one has a snapshot, and branches share it without a copy.  Easy to get
wrong: what one lane sees must not depend on its neighbours, to the last bit, or a cache would decide otherwise; so all
products and convolutions on the CPU are batch-invariant (`wcsim.world.batch_invariant`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from wcsim.actions import check_action
from wcsim.envs.judge import Judgement
from wcsim.envs.tasks import Start, Task
from wcsim.errors import ActionError, ConfigError
from wcsim.spans import Spans
from wcsim.types import Fidelity, Trace, WorldState
from wcsim.world.checkpoints import find_world
from wcsim.world.world import World


@lru_cache(maxsize=4)
def load_world(name: str, *, device: str = "cpu", compiled: bool = False) -> World:
    """Worlds are immutable, so every environment of a process shares one copy."""
    return World.load(name, device=device, compiled=compiled)


@lru_cache(maxsize=4)
def fingerprint(name: str) -> str:
    """SHA-256 of a world's description, which holds the hashes of its weights."""
    return sha256((find_world(name) / "world.json").read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Ahead:
    """Frames that were imagined together and are shown one by one.

    after: the state behind the last of them.  actions: `[k, A]` that lead to them.  latents: `[k, C, h, w]`.  frames:
    `[k, H, W, 3]` uint8.  shown: how many have been.  trace: what it took to imagine them, in one pass or a pass each.
    """

    after: WorldState
    actions: np.ndarray
    latents: Tensor
    frames: np.ndarray
    trace: Trace
    shown: int = 0

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
    them.  pixels: the frame on show `[H, W, 3]`.  agent: where the judge last saw the agent `[P]` float32.  latent: of
    the frame on show, None at a start.
    """

    state: WorldState
    pixels: np.ndarray
    agent: np.ndarray
    latent: Tensor | None = None
    ahead: Ahead | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """What one lane has after a reset or a step.  judgement: of one lane.  trace: None after a reset."""

    lane: Lane
    judgement: Judgement
    reward: float
    trace: Trace | None

    @property
    def success(self) -> bool:
        """Whether the task is solved in this frame."""
        return bool(self.judgement.success[0])

    @property
    def info(self) -> dict[str, Any]:
        """Deterministic values under the same keys after a reset and a step."""
        judgement, trace = self.judgement, self.trace
        return {
            "is_success": self.success,
            "coverage": float(judgement.coverage[0]),
            "agent_found": bool(judgement.agent_found[0]),
            "block_found": bool(judgement.block_found[0]),
            "shape_ok": bool(judgement.shape_ok[0]),
            "block_pose": np.nan_to_num(judgement.block[0]).astype(np.float64),
            "hit_rate": trace.hit_rate if trace else 0.0,
            "skipped": trace.skipped if trace else 0.0,
        }


class Imagination:
    """N lanes of one task in one world at one fidelity; keeps nothing between calls."""

    def __init__(self, task: Task, world: World, fidelity: Fidelity) -> None:
        self.task, self.world, self.fidelity = task, world, fidelity
        box = task.observation_space["agent_pos"]
        assert isinstance(box, gym.spaces.Box)
        self._agent_box = box

    def check(self, actions: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Actions `[*shape, A]` as float32; ActionError says what is wrong with them."""
        array = np.asarray(actions)
        wanted = (*shape, self.world.spec.action.dim)
        if array.shape != wanted:
            raise ActionError(f"actions have shape {array.shape}; this environment takes {wanted}")
        return check_action(self.world.spec.action, array)

    def check_start(self, start: Start) -> Start:
        """The start itself; ConfigError where this task's frames and actions look otherwise."""
        if not isinstance(start, Start):
            raise ConfigError(f"options['start'] must be a wcsim.envs.tasks.Start, got {type(start).__name__}")
        frames, actions = start.frames, start.actions
        shape = (len(frames), *self.task.frame_size, 3)
        if frames.dtype != np.uint8 or frames.shape != shape or not len(frames):
            raise ConfigError(f"start frames are {frames.dtype} {frames.shape}; task {self.task.name!r} begins with "
                              f"uint8 (T >= 1, {self.task.frame_size[0]}, {self.task.frame_size[1]}, 3)")
        self.check(actions, (len(frames) - 1,))
        return start

    def begin(self, start: Start, seed: int) -> Tick:
        """A lane at the last frame of a start, its noise numbered by `seed`."""
        state = self.world.init(start.frames[None], start.actions[None], [seed])
        pixels = start.frames[-1]
        return self._judge(Lane(state, pixels, np.zeros(self._agent_box.shape, np.float32)), None)

    def step(self, lanes: Sequence[Lane], actions: np.ndarray, spans: Spans) -> list[Tick]:
        """One control tick for every lane under checked actions `[N, A]`: one forward pass for all that need one."""
        shown = [(show_next(lane), lane.ahead) for lane in self.expect(lanes, actions[:, None], spans)]
        with spans("judge"):
            return [self._judge(lane, ahead.trace_of_next) for lane, ahead in shown if ahead is not None]

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
            after, latents, trace = self.world.advance(WorldState.join(states), actions[blank], fidelity)
        with spans("decode"):
            frames = self.world.decode(latents)
        for row, n in enumerate(blank):
            ahead = Ahead(after.select([row]), actions[n], latents[row], frames[row], lane_of(trace, row))
            found[n] = replace(found[n], state=states[row], ahead=ahead)
        return found

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
        now = self.state_of(lane)
        state = self.world.init(frames[None], actions[None], now.seed.tolist())
        return replace(lane, state=replace(state, frame=now.frame), ahead=None)

    def _judge(self, lane: Lane, trace: Trace | None) -> Tick:
        """Judge the frame on show; an agent that cannot be seen is taken to be where it was last seen."""
        judgement = self.task.judge(lane.pixels[None])
        if judgement.agent_found[0]:
            seen = judgement.agent[0].astype(np.float32)
            lane = replace(lane, agent=np.clip(seen, self._agent_box.low, self._agent_box.high))
        return Tick(lane, judgement, float(self.task.reward(judgement)[0]), trace)


def show_next(lane: Lane) -> Lane:
    """The lane with the first frame ahead of it on show."""
    ahead = lane.ahead
    assert ahead is not None
    seen = replace(lane, pixels=ahead.frames[ahead.shown], latent=ahead.latents[ahead.shown])
    if ahead.shown + 1 < len(ahead.frames):
        return replace(seen, ahead=replace(ahead, shown=ahead.shown + 1))
    return replace(seen, state=ahead.after, ahead=None)


def lane_of(trace: Trace, lane: int) -> Trace:
    """The part of a trace that is about one lane; times are those of the whole batch."""
    return part_of(trace, np.s_[..., lane : lane + 1])


def part_of(trace: Trace, part: Any) -> Trace:
    """A part of the tables `[K, S, N]` of a trace."""
    return replace(trace, hit=trace.hit[part], drift=trace.drift[part], threshold=trace.threshold[part],
                   gain=trace.gain[part], blocks=trace.blocks[part],
                   by_branch={name: hit[part] for name, hit in trace.by_branch.items()})
