"""Goal reaching: bring about what a demonstrator did in 25 ticks, in the truth and in the imagined environment.

Every policy (a planner at some fidelity, or another to hold it against) plays the same starts towards the same goals;
one job is one policy, place and start.  Easy to get wrong: seconds are measured where an episode was played, so a run
that is resumed elsewhere has mixed them; everything else in the summary is the same whatever interrupted it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from json import dumps, loads
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from wcsim.cache.fidelity import FidelityConfig
from wcsim.config import RunName, StrictConfig, validate
from wcsim.envs.lanes import load_world
from wcsim.envs.tasks import Task
from wcsim.errors import ConfigError
from wcsim.estimate import Estimate, Goal
from wcsim.experiments.executor import Executor
from wcsim.experiments.goal_audit import DrawConfig, Scoring, audit
from wcsim.experiments.goal_starts import GoalStart, goal_start
from wcsim.experiments.goals_summary import COLUMNS, summarise
from wcsim.experiments.jobs import Outcome, Progress, complete, job_key
from wcsim.experiments.manifests import check_setting, manifest_of
from wcsim.experiments.needs import needs_of
from wcsim.experiments.policies import ExpertPolicyConfig, MPCPolicyConfig, PolicyConfig, PolicyContext
from wcsim.experiments.task_config import TaskConfig
from wcsim.rollout.engine import rollout
from wcsim.rollout.places import Place, TruthPlace, WorldPlace
from wcsim.rollout.sinks import Recorded, Recorder, guarded, listen
from wcsim.runs.run import Run
from wcsim.spec import Quantity
from wcsim.world.world import World


class AuditConfig(DrawConfig):
    """Candidates from a start that every planner's fidelity scores once, and the truth."""

    starts: int = Field(10, ge=1)
    candidates: int = Field(16, ge=2)
    horizon: int = Field(8, ge=1)
    std_fraction: float = Field(0.15, gt=0, le=1)
    knots: int | None = Field(4, ge=1)


class GoalsConfig(StrictConfig):
    """One comparison: every policy from `episodes` consecutive seeds, in every place."""

    renamed: ClassVar[Mapping[str, str]] = {
        "arms": "policies, a list of policies with names", "within_px": "within.px", "within_degrees": "within.deg",
    }
    kind: Literal["goals"] = "goals"
    name: RunName
    world: str
    task: TaskConfig
    episodes: int = Field(50, ge=1)
    first_seed: int = Field(730_000, ge=0)
    goal_ticks: int = Field(25, ge=1)
    """How far ahead of the start the goal is, in ticks of the demonstrator."""
    max_steps: int = Field(50, ge=1)
    demonstrator: PolicyConfig = ExpertPolicyConfig(name="demonstrator")
    quantities: tuple[str, ...] | None = Field(None, min_length=1)
    """Those of the task's in which a goal is told and counts; null: all, the robot's own state included."""
    within: dict[str, float] = Field(min_length=1)
    """When a goal counts as reached, by unit of the task's errors, as {px: 20, deg: 20} (`wcsim.estimate.Goal`)."""
    places: tuple[Literal["truth", "world"], ...] = ("truth", "world")
    """Where policies act: in the simulator, or in the imagined environment."""
    fidelity: FidelityConfig = FidelityConfig()
    """Of the imagined environment."""
    policies: tuple[PolicyConfig, ...] = Field(min_length=1)
    reference: str
    """The policy that others are compared with, a planner."""
    audit: AuditConfig | None = AuditConfig()
    device: str = "cpu"
    threads: int | None = Field(None, ge=1, le=1024)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [policy.name for policy in self.policies]
        if len(set(names)) != len(names):
            raise ValueError(f"policies must have different names, got {', '.join(names)}")
        planners = [policy.name for policy in self.policies if isinstance(policy, MPCPolicyConfig)]
        if self.reference not in planners:
            raise ValueError(f"reference {self.reference!r} is not a planner; those: {', '.join(planners)}")
        if self.audit is not None and self.audit.starts > self.episodes:
            raise ValueError(f"audit.starts is {self.audit.starts} of {self.episodes} episodes")
        return self


@dataclass(frozen=True, slots=True)
class GoalJob:
    """A start, of one policy in one place, or of the audit where `policy` is None.  settings: all, as JSON text."""

    settings: str
    start: int
    policy: str | None = None
    place: str = "truth"

    @property
    def key(self) -> str:
        """What the run calls it."""
        if self.policy is None:
            return job_key(audit="candidates", start=self.start)
        return job_key(policy=self.policy, place=self.place, start=self.start)


def jobs_of(config: GoalsConfig) -> list[GoalJob]:
    """All of it, every start through all policies before the next, so that what a kill leaves is balanced."""
    settings = dumps(config.model_dump(mode="json"))
    jobs: list[GoalJob] = []
    for start in range(config.episodes):
        jobs += [GoalJob(settings, start, policy.name, place) for place in config.places for policy in config.policies]
        if config.audit is not None and start < config.audit.starts:
            jobs.append(GoalJob(settings, start))
    return jobs


class GoalRuns:
    """The experiment, ready to run and to resume."""

    def __init__(self, config: GoalsConfig) -> None:
        self.config = config
        check_setting(config, [config.demonstrator, *config.policies], [config.fidelity])
        missing = {quantity.error_unit for quantity in counted(config, config.task.build())} - set(config.within)
        if missing:
            raise ConfigError(f"within: a tolerance is needed for {', '.join(sorted(missing))}, given {config.within}")

    def run(self, path: Path, *, executor: Executor | None = None, progress: Progress | None = None) -> Run:
        """Play what is missing and write the summary; does nothing where nothing is."""
        config = self.config
        run = Run.resume(path, config.model_dump(mode="json"),
                         manifest_of(config, seeds={
                             "first_seed": config.first_seed, "episodes": config.episodes}))
        metrics = [quantity.metric for quantity in counted(config, config.task.build())]
        return complete(run, {job: [job.key] for job in jobs_of(config)}, play_goal, columns=(*COLUMNS, *metrics),
                        summarise=lambda run: summarise(run.episodes, run.config, metrics),
                        counts=lambda row: row["policy"] is not None, executor=executor, progress=progress,
                        needs=needs_of(config, [config.fidelity]))


def counted(config: GoalsConfig, task: Task) -> list[Quantity]:
    """The quantities in which goals are told; ConfigError for one that the task has not."""
    return [task.state[name] for name in config.quantities or task.state.names]


def play_goal(job: GoalJob) -> list[Outcome]:
    """The row of one job."""
    config, task, world = parts_of(job.settings)
    seed = config.first_seed + job.start
    demonstrator = config.demonstrator.build(PolicyContext(task, lambda: world, num_lanes=1))
    goal = goal_start(task, seed, demonstrator, ticks=config.goal_ticks,
                      quantities=[quantity.name for quantity in counted(config, task)])
    row = {"episode": number_of(config, job), "start": job.start, "seed": seed, "policy": job.policy,
           "place": job.place}
    if job.policy is None:
        return [Outcome(job.key, row | audit_row(config, task, world, goal, seed))]
    return [Outcome(job.key, row | goal_row(config, task, goal, attempt(config, task, world, goal, job)))]


def number_of(config: GoalsConfig, job: GoalJob) -> int:
    """The number of a job's episode, by which rows are sorted."""
    width = len(config.places) * len(config.policies) + 1
    if job.policy is None:
        return job.start * width + width - 1
    names = [policy.name for policy in config.policies]
    place = list(config.places).index(job.place)  # type: ignore[arg-type]  # its places are those of the configuration
    return job.start * width + place * len(names) + names.index(job.policy)


def attempt(config: GoalsConfig, task: Task, world: World, goal: GoalStart, job: GoalJob) -> Recorded:
    """Act until the goal is reached or for `max_steps`.  Reached is said by the state in the truth, by the estimator in
    a world."""
    chosen = next(policy for policy in config.policies if policy.name == job.policy)
    seed = config.first_seed + job.start
    place: Place = TruthPlace(task)
    if job.place == "world":
        place = WorldPlace(task, world, config.fidelity.build(world.spec))
    policy = chosen.build(PolicyContext(task, lambda: world, num_lanes=1))
    episode = goal.episode(job.start, seed, goal.start.instruction or task.description, config.max_steps)

    def reached(estimate: Estimate, lanes: np.ndarray) -> np.ndarray:
        return goal.goal.reached(task.state, estimate.values, config.within)

    recorder = Recorder(frames=False)
    try:
        listen(rollout(task, {job.place: place}, policy, [episode], [goal.start], acts_in=job.place,
                       max_steps=config.max_steps, ends=reached), [recorder])
    finally:
        place.close()
    return recorder.episodes[0]


def goal_row(config: GoalsConfig, task: Task, goal: GoalStart, record: Recorded) -> dict[str, Any]:
    """An attempt as numbers; `act_ms` alone may differ between two of the same.  scene_reached: whether the scene was
    ever where it should be, whatever the robot's own place."""
    (track,) = record.places.values()
    scene = {quantity.name for quantity in task.state.goal
             if quantity.role == "scene" and quantity.name in goal.goal.values}
    goal_of_task = Goal({name: goal.goal.values[name] for name in scene or set(goal.goal.values)})
    errors = goal.goal.errors(task.state, track.scored[-1].values)
    reports = [report for report in record.reports if report is not None]
    plans = [report for report in reports if report.replanned]
    realised = [report.realised for report in reports if report.realised is not None]
    return {
        "steps": len(record.actions), "reached": record.ended, "clipped": sum(record.clipped), **guarded(record.places),
        "scene_reached": any(bool(goal_of_task.reached(task.state, seen.values, config.within)[0])
                             for seen in track.scored[1:]),
        **{metric: float(value[0]) for metric, value in errors.items()},
        "plans": len(plans), "calls": sum(report.calls for report in plans),
        "promised": [promised for promised, _ in realised], "came": [came for _, came in realised],
        "rank_agreement": _known([report.rank_agreement for report in plans]),
        "regret": _known([report.regret for report in plans]),
        "prediction": _known([report.error.latent for report in reports if report.error is not None]),
        "act_ms": record.plan_ms,
    }


def _known(values: Sequence[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None]


def audit_row(config: GoalsConfig, task: Task, world: World, goal: GoalStart, seed: int) -> dict[str, Any]:
    """The fidelities of all planners, and those of their rungs, on the same candidates."""
    assert config.audit is not None
    scorings: dict[str, Scoring] = {}
    for policy in config.policies:
        if isinstance(policy, MPCPolicyConfig):
            scorings |= scorings_of(policy, world, task, goal)
    draws = DrawConfig.model_validate(config.audit.model_dump(exclude={"starts"}))
    return audit(world, task, goal, scorings, draws, reference=config.reference, seed=seed)


def scorings_of(policy: MPCPolicyConfig, world: World, task: Task, goal: GoalStart) -> Mapping[str, Scoring]:
    """A planner's own fidelity, and those of its rungs."""
    objective = policy.objective.build(world, task, goal.goal)
    scorings = {policy.name: Scoring(objective, None if policy.fidelity is None else policy.fidelity.build(world.spec))}
    for number, rung in enumerate(policy.rungs, start=1):
        name = f"rung {number}" if len(policy.rungs) > 1 else "rung"
        scorings[f"{policy.name}, {name}"] = Scoring(objective, rung.build(world).fidelity)
    return scorings


@lru_cache(maxsize=2)
def parts_of(settings: str) -> tuple[GoalsConfig, Task, World]:
    """A process plays many jobs of one run."""
    config = validate(GoalsConfig, loads(settings))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return config, config.task.build(), load_world(config.world, device=config.device)
