"""The named MPC protocol: reach what a demonstrator reached in 25 ticks, in the truth and in the imagined environment.

Every arm (a planner at some fidelity, or a policy to hold it against) plays the same starts towards the same goals.
Easy to get wrong: seconds are measured where an episode was played, so one that is resumed elsewhere has mixed them;
everything else in the summary is the same whatever interrupted it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from json import dumps, loads
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from wcsim.agents.mpc import MPCAgent
from wcsim.agents.policies import Policy, ReplayPolicy
from wcsim.cache.fidelity import FidelityConfig
from wcsim.config import StrictConfig, validate
from wcsim.envs.imagined import load_world
from wcsim.envs.tasks import Task, make_task
from wcsim.experiments.candidates import ExpertCandidate, LearnedCandidate, RandomCandidate, StillCandidate
from wcsim.experiments.closed_loop import TaskConfig
from wcsim.experiments.executor import Executor
from wcsim.experiments.goal_play import Opinion, attempt, attempt_row, audit
from wcsim.experiments.goal_task import Goal, make_goal, with_goal
from wcsim.experiments.goals_summary import COLUMNS, summarise
from wcsim.experiments.inputs import inputs_of
from wcsim.experiments.lanes import Lanes, TruthLanes, WorldLanes
from wcsim.experiments.pieces import Tell, finish, job_key
from wcsim.experiments.planners import MPCAgentConfig
from wcsim.track.manifest import make_manifest
from wcsim.track.runs import Run
from wcsim.world.world import World


class DemonstratorConfig(StrictConfig):
    """Does again what was done when the goal was made: how far a plan that cannot be wrong gets."""

    kind: Literal["demonstrator"] = "demonstrator"


PolicyArm = ExpertCandidate | LearnedCandidate | RandomCandidate | StillCandidate
POLICIES = ("expert", "learned", "random", "still")
Arm = Annotated[MPCAgentConfig | DemonstratorConfig | PolicyArm, Field(discriminator="kind")]


class AuditConfig(StrictConfig):
    """Candidates from a start that every planner's fidelity scores once, and the truth."""

    starts: int = Field(10, ge=1)
    candidates: int = Field(16, ge=2)
    horizon: int = Field(8, ge=1)
    std_fraction: float = Field(0.15, gt=0, le=1)
    knots: int | None = Field(4, ge=1)


class GoalsConfig(StrictConfig):
    """One comparison: every arm from `episodes` consecutive seeds, in every place."""

    kind: Literal["goals"] = "goals"
    name: str
    world: str = "pusht-96"
    task: TaskConfig = TaskConfig(name="pusht")
    episodes: int = Field(50, ge=1)
    first_seed: int = Field(730_000, ge=0)
    goal_ticks: int = Field(25, ge=1)
    """How far ahead of the start the goal is, in ticks of the demonstrator."""
    max_steps: int = Field(50, ge=1)
    demonstrator: ExpertCandidate = ExpertCandidate(name="demonstrator", noise_px=8.0)
    within_px: float = Field(20.0, gt=0)
    within_degrees: float = Field(20.0, gt=0)
    places: tuple[Literal["truth", "world"], ...] = ("truth", "world")
    """Where arms act: in the simulator, or in the imagined environment."""
    fidelity: FidelityConfig = FidelityConfig()
    """Of the imagined environment."""
    arms: dict[str, Arm] = Field(min_length=1)
    reference: str
    """The arm that others are held against, a planner."""
    audit: AuditConfig | None = AuditConfig()
    device: str = "cpu"
    threads: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _name_policies(cls, given: Any) -> Any:
        """A policy's arm need not say its name twice."""
        arms = given.get("arms") if isinstance(given, Mapping) else None
        if not isinstance(arms, Mapping):
            return given
        named = {name: {"name": name, **arm} if isinstance(arm, Mapping) and arm.get("kind") in POLICIES else arm
                 for name, arm in arms.items()}
        return {**given, "arms": named}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not isinstance(self.arms.get(self.reference), MPCAgentConfig):
            planners = [name for name, arm in self.arms.items() if isinstance(arm, MPCAgentConfig)]
            raise ValueError(f"reference {self.reference!r} is not a planner's arm; those: {', '.join(planners)}")
        if len(set(self.places)) < len(self.places):
            raise ValueError(f"places must be different, given {', '.join(self.places)}")
        if self.audit is not None and self.audit.starts > self.episodes:
            raise ValueError(f"audit.starts is {self.audit.starts} of {self.episodes} episodes")
        return self


@dataclass(frozen=True, slots=True)
class Piece:
    """A start, of one arm in one place, or of the audit where `arm` is None.  settings: all, as JSON text."""

    settings: str
    number: int
    start: int
    arm: str | None = None
    place: str = "truth"

    def job(self) -> str:
        """What it is, whatever its number."""
        if self.arm is None:
            return job_key(audit=self.place, start=self.start)
        return job_key(arm=self.arm, place=self.place, start=self.start)


def pieces(config: GoalsConfig) -> list[Piece]:
    """All of it, every start through all arms before the next, so that what a kill leaves is balanced."""
    settings = dumps(config.model_dump(mode="json"))
    rows: list[tuple[int, str | None, str]] = []
    for start in range(config.episodes):
        rows += [(start, arm, place) for place in config.places for arm in config.arms]
        if config.audit is not None and start < config.audit.starts:
            rows.append((start, None, "truth"))
    return [Piece(settings, number, *row) for number, row in enumerate(rows)]


class GoalRuns:
    """The experiment, ready to run and to resume."""

    def __init__(self, config: GoalsConfig) -> None:
        self.config = config

    def run(self, path: Path, *, executor: Executor | None = None, on_piece: Tell | None = None) -> Run:
        """Play what is missing and write the summary; does nothing where nothing is."""
        with Run.resume(path, self.config.model_dump(mode="json"), self._manifest()) as run:
            # In the stored order, by which rows are numbered.
            every = {piece: (piece.job(),) for piece in pieces(validate(GoalsConfig, run.config))}
            return finish(run, every, play_piece, columns=COLUMNS, summarise=partial(summarise, config=run.config),
                          counts=lambda row: row["arm"] is not None, executor=executor, tell=on_piece)

    def _manifest(self) -> dict[str, Any]:
        config = self.config
        seeds = {"first_seed": config.first_seed, "episodes": config.episodes}
        return make_manifest(device=config.device, seeds=seeds, inputs=inputs_of(config))


def play_piece(piece: Piece) -> list[dict[str, Any]]:
    """The row of one piece."""
    config, task, world = _stage(piece.settings)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seed = config.first_seed + piece.start
    goal = make_goal(task, seed, config.demonstrator.build(task), ticks=config.goal_ticks)
    row = {"job": piece.job(), "episode": piece.number, "start": piece.start, "seed": seed, "arm": piece.arm,
           "place": piece.place}
    if piece.arm is None:
        return [row | _audit(config, task, world, goal, seed)]
    lanes: Lanes = TruthLanes(task, [goal.start])
    if piece.place == "world":
        lanes = WorldLanes(world, config.fidelity.build(world.spec), [goal.start], [seed])
    player = _player(config.arms[piece.arm], world, task, goal, config.max_steps)
    told = attempt(task, lanes, goal, player, episode=piece.start, max_steps=config.max_steps,
                   limits=(config.within_px, config.within_degrees))
    return [row | attempt_row(told)]


def _player(arm: Arm, world: World, task: Task, goal: Goal, max_steps: int) -> Policy | MPCAgent:
    """Who acts, told of this goal."""
    if isinstance(arm, MPCAgentConfig):
        return arm.build(world, with_goal(task, goal))
    if isinstance(arm, DemonstratorConfig):
        hold = np.repeat(goal.actions[-1:], max(0, max_steps - len(goal.actions)), axis=0)
        return ReplayPolicy(np.concatenate([goal.actions, hold]))
    return arm.build(with_goal(task, goal))


def _audit(config: GoalsConfig, task: Task, world: World, goal: Goal, seed: int) -> dict[str, Any]:
    """The fidelities of all planners, and those of their screens, on the same candidates."""
    assert config.audit is not None
    opinions, aimed = {}, with_goal(task, goal)
    for name, arm in config.arms.items():
        if isinstance(arm, MPCAgentConfig):
            objective = arm.objective.build(world, aimed)
            opinions[name] = Opinion(objective, None if arm.fidelity is None else arm.fidelity.build(world.spec))
            for number, screen in enumerate(arm.screens, start=1):
                which = f"screen {number}" if len(arm.screens) > 1 else "screen"
                opinions[f"{name}, {which}"] = Opinion(objective, screen.build(world).fidelity)
    return audit(world, task, goal, opinions, reference=config.reference, seed=seed,
                 **config.audit.model_dump(exclude={"starts"}))


@lru_cache(maxsize=2)
def _stage(settings: str) -> tuple[GoalsConfig, Task, World]:
    """A process plays many pieces of one run."""
    config = validate(GoalsConfig, loads(settings))
    return config, make_task(config.task.name, **config.task.options), load_world(config.world, device=config.device)
