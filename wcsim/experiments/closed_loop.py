"""The closed loop: a policy acts, and the truth, the cached world and the uncached world play its actions.

All three start from the same frame and get the same actions and noise; the policy sees one of them.  One job is one
episode.  Easy to get wrong: only what the policy waits for counts as latency (planning, and the next frame of the place
in which it acts), so every place times itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from json import dumps, loads
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from wcsim.agents.reports import ActReport
from wcsim.cache.fidelity import FidelityConfig
from wcsim.cache.none import NoCache
from wcsim.config import RunName, StrictConfig, validate
from wcsim.envs.lanes import load_world
from wcsim.envs.tasks import Task
from wcsim.experiments.executor import Executor
from wcsim.experiments.jobs import Outcome, Progress, complete, job_key
from wcsim.experiments.manifests import check_setting, manifest_of
from wcsim.experiments.needs import needs_of
from wcsim.experiments.policies import PolicyConfig, PolicyContext
from wcsim.experiments.summary import summarise
from wcsim.experiments.task_config import TaskConfig
from wcsim.metrics.horizon import error_rows
from wcsim.rollout.engine import opening, rollout
from wcsim.rollout.places import Place, TruthPlace, WorldPlace
from wcsim.rollout.sinks import Recorded, Recorder, check_clipped, guarded, listen
from wcsim.runs.run import Run
from wcsim.world.world import World

WORLDS = ("cached", "uncached")
PLACES = ("truth", *WORLDS)


class ClosedLoopConfig(StrictConfig):
    """One experiment: `episodes` episodes from consecutive seeds."""

    renamed: ClassVar[Mapping[str, str]] = {"agent": "policy"}
    name: RunName
    world: str
    task: TaskConfig
    episodes: int = Field(4, ge=1)
    first_seed: int = Field(700_000, ge=0)
    max_steps: int = Field(30, ge=1)
    acts_in: Literal["world", "truth"] = "world"
    """Whose frames the policy sees: the cached world's or the simulator's."""
    fidelity: FidelityConfig = FidelityConfig()
    """Of the cached world; the uncached one differs in the cache alone."""
    policy: PolicyConfig
    """The policy that acts."""
    deadline_ms: float = Field(1000.0, gt=0)
    """What a control step may take: planning, and imagining the next frame."""
    max_clipped: float = Field(1.0, ge=0, le=1)
    """Most share of an episode's actions that may be out of bounds and hence clipped; above it the run ends."""
    device: str = "cpu"
    threads: int | None = Field(None, ge=1, le=1024)
    """torch threads; None leaves torch's choice."""
    compiled: bool = False
    """Whether `torch.compile` makes graphs of what every step runs; the first episode waits for them."""

    @property
    def acting_place(self) -> str:
        """The place in which the policy acts."""
        return "cached" if self.acts_in == "world" else "truth"


@dataclass(frozen=True, slots=True)
class EpisodeJob:
    """One episode.  settings: the whole configuration, as JSON text."""

    settings: str
    number: int

    @property
    def key(self) -> str:
        """What the run calls it."""
        return job_key(episode=self.number)


class ClosedLoop:
    """The experiment, ready to run and to resume."""

    def __init__(self, config: ClosedLoopConfig) -> None:
        self.config = config
        check_setting(config, [config.policy], [config.fidelity])

    def run(self, path: Path, *, executor: Executor | None = None, progress: Progress | None = None) -> Run:
        """Play what is missing of the episodes and write the summary; does nothing where nothing is."""
        config = self.config
        settings = config.model_dump(mode="json")
        text = dumps(settings)
        fps = config.task.build().fps
        run = Run.resume(path, settings, manifest_of(config, seeds={
            "first_seed": config.first_seed, "episodes": config.episodes}))
        jobs = {job: [job.key] for job in (EpisodeJob(text, number) for number in range(config.episodes))}
        return complete(run, jobs, play_episode, executor=executor, progress=progress,
                        needs=needs_of(config, [config.fidelity]),
                        summarise=lambda run: summarise(run, deadline_ms=config.deadline_ms, fps=fps))


def play_episode(job: EpisodeJob) -> list[Outcome]:
    """One episode, recorded whole."""
    config, task, world = parts_of(job.settings)
    start, episode = opening(task, job.number, config.first_seed + job.number)
    policy = config.policy.build(PolicyContext(task, lambda: world, num_lanes=1))
    recorder = Recorder()
    places = places_of(config, task, world)
    try:
        listen(rollout(task, places, policy, [episode], [start], acts_in=config.acting_place,
                       max_steps=config.max_steps), [recorder])
    finally:
        for place in places.values():
            place.close()
    check_clipped(recorder.episodes, config.max_clipped, config.policy.name)
    return [outcome_of(config, task, job, recorder.episodes[0])]


def places_of(config: ClosedLoopConfig, task: Task, world: World) -> dict[str, Place]:
    """The truth, whose frames are encoded for distances in latents, and both worlds."""
    plain = config.fidelity.model_copy(update={"cache": NoCache.Config()})
    return {
        "truth": TruthPlace(task, observed=config.acts_in == "truth", encode=world.encode),
        "cached": WorldPlace(task, world, config.fidelity.build(world.spec)),
        "uncached": WorldPlace(task, world, plain.build(world.spec)),
    }


def outcome_of(config: ClosedLoopConfig, task: Task, job: EpisodeJob, record: Recorded) -> Outcome:
    """Rows and arrays of an episode."""
    rows = error_rows(task.state, job.number, **{name: record.places[name].trajectory() for name in PLACES})
    for step, row in enumerate(rows):
        row.update(step_row(config, record, step))
    cached = record.places["cached"].traces
    arrays = {
        "actions": np.array(record.actions),
        **{name: np.array(track.frames) for name, track in record.places.items()},
        **{name: np.concatenate([getattr(trace, name)[0].T for trace in cached])
           for name in ("hit", "drift", "threshold", "gain")},
    }
    return Outcome(job.key, episode_row(config, job, record, rows), rows, f"ep_{job.number:04d}", arrays)


def step_row(config: ClosedLoopConfig, record: Recorded, step: int) -> dict[str, Any]:
    """What a step's row holds beside its errors."""
    after = {name: track.scored[step + 1] for name, track in record.places.items()}
    waited = record.places[config.acting_place].spans_ms[step]
    parts = ("truth",) if config.acts_in == "truth" else ("imagine", "decode", "estimate")
    trace, report = record.places["cached"].traces[step], record.reports[step]
    return {
        "progress": {name: float(estimate.progress[0]) for name, estimate in after.items()},
        "shape_ok": {name: bool(estimate.shape_ok[0]) for name, estimate in after.items()},
        "reward": record.rewards[step],
        "clipped": record.clipped[step],
        "spans_ms": {"step": record.plan_ms[step] + sum(waited.get(part, 0.0) for part in parts),
                     "plan": record.plan_ms[step], **waited},
        "imagine_ms": {name: record.places[name].spans_ms[step].get("imagine", 0.0) for name in WORLDS},
        "hit_rate": trace.hit_rate,
        "skipped": trace.skipped,
        "plan": None if report is None else plan_row(report),
    }


def episode_row(
    config: ClosedLoopConfig, job: EpisodeJob, record: Recorded, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """An episode in one row."""
    return {
        "episode": job.number, "seed": record.episode.seed, "steps": len(rows), "acted_in": config.acting_place,
        "success": {name: any(bool(estimate.success[0]) for estimate in track.scored)
                    for name, track in record.places.items()},
        "final_progress": rows[-1]["progress"], "return": sum(record.rewards), "clipped": sum(record.clipped),
        **guarded(record.places),
    }


def plan_row(report: ActReport) -> dict[str, Any]:
    """A planner's report as JSON."""
    error = report.error
    return {
        "reason": report.reason, "cost": report.cost, "calls": report.calls, "rounds": report.rounds,
        "exhausted": report.exhausted, "deadline_met": report.timing.deadline_met,
        "rank_agreement": report.rank_agreement, "regret": report.regret, "realised": report.realised,
        "prediction_error": None if error is None else {"latent": error.latent, **error.errors},
    }


@lru_cache(maxsize=2)
def parts_of(settings: str) -> tuple[ClosedLoopConfig, Task, World]:
    """A process plays many episodes of one experiment."""
    config = validate(ClosedLoopConfig, loads(settings))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    world = load_world(config.world, device=config.device, compiled=config.compiled)
    return config, config.task.build(), world
