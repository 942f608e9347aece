"""How well a trained world imagines held-out recordings, by horizon, beside copying the last frame.

Episodes begin with the clean context that the world was trained on, and then play their recorded actions.  How many
denoise steps are best is tried here, on held-out episodes, and becomes the world's default.  Easy to get wrong: these
episodes choose the default, so a claim needs others (`wcsim bench world`).

Shapes: N episodes, T frames, H W frame, A action, P robot state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wcsim.cache.none import NoCache
from wcsim.errors import DataError
from wcsim.metrics.images import psnr_db, ssim
from wcsim.report.training import Clips, write_training
from wcsim.runs import files
from wcsim.train.footage import Footage
from wcsim.train.recipe import JudgeRecipe
from wcsim.types import Fidelity
from wcsim.world.world import World

HORIZONS = (1, 2, 4, 8, 16, 32)
SENSITIVITY = 8
"""Horizon at which other actions are compared with the recorded ones."""


@dataclass(frozen=True)
class HeldOut:
    """frames: `[N, m+h, H, W, 3]`, of which m are context.  actions: `[N, m+h-1, A]`.  state: `[N, m+h, P]` or None."""

    frames: np.ndarray
    actions: np.ndarray
    state: np.ndarray | None
    context: int

    @classmethod
    def of(cls, footage: Footage, context: int, horizon: int, most: int) -> HeldOut:
        """Up to `most` episodes that are long enough, evenly taken; the horizon shrinks where none is."""
        longest = int(footage.lengths.max())
        context = min(context, longest - 1)
        horizon = min(horizon, longest - context)
        there = np.flatnonzero(footage.lengths >= context + horizon)
        chosen = there[np.unique(np.linspace(0, len(there) - 1, min(most, len(there))).round().astype(int))]
        if len(chosen) == 0:
            raise DataError(f"{footage.recordings.path} has no held-out episode of 2 frames or more")
        ticks = [(int(number), (7 * place) % int(footage.lengths[number] - context - horizon + 1))
                 for place, number in enumerate(chosen)]
        begin = np.array([footage.first[number] + tick for number, tick in ticks])
        flat = begin[:, None] + np.arange(context + horizon)
        frames = np.stack([footage.frames(number, list(range(tick, tick + context + horizon)))
                           for number, tick in ticks])
        state = None if footage.state is None else footage.state[flat]
        return cls(frames, footage.actions[flat[:, 1:]], state, context)

    @property
    def future(self) -> np.ndarray:
        """Frames after the context, `[N, h, H, W, 3]`."""
        return self.frames[:, self.context :]

    @property
    def taken(self) -> np.ndarray:
        """Actions after the context, `[N, h, A]`."""
        return self.actions[:, self.context - 1 :]


def judge(recipe: JudgeRecipe, out: Path, footage: Footage, scalars: list[dict[str, Any]], device: str,
          dtype: torch.dtype = torch.float32) -> Path:
    """Measure `OUT/world`, set its default steps, write `summary.json` and the page; returns the page."""
    world = World.load(out / "world", device=device, dtype=dtype)
    context = 1 + world.spec.frames_per_latent * (world.spec.max_context - 1)
    held = HeldOut.of(footage, context, recipe.horizon, recipe.episodes)
    tried = {steps: imagine(world, held, held.taken, steps) for steps in recipe.steps or (world.spec.default_steps,)}
    quality = {steps: float(psnr_db(frames, held.future).mean()) for steps, frames in tried.items()}
    best = max(quality, key=lambda steps: (round(quality[steps], 2), -steps))
    if recipe.steps:
        set_default_steps(out / "world", best)
    summary = {"world": world.spec.name, "labels": world.spec.labels, "episodes": len(held.frames),
               "held_out": footage.names(),
               "denoise_steps": best, "tried_steps_psnr_db": {str(steps): value for steps, value in quality.items()},
               "codec_psnr_db": codec_psnr_db(world, held),
               "horizon": by_horizon(tried[best], held.future),
               "copy_last_frame": by_horizon(copied(held), held.future),
               "robot_state": state_errors(world, held), "sensitivity": sensitivity(world, held, best)}
    files.replace(out / "summary.json", (files.encode(summary, indent=2) + "\n").encode())
    clips = Clips(held.future, tried[best], psnr_db(tried[best], held.future).mean(1), world.spec.fps)
    return write_training(out, summary, scalars, clips)


def imagine(world: World, held: HeldOut, actions: np.ndarray, steps: int) -> np.ndarray:
    """Frames `[N, h, H, W, 3]` under actions `[N, h, A]`."""
    state = world.init(held.frames[:, : held.context], held.actions[:, : held.context - 1], np.arange(len(actions)))
    _, latents, _ = world.advance(state, actions, Fidelity(steps, NoCache(), world.spec.default_solver))
    return np.stack([world.decode(frame) for frame in latents.unbind(1)], axis=1)


def codec_psnr_db(world: World, held: HeldOut) -> float:
    """Mean PSNR of held-out frames that are encoded and decoded; of clips from their beginning, where a world has
    such."""
    share = world.spec.frames_per_latent
    if share == 1:
        return float(psnr_db(world.decode(world.encode(held.future)), held.future).mean())
    clips = held.frames[:, : 1 + share * ((held.frames.shape[1] - 1) // share)]
    return float(psnr_db(world.codec.decode(world.codec.encode(clips)), clips).mean())


def copied(held: HeldOut) -> np.ndarray:
    """The last real frame, again and again."""
    return np.repeat(held.frames[:, held.context - 1 : held.context], held.future.shape[1], axis=1)


def by_horizon(frames: np.ndarray, truth: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean PSNR and SSIM of frames `[N, h, ...]` at every horizon that there is."""
    return {str(h): {"psnr_db": float(psnr_db(frames[:, h - 1], truth[:, h - 1]).mean()),
                     "ssim": float(ssim(frames[:, h - 1], truth[:, h - 1]).mean())}
            for h in HORIZONS if h <= frames.shape[1]}


def state_errors(world: World, held: HeldOut) -> dict[str, Any] | None:
    """Median absolute error of every number of the robot's state by horizon, as predicted from actions and as it was at
    the start; None without a state model."""
    if world.state_model is None or held.state is None:
        return None
    state = world.init(held.frames[:, : held.context], held.actions[:, : held.context - 1], np.arange(len(held.frames)))
    values = world.predict_state(state, held.taken)
    said = np.concatenate([values[name] for name in world.state_model.quantities], axis=-1)
    true = held.state[:, held.context :]
    still = np.repeat(held.state[:, held.context - 1 : held.context], true.shape[1], axis=1)
    return {kind: {str(h): np.median(np.abs(guess[:, h - 1] - true[:, h - 1]), axis=0).tolist()
                   for h in HORIZONS if h <= true.shape[1]} for kind, guess in (("predicted", said), ("held", still))}


def sensitivity(world: World, held: HeldOut, steps: int) -> dict[str, float]:
    """How many times as far from the truth frames are under other actions: those of another episode, mirrored within
    their bounds, and the first one held.  1 means that actions do not matter."""
    taken = held.taken[:, :SENSITIVITY]
    low, high = np.asarray(world.spec.action.low, np.float32), np.asarray(world.spec.action.high, np.float32)
    others = {"recorded": taken, "shuffled": np.roll(taken, 1, axis=0), "mirrored": low + high - taken,
              "held": np.repeat(taken[:, :1], taken.shape[1], axis=1)}
    errors = {name: float(np.square(imagine(world, held, np.clip(actions, low, high), steps)[:, -1].astype(np.float64)
                                    - held.future[:, taken.shape[1] - 1]).mean()) for name, actions in others.items()}
    return {name: error / max(errors["recorded"], 1e-9) for name, error in errors.items() if name != "recorded"}


def set_default_steps(folder: Path, steps: int) -> None:
    """Write a world's default number of denoise steps."""
    described = json.loads((folder / "world.json").read_text())
    described["spec"]["default_steps"] = steps
    files.replace(folder / "world.json", (json.dumps(described, indent=2) + "\n").encode())
