"""The settings of the cache benchmark: sweeps from a configuration, each value of a knob one setting.

Easy to get wrong: a contestant is a whole fidelity (solver, steps, cache), so caching and taking fewer steps are rivals
in the same benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from wcsim.cache.fidelity import FidelityConfig
from wcsim.cache.gate import PolicyConfig
from wcsim.config import StrictConfig
from wcsim.experiments.bench.third_party import Origin, missing, third_party_config
from wcsim.types import Decide

Cache = str | dict[str, Any] | PolicyConfig
"""A cache preset's name, or its settings (`wcsim.cache.parse_cache`), or those of a third party's cache."""


REFRESH = "context_refresh"
"""The knob that is no setting of a cache."""


class Sweep(StrictConfig):
    """One cache at several values of one of its settings."""

    renamed: ClassVar[Mapping[str, str]] = {"context_hold": "context_refresh"}
    policy: str
    """The cache preset that the sweep starts from, or the name of a third party's."""
    origin: Origin = "ours"
    """Whose code it is: see `wcsim.experiments.bench.third_party`."""
    context_refresh: float = Field(0.0, ge=0, le=1)
    """How long the context's keys and values are reused (`context_refresh` of `wcsim.types.Fidelity`); may be the knob
    instead."""
    name: str | None = None
    """Its name in the results, by default the policy, with the origin if that is not ours."""
    knob: str
    """One of its settings, or `context_refresh`."""
    values: list[float | int] = Field(min_length=1)
    settings: dict[str, Any] = Field({})
    """What else differs from the preset."""
    steps: list[int] | None = None
    """Of the benchmark's step counts those that it runs at; null for all."""

    @property
    def shown(self) -> str:
        """See `name`."""
        return self.name or (self.policy if self.origin == "ours" else f"{self.policy} ({self.origin})")

    def fidelities(self, solver: str, steps: int, shared: Mapping[str, Any]) -> Iterator[tuple[str, FidelityConfig]]:
        """Knob as text, and the fidelity, per value; none where its code is not installed, or at other steps."""
        if self.steps is None or steps in self.steps:
            for knob, cache, refresh in self._settings():
                yield knob, fidelity(solver, steps, cache, shared, refresh)

    def _settings(self) -> Iterator[tuple[str, Cache, float]]:
        """Knob, cache, and `context_refresh`."""
        for value in self.values if missing(self.origin) is None else ():
            refresh = float(value) if self.knob == REFRESH else self.context_refresh
            settings = self.settings if self.knob == REFRESH else {**self.settings, self.knob: value}
            cache: Cache = {"preset": self.policy, **settings}
            if self.origin != "ours":
                cache = third_party_config(self.origin, self.policy, settings)
            yield f"{self.knob}={value:g}", cache, refresh


class Ablation(StrictConfig):
    """A sweep, once whole, and once without each of its parts."""

    sweep: Sweep
    parts: dict[str, dict[str, Any]]
    """Name of a part to the settings that switch it off."""
    batches: list[PositiveInt] | None = Field(None, min_length=1)
    """Lanes of its timings; null for those of the benchmark."""

    def sweeps(self) -> Iterator[tuple[str, Sweep]]:
        """`whole` first."""
        yield "whole", self.sweep
        for part, settings in self.parts.items():
            yield f"without {part}", self.sweep.model_copy(update={"settings": {**self.sweep.settings, **settings}})


class Frontier(StrictConfig):
    """All combinations of solver, steps and cache."""

    solvers: list[str] = Field(min_length=1)
    steps: list[PositiveInt] = Field(min_length=1)
    sweeps: list[Sweep] = Field([])
    batches: list[PositiveInt] | None = Field(None, min_length=1)
    """Lanes of its timings; null for those of the benchmark."""


class CacheBenchConfig(StrictConfig):
    """What `wcsim bench cache` measures."""

    name: str
    world: str
    first_seed: int = Field(600_000, ge=0)
    """First of the held-out episodes."""
    episodes: int = Field(16, ge=2)
    horizon: int = Field(32, ge=1)
    """Ticks of the rollouts that are compared with the truth."""
    context: int | None = Field(None, ge=1)
    """Frames looked back on; null for the most that the world does."""
    guidance: float = Field(0.0, ge=0)
    """Of all settings alike, as are the next three; see `wcsim.types.Fidelity`."""
    guidance_until: float = Field(0.0, ge=0, le=1)
    decide: Decide = "together"
    batched: bool = True
    chunk: int | None = Field(None, ge=1)
    """Ticks imagined at once, where time is measured and where errors are; null for the most that the world does."""
    rounds: int = Field(5, ge=1)
    """Interleaved repetitions of every timing; more where it takes more to time every episode once."""
    batches: list[PositiveInt] = Field([1, 32], min_length=1)
    """Lanes of the timings.  One lane imagines frame by frame, as an environment does; more lanes whole chunks, as a
    planner does."""
    solver: str = "unipc"
    """The solver of the baseline and of the sweeps: the official one of the action-conditioned checkpoints."""
    steps: list[PositiveInt] = Field([35, 10], min_length=1)
    """Denoise steps of the sweeps; the first is the official setting that every speed-up refers to."""
    reference_steps: int = Field(140, ge=1)
    """Denoise steps of the solution that the frontier is measured from."""
    sweeps: list[Sweep]
    ablation: Ablation | None = None
    frontier: Frontier | None = None
    speeds: list[float] = Field([1.5, 2.0, 2.5, 3.0])
    """Speed-ups at which errors are compared."""
    ours: list[str] = Field(["wcsim"])
    """Policies whose claims are checked; the page draws them strong."""

    @property
    def shared(self) -> dict[str, Any]:
        """The fields of a fidelity that all settings share."""
        return {name: getattr(self, name) for name in ("context", "guidance", "guidance_until", "decide", "batched")}

    def batches_of(self, group: str) -> list[int]:
        """Lanes of the timings of a part of the benchmark."""
        part = {"ablation": self.ablation, "frontier": self.frontier}.get(group)
        return (part.batches if part else None) or self.batches


@dataclass(frozen=True, slots=True)
class Setting:
    """group: which part of the benchmark (`curves`, `ablation`, `frontier`).  policy, knob: names.  fidelity: what
    runs.  origin: whose cache it is."""

    group: str
    policy: str
    knob: str
    fidelity: FidelityConfig
    origin: Origin = "ours"


def settings_of(config: CacheBenchConfig) -> list[Setting]:
    """All settings, in the order of the configuration; ConfigError for settings that no cache has."""
    plain = partial(fidelity, cache="none", shared=config.shared)
    found = [Setting("curves", "none", "", plain(config.solver, steps)) for steps in config.steps]
    for steps in config.steps:
        found += [Setting("curves", sweep.shown, knob, what, sweep.origin) for sweep in config.sweeps
                  for knob, what in sweep.fidelities(config.solver, steps, config.shared)]
    if config.ablation:
        found += [Setting("ablation", name, knob, what) for name, sweep in config.ablation.sweeps()
                  for knob, what in sweep.fidelities(config.solver, config.steps[0], config.shared)]
    if config.frontier:
        for solver in config.frontier.solvers:
            for steps in config.frontier.steps:
                found.append(Setting("frontier", "none", "", plain(solver, steps)))
                found += [Setting("frontier", sweep.shown, knob, what, sweep.origin)
                          for sweep in config.frontier.sweeps
                          for knob, what in sweep.fidelities(solver, steps, config.shared)]
    return found


def absent(config: CacheBenchConfig) -> dict[str, str]:
    """The policies that cannot run here, and why."""
    sweeps = [*config.sweeps, *(config.frontier.sweeps if config.frontier else [])]
    return {sweep.shown: why for sweep in sweeps if (why := missing(sweep.origin)) is not None}


def fidelity(
    solver: str, steps: int, cache: Cache, shared: Mapping[str, Any], context_refresh: float = 0.0
) -> FidelityConfig:
    """A fidelity with the world's own chunk.  shared: its other fields."""
    return FidelityConfig.model_validate({**shared, "solver": solver, "steps": steps,
                                          "cache": {"preset": cache} if isinstance(cache, str) else cache,
                                          "context_refresh": context_refresh})


def is_plain(what: FidelityConfig) -> bool:
    """Whether every pass is whole."""
    return what.cache.kind == "none" and not what.context_refresh
