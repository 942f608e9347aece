"""One stage of a training: steps, checkpoints, a progress line, scalars.  It goes on after any kill.

A checkpoint is written whole or not at all, and holds weights, optimizers, running means and where the stage stands.
Randomness is a function of seed, step and the batch's number.  So a stage of given steps ends with the same weights
however often it was stopped.  Easy to get wrong: with minutes instead of steps, how far it is follows the clock.

Losses are dictionaries of scalars; the one called `loss` is minimised, the others are only shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wcsim.errors import NotFiniteError
from wcsim.train.machine import Machine
from wcsim.train.muon import Muon
from wcsim.train.scalars import Scalars
from wcsim.train.schedule import Schedule

Draw = Callable[[np.random.Generator, torch.Generator, float], Mapping[str, Any]]
"""A batch, as keyword arguments of the learner, from randomness and the share of the stage that is over."""

CLIP = 1.0
"""Largest norm of a gradient."""


@dataclass
class Stage:
    """How a stage runs.  minutes: None: as many steps as the schedule says.  say: receives the progress, 0 to `total`.
    extra: what the stage keeps in its checkpoint beside weights."""

    name: str
    folder: Path
    schedule: Schedule
    machine: Machine
    scalars: Scalars
    minutes: float | None = None
    count: Callable[[int, int], None] = lambda done, total: None
    muon_rate: float = 1.0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Its checkpoint."""
        return self.folder / f"{self.name}.pt"

    def run(
        self, learner: nn.Module, optimizers: Sequence[torch.optim.Optimizer], draw: Draw,
        validate: Callable[[], Mapping[str, float]], export: Callable[[], None],
        ready: Callable[[float], None] = lambda done: None,
    ) -> None:
        """Train `learner` from where its checkpoint left it to the end.

        validate: losses on held-out data.  export: writes what the stage makes; both see averaged weights.  ready: told
        how far the stage is, before each step and before each export, to freeze what has learnt enough.  A group of an
        optimizer with a `share` learns at that share of the rate.
        """
        prepared = self.machine.prepare(learner)
        average = Average(learner, self.schedule.ema)
        step, seconds = self._load(learner, optimizers, average)
        if self._done(step, seconds) >= 1.0:
            return
        if self.machine.first:
            self.scalars.forget(self.name, step)
        began, recent = time.monotonic() - seconds, list[dict[str, float]]()
        while (done := self._done(step, seconds)) < 1.0:
            ready(done)
            recent.append(self._step(prepared, learner, optimizers, draw, step, done))
            average.update(step)
            step, seconds = step + 1, self.machine.agree(time.monotonic() - began)
            self.count(*((step, self.schedule.steps) if self.minutes is None else
                         (min(round(seconds), round(self.minutes * 60)), round(self.minutes * 60))))
            if step % self.schedule.save_every == 0 or self._done(step, seconds) >= 1.0:
                ready(self._done(step, seconds))
                with average.in_place():
                    self._report(step, seconds, recent, validate)
                    if self.machine.first:
                        export()
                recent.clear()
                self._save(learner, optimizers, average, step, seconds)  # last: what is exported is never behind
        self.machine.wait()

    def _done(self, step: int, seconds: float) -> float:
        if self.minutes is None:
            return step / self.schedule.steps
        return seconds / (60.0 * self.minutes)

    def _step(self, prepared: nn.Module, learner: nn.Module, optimizers: Sequence[torch.optim.Optimizer], draw: Draw,
              step: int, done: float) -> dict[str, float]:
        total: dict[str, float] = {}
        for batch in range(self.schedule.accumulate):
            seed = [self.schedule.seed, step, batch * self.machine.processes + self.machine.rank]
            rng = np.random.default_rng(seed)
            given = draw(rng, torch.Generator().manual_seed(int(rng.integers(2**62))), done)
            last = batch + 1 == self.schedule.accumulate
            with self.machine.together(prepared, last=last):
                with self.machine.autocast():
                    losses: dict[str, Tensor] = prepared(**given)
                (losses["loss"] / self.schedule.accumulate).backward()
            for name, loss in losses.items():
                total[name] = total.get(name, 0.0) + float(loss.detach()) / self.schedule.accumulate
        if not np.isfinite(total["loss"]):
            raise NotFiniteError(f"stage {self.name!r}: the loss is {total['loss']} at step {step + 1}; lower "
                                 f"{self.name}.schedule.learning_rate, or look at the recordings (`wcsim data check`)")
        torch.nn.utils.clip_grad_norm_(learner.parameters(), CLIP)
        for optimizer in optimizers:
            faster = self.muon_rate if isinstance(optimizer, Muon) else 1.0
            for group in optimizer.param_groups:
                group["lr"] = faster * group.get("share", 1.0) * self.schedule.rate(step, done)
            optimizer.step()
            optimizer.zero_grad()
        return total

    def _report(self, step: int, seconds: float, recent: Sequence[Mapping[str, float]],
                validate: Callable[[], Mapping[str, float]]) -> None:
        held = validate()
        seen = {name: float(np.mean([losses[name] for losses in recent if name in losses]))
                for name in dict.fromkeys(name for losses in recent for name in losses)}
        if self.machine.first:
            self.scalars.add(self.name, step, seconds, seen, held)

    def _save(self, learner: nn.Module, optimizers: Sequence[torch.optim.Optimizer], average: Average, step: int,
              seconds: float) -> None:
        if not self.machine.first:
            return
        partial = self.path.with_suffix(".partial")
        torch.save({"learner": learner.state_dict(), "optimizers": [one.state_dict() for one in optimizers],
                    "average": average.values, "step": step, "seconds": seconds, "extra": self.extra}, partial)
        partial.rename(self.path)

    def _load(self, learner: nn.Module, optimizers: Sequence[torch.optim.Optimizer], average: Average
              ) -> tuple[int, float]:
        if not self.path.is_file():
            return 0, 0.0
        saved = torch.load(self.path, weights_only=True, map_location=self.machine.device)
        learner.load_state_dict(saved["learner"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=False):
            optimizer.load_state_dict(state)
        average.values = saved["average"]
        self.extra.update(saved["extra"])
        return int(saved["step"]), float(saved["seconds"])


class Average:
    """An exponential running mean of a module's parameters; with decay 0 the parameters themselves."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self.values = [one.detach().clone() for one in module.parameters()] if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the parameters; faster at the beginning, whose weights mean nothing."""
        if self._decay:
            kept = min(self._decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.values, [one.detach() for one in self._module.parameters()], 1 - kept)

    @torch.no_grad()
    def put(self) -> None:
        """Give the module its mean."""
        for parameter, value in zip(self._module.parameters(), self.values, strict=bool(self.values)):
            parameter.copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module with its mean, and in eval mode; afterwards as it was."""
        before = [one.detach().clone() for one in self._module.parameters()] if self._decay else []
        training = self._module.training
        self.put()
        self._module.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self._module.parameters(), before, strict=bool(before)):
                    parameter.copy_(value)
            self._module.train(training)
