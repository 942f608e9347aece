"""A world whose dynamics are known exactly: a point that every action moves, plus noise of (seed, frame).

It implements the API of `wcsim.world.world.World` on the real `WorldState`.  A latent `[2, 1, 1]` is the position; a
frame `[8, 8, 3]` shows it, rounded, in its first two channels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wcsim.estimate import Estimate, Goal
from wcsim.spec import Quantity, StateSpec, Values
from wcsim.types import ActionSpec, Fidelity, Trace, WorldSpec, WorldState

SPEC = WorldSpec(
    name="linear", task="point", frame_size=(8, 8), latent_shape=(2, 1, 1), fps=10.0,
    action=ActionSpec(low=(-4.0, -4.0), high=(4.0, 4.0), names=("x", "y"), units="px"),
    max_context=2, max_chunk=4, flow_shift=1.0, context_sigma=0.0, default_steps=1,
)
FIDELITY = Fidelity(steps=1, cache=None)  # type: ignore[arg-type]  # there are no blocks to skip


def frame_at(x: float, y: float) -> np.ndarray:
    frame = np.zeros((8, 8, 3), dtype=np.uint8)
    frame[..., 0], frame[..., 1] = round(x), round(y)
    return frame


class LinearWorld:
    """gain: how far an action moves the imagined point (the true point moves by the action).  noise: its size."""

    spec = SPEC

    def __init__(self, gain: float = 1.0, noise: float = 0.0) -> None:
        self.gain, self.noise = gain, noise
        self.batches: list[int] = []
        self.decoded = 0
        self.refine_steps: list[int | None] = []

    def encode(self, frames: np.ndarray, refine_steps: int | None = None) -> Tensor:
        self.refine_steps.append(refine_steps)
        return torch.from_numpy(frames[..., 0, 0, :2].astype(np.float64))[..., None, None]

    def decode(self, latents: Tensor) -> np.ndarray:
        self.decoded += latents[..., 0, 0, 0].numel()
        frames = np.zeros((*latents.shape[:-3], 8, 8, 3), dtype=np.uint8)
        frames[..., :2] = latents[..., 0, 0].round().clamp(0, 255).numpy()[..., None, None, :]
        return frames

    def init(self, frames: np.ndarray, actions: np.ndarray, seeds: np.ndarray) -> WorldState:
        lanes = len(frames)
        assert actions.shape == (lanes, frames.shape[1] - 1, 2)
        latents = torch.zeros(lanes, 2, 2, 1, 1, dtype=torch.float64)
        latents[:, -1] = self.encode(frames)[:, -1]
        ones = torch.ones(lanes, dtype=torch.int64)
        return WorldState(
            latents=latents, model_memory=torch.zeros(lanes, 2, 0), actions=torch.zeros(lanes, 2, 2),
            known=torch.zeros(lanes, 2, dtype=torch.bool), length=ones, frame=0 * ones, seed=torch.as_tensor(seeds),
        )

    def observe(self, state: WorldState, latents: Tensor, actions: np.ndarray) -> WorldState:
        assert actions.shape == (state.num_lanes, 2)
        return replace(state, latents=torch.cat([state.latents, latents[:, None]], 1)[:, -2:], frame=state.frame + 1)

    def advance(self, state: WorldState, actions: np.ndarray, fidelity: Fidelity) -> tuple[WorldState, Tensor, Trace]:
        lanes, count, _ = actions.shape
        assert lanes == state.num_lanes
        assert (np.abs(actions) <= 4.0).all()
        self.batches.append(lanes)
        frames = []
        for tick in range(count):
            move = self.gain * torch.from_numpy(actions[:, tick]) + self.noise * self._noise(state)
            state = self.observe(state, state.latents[:, -1] + move[..., None, None], actions[:, tick])
            frames.append(state.latents[:, -1])
        none = np.zeros((1, 1, lanes), dtype=np.float32)
        return state, torch.stack(frames, 1), Trace(none > 1, none, none, none, none.astype(np.int64), depth=1)

    def _noise(self, state: WorldState) -> Tensor:
        return torch.stack([torch.sin(12.9898 * state.seed + 78.233 * state.frame),
                            torch.cos(4.1414 * state.seed + 11.135 * state.frame)], dim=1).double()


STATE = StateSpec((
    Quantity("agent", 2, "px", "position", "robot", low=0.0, high=255.0),
    Quantity("block", 2, "px", "position", goal=True), Quantity("turn", 1, "rad", "angle", goal=True),
))
GOAL = Goal({"block": np.array([20.0, 14.0]), "turn": np.array([0.0])})


class PointTask:
    """The point is the agent, a block lies 10 px to its right, and is not seen where the agent is beyond x = 100."""

    name, state, goal, action = "point", STATE, GOAL, SPEC.action

    def estimate(self, frames: np.ndarray) -> Estimate:
        assert frames.dtype == np.uint8
        assert frames.ndim == 4
        point = frames[:, 0, 0, :2].astype(np.float64)
        found = point[:, :1] <= 100
        block = np.where(found, point + np.array([10.0, 0.0]), np.nan)
        return self.estimate_state({"agent": point, "block": block, "turn": np.where(found, 0.0, np.nan)})

    def estimate_state(self, values: Values) -> Estimate:
        found = {name: np.asarray(np.isfinite(value).all(-1)) for name, value in values.items()}
        none = np.zeros(len(values["block"]))
        return Estimate(dict(values), found, none, none > 1, none < 1)


TASK = PointTask()


def estimated(agent: Any, block: Any, turn: float = 0.0, progress: float = 0.0) -> Estimate:
    """One frame's estimate; what was not found is NaN."""
    values = {"agent": np.array([agent], float), "block": np.array([block], float), "turn": np.array([[turn]])}
    found = {name: np.asarray(np.isfinite(value).all(-1)) for name, value in values.items()}
    return Estimate(values, found, np.array([progress]), np.zeros(1, bool), np.ones(1, bool))


def observe(frames: np.ndarray, before: Any) -> dict[str, np.ndarray]:
    """What policies see of the point."""
    return {"pixels": frames, "agent_pos": frames[:, 0, 0, :2].astype(np.float32)}
