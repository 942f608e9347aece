"""Policy evaluation: K policies from M starts, in the truth, in the uncached world and in the cached one.

A job is a policy, a place and some starts, which are lanes of one rollout.  Easy to get wrong: rows are written as jobs
end, so whatever sums up must sort first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from json import dumps, loads
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from wcsim.cache.fidelity import FidelityConfig
from wcsim.cache.none import NoCache
from wcsim.config import RunName, StrictConfig, validate
from wcsim.envs.lanes import load_world
from wcsim.envs.tasks import Task
from wcsim.experiments.evaluation_summary import COLUMNS, PLACES, SCORES, summarise
from wcsim.experiments.executor import Executor
from wcsim.experiments.jobs import Outcome, Progress, complete, job_key
from wcsim.experiments.manifests import check_setting, manifest_of
from wcsim.experiments.needs import needs_of
from wcsim.experiments.policies import PolicyConfig, PolicyContext
from wcsim.experiments.task_config import TaskConfig
from wcsim.rollout.engine import opening, rollout
from wcsim.rollout.places import Place, TruthPlace, WorldPlace
from wcsim.rollout.sinks import Recorded, Recorder, Sink, VideoSink, check_clipped, guarded, listen
from wcsim.runs.run import Run


class EvaluationConfig(StrictConfig):
    """One evaluation: every policy from `starts` consecutive seeds, in every place."""

    renamed: ClassVar[Mapping[str, str]] = {"block": "lanes"}
    name: RunName
    world: str
    task: TaskConfig
    policies: tuple[PolicyConfig, ...] = Field(min_length=2)
    starts: int = Field(50, ge=1)
    first_seed: int = Field(710_000, ge=0)
    max_steps: int = Field(40, ge=1)
    lanes: int = Field(25, ge=1)
    """Starts that run together, as lanes of one batch; what a kill loses is at most such a batch per worker."""
    places: tuple[Literal["truth", "uncached", "cached"], ...] = ("truth", "uncached", "cached")
    """Where policies act.  Without `truth`, for a robot that has no simulator, nothing is said of agreement with it."""
    score: Literal["success", "final_progress", "max_progress", "return"] = "final_progress"
    """What `pearson`, `spearman` and `mmrv` at the top of the summary are of; `agreement` has them for all scores."""
    fidelity: FidelityConfig = FidelityConfig()
    """Of the cached world; the uncached one differs in the cache alone."""
    videos: bool = False
    """Whether to write a film of every episode into the run's `videos/`."""
    max_clipped: float = Field(1.0, ge=0, le=1)
    """Most share of a policy's actions, in a batch of lanes, that may be out of bounds and hence clipped; above it the
    run ends."""
    device: str = "cpu"
    threads: int | None = Field(None, ge=1, le=1024)
    """torch threads per process; None leaves torch's choice."""

    @model_validator(mode="after")
    def _worlds_are_there(self) -> Self:
        if set(self.places) - {"truth"} != {"uncached", "cached"} or len(set(self.places)) != len(self.places):
            raise ValueError(f"places are {', '.join(self.places)}; allowed: uncached, cached and, if wanted, truth")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [policy.name for policy in self.policies]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"policies must have different names, got {', '.join(twice)} twice")
        return self


@dataclass(frozen=True, slots=True)
class LanesJob:
    """One piece of work.  settings: the whole configuration, as JSON text.  policy: its name.  starts: from and to."""

    settings: str
    policy: str
    place: str
    starts: tuple[int, int]

    def keys(self) -> list[str]:
        """What the run calls its episodes."""
        return [job_key(policy=self.policy, place=self.place, start=start) for start in range(*self.starts)]


class Evaluation:
    """The experiment, ready to run and to resume."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config
        check_setting(config, config.policies, [config.fidelity])

    def jobs(self) -> list[LanesJob]:
        """All of it, dearest first, so that no worker is left alone with a slow one."""
        config = self.config
        settings = dumps(config.model_dump(mode="json"))
        spans = [(first, min(first + config.lanes, config.starts)) for first in range(0, config.starts, config.lanes)]
        return [LanesJob(settings, policy.name, place, span)
                for place in ("uncached", "cached", "truth") if place in config.places
                for policy in config.policies for span in spans]

    def run(self, path: Path, *, executor: Executor | None = None, progress: Progress | None = None) -> Run:
        """Do what is missing and write summary and table; does nothing where nothing is."""
        config = self.config
        run = Run.resume(path, config.model_dump(mode="json"),
                         manifest_of(config, seeds={"first_seed": config.first_seed,
                                                                     "starts": config.starts}))
        return complete(run, {job: job.keys() for job in self.jobs()}, play_lanes, columns=COLUMNS,
                        summarise=lambda run: summarise(run.episodes, run.config), executor=executor,
                        progress=progress, needs=needs_of(config, [config.fidelity], lanes=config.lanes))


def play_lanes(job: LanesJob) -> list[Outcome]:
    """The episodes of a job."""
    config, task = parts_of(job.settings)
    numbers = range(*job.starts)
    starts, episodes = zip(*(opening(task, number, config.first_seed + number) for number in numbers), strict=True)
    chosen = next(policy for policy in config.policies if policy.name == job.policy)
    world = partial(load_world, config.world, device=config.device)
    place = place_of(config, task, job.place)
    recorder, began = Recorder(frames=False), perf_counter()
    sinks: list[Sink] = [recorder]
    films = VideoSink(fps=task.fps, prefix=re.sub(r"[^A-Za-z0-9]+", "-", f"{job.policy} {job.place}"))
    if config.videos:
        sinks.append(films)
    policy = chosen.build(PolicyContext(task, world, num_lanes=len(starts)))
    try:
        listen(rollout(task, {job.place: place}, policy, episodes, starts, acts_in=job.place,
                       max_steps=config.max_steps), sinks)
    finally:
        place.close()
    check_clipped(recorder.episodes, config.max_clipped, job.policy)
    seconds = (perf_counter() - began) / len(starts)
    return [Outcome(key, {"episode": number_of(config, job, record.episode.number), "policy": job.policy,
                          "place": job.place, "start": record.episode.number, "seed": record.episode.seed,
                          **row_of(record, job.place, config.max_steps), "seconds": seconds},
                    files={f"videos/{name}": content for name, content in films.films.items()
                           if name == films.name_of(record.episode.number)})
            for key, record in zip(job.keys(), recorder.episodes, strict=True)]


def number_of(config: EvaluationConfig, job: LanesJob, start: int) -> int:
    """The number of an episode, by which rows are sorted."""
    names = [policy.name for policy in config.policies]
    return (names.index(job.policy) * len(PLACES) + PLACES.index(job.place)) * config.starts + start


def place_of(config: EvaluationConfig, task: Task, name: str) -> Place:
    """The truth, or the world with its cache or without."""
    if name == "truth":
        return TruthPlace(task)
    world = load_world(config.world, device=config.device)
    settings = config.fidelity if name == "cached" else config.fidelity.model_copy(update={"cache": NoCache.Config()})
    return WorldPlace(task, world, settings.build(world.spec))


def row_of(record: Recorded, place: str, max_steps: int) -> dict[str, Any]:
    """An episode as numbers.  One that ends early keeps its last reward for the steps it leaves out: otherwise the
    quickest success would have the lowest return."""
    track, steps = record.places[place], len(record.rewards)
    progress = [float(estimate.progress[0]) for estimate in track.scored[1:]]
    row: dict[str, Any] = {
        "steps": steps,
        "success": bool(track.scored[-1].success[0]),
        "final_progress": progress[-1],
        "max_progress": max(progress),
        "return": sum(record.rewards) + (max_steps - steps) * record.rewards[-1],
        "estimated_success": any(bool(estimate.success[0]) for estimate in track.estimates[1:]),
        "estimated_progress": float(track.estimates[-1].progress[0]),
        "hit_rate": _mean([trace.hit_rate for trace in track.traces]),
        "skipped": _mean([trace.skipped for trace in track.traces]),
        "clipped": sum(record.clipped), **guarded(record.places),
        "progress": [round(value, 4) for value in progress],
    }
    assert set(SCORES) <= row.keys()
    return row


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@lru_cache(maxsize=2)
def parts_of(settings: str) -> tuple[EvaluationConfig, Task]:
    """A process plays many jobs of one evaluation."""
    config = validate(EvaluationConfig, loads(settings))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return config, config.task.build()
