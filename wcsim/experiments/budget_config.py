"""What a budget sweep is asked: deadlines, efforts, planners, delays and governors, and the points they make.

Easy to get wrong: a cell goes by its `key`, never by its place, so that a reordered file is the same sweep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, PositiveFloat, ValidationError, model_validator

from wcsim.agents.asynchronous import Mode
from wcsim.agents.mpc import MPCConfig
from wcsim.agents.planners import PlannerName
from wcsim.cache.fidelity import FidelityConfig
from wcsim.config import RunName, StrictConfig
from wcsim.experiments.policies import StateGoalConfig
from wcsim.experiments.task_config import TaskConfig
from wcsim.timing.clock import LatencyConfig


class DelayConfig(StrictConfig):
    """The second half of the sweep: one effort, planner and deadline, and chunks that arrive late."""

    effort: str
    planner: PlannerName = "cem"
    deadline_ms: float = Field(gt=0)
    modes: tuple[Mode, ...] = ("wait", "naive", "ensemble", "freeze")
    ticks: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Delays in control ticks."""


class EffortConfig(StrictConfig):
    """How hard to plan; see `wcsim.agents.chunks.Effort`."""

    fidelity: FidelityConfig | None
    """Of the scoring; null asks the world's state model alone and renders no frame."""
    candidates: int | None = Field(None, ge=1)
    """Per round; None takes `planning.candidates`."""
    elites: int | None = Field(None, ge=1)
    """Of them; None takes `planning.elites`."""


class GovernedConfig(StrictConfig):
    """The third part of the sweep: plans of `rounds` whole rounds, however long they take, and a governor that turns
    their effort so that they meet the deadline; see `wcsim.timing.governor.Governor`."""

    efforts: tuple[str, ...] = Field(min_length=2)
    """Of the sweep, cheapest first; an episode begins with the cheapest."""
    planner: PlannerName = "cem"
    rounds: int = Field(2, ge=1)
    margin: float = Field(0.7, gt=0, le=1)
    patience: tuple[int, int] = (1, 16)


class BudgetConfig(StrictConfig):
    """One sweep, `episodes` starts from consecutive seeds per cell."""

    name: RunName
    world: str
    task: TaskConfig
    episodes: int = Field(10, ge=1)
    first_seed: int = Field(720_000, ge=0)
    max_steps: int = Field(40, ge=1)
    deadlines_ms: tuple[PositiveFloat, ...] = Field(min_length=1)
    efforts: dict[str, EffortConfig] = Field(min_length=1)
    planners: tuple[PlannerName, ...] = ("cem",)
    delay: DelayConfig | None = None
    governed: GovernedConfig | None = None
    """Swept over `deadlines_ms`, too."""
    planning: MPCConfig = MPCConfig(rounds=64)
    """Shared by all; planner and deadline are the sweep's, candidates and elites where an effort says none."""
    objective: StateGoalConfig = StateGoalConfig()
    clock: Literal["simulated", "wall"] = "simulated"
    latency: LatencyConfig | None = None
    """Of the simulated clock; None measures it, per effort, before the first episode."""
    device: str = "cpu"
    threads: int | None = Field(None, ge=1, le=1024)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        named = {"delay.effort": () if self.delay is None else (self.delay.effort,),
                 "governed.efforts": () if self.governed is None else self.governed.efforts}
        for where, names in named.items():
            for name in names:
                if name not in self.efforts:
                    raise ValueError(f"{where} {name!r} is unknown; known: {', '.join(self.efforts)}")
        for name in self.efforts:
            try:
                self.planning_of(name)
            except ValidationError as error:
                raise ValueError(f"efforts.{name}: {error.errors()[0]['msg']}") from error
        if self.delay is not None and max(self.delay.ticks) + self.planning.replan_every > self.planning.horizon:
            raise ValueError(f"planning.horizon {self.planning.horizon} must hold replan_every and the longest delay")
        return self

    def planning_of(self, effort: str) -> MPCConfig:
        """`planning` with an effort's own candidates and elites."""
        own = self.efforts[effort].model_dump(include={"candidates", "elites"}, exclude_none=True)
        return MPCConfig.model_validate(self.planning.model_dump() | own)


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the sweep.  effort: its name; of a governed cell "governed".  delay: in ticks; None: the time that
    planning takes does not pass on the table."""

    effort: str
    planner: PlannerName
    deadline_ms: float
    mode: Mode = "wait"
    delay: int | None = None
    governed: bool = False

    @property
    def key(self) -> str:
        """What a run calls it."""
        late = "" if self.delay is None else f",mode={self.mode},delay={self.delay}"
        return f"effort={self.effort},planner={self.planner},deadline_ms={self.deadline_ms:g}{late}"


def cells(config: BudgetConfig) -> list[Cell]:
    """All different points: every deadline, effort and planner; then every mode and delay; then the governor's."""
    every = [Cell(effort, planner, deadline_ms) for effort in config.efforts for planner in config.planners
             for deadline_ms in config.deadlines_ms]
    late, governed = config.delay, config.governed
    if late is not None:
        every += [Cell(late.effort, late.planner, late.deadline_ms, mode, ticks)
                  for mode in late.modes for ticks in late.ticks]
    if governed is not None:
        every += [Cell("governed", governed.planner, deadline_ms, governed=True) for deadline_ms in config.deadlines_ms]
    return list(dict.fromkeys(every))
