"""Policy evaluation: K policies from M starts, in the truth, in the uncached world and in the cached one.

Work is cut into blocks (a policy, a world, some starts), each a pure function of the configuration, so that blocks may
run anywhere and in any order.  Easy to get wrong: rows are written as blocks end, so whatever sums up must sort first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from json import dumps, loads
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from wcsim.cache.fidelity import FidelityConfig
from wcsim.cache.none import NoCache
from wcsim.config import StrictConfig, validate
from wcsim.envs.imagined import load_world
from wcsim.envs.tasks import Task, make_task
from wcsim.experiments.candidates import AnyCandidate
from wcsim.experiments.closed_loop import TaskConfig
from wcsim.experiments.evaluation_summary import COLUMNS, SCORES, WORLDS, summarise
from wcsim.experiments.executor import Executor
from wcsim.experiments.inputs import inputs_of
from wcsim.experiments.lanes import Episode, Lanes, TruthLanes, WorldLanes, play
from wcsim.experiments.pieces import Tell, finish, job_key
from wcsim.track.manifest import make_manifest
from wcsim.track.runs import Run


class EvaluationConfig(StrictConfig):
    """One evaluation: every policy from `starts` consecutive seeds, in every world."""

    name: str
    world: str = "pusht-96"
    task: TaskConfig = TaskConfig(name="pusht")
    policies: tuple[AnyCandidate, ...] = Field(min_length=2)
    starts: int = Field(50, ge=1)
    first_seed: int = Field(710_000, ge=0)
    max_steps: int = Field(40, ge=1)
    block: int = Field(25, ge=1)
    """Starts that run together, as lanes of one batch; what a kill loses is at most a block per worker."""
    score: Literal["success", "final_coverage", "max_coverage", "return"] = "final_coverage"
    """What `pearson`, `spearman` and `mmrv` at the top of the summary are of; `agreement` has them for all scores."""
    fidelity: FidelityConfig = FidelityConfig()
    """Of the cached world; the uncached one differs in the cache alone."""
    device: str = "cpu"
    threads: int | None = Field(None, ge=1)
    """torch threads per process; None leaves torch's choice."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [policy.name for policy in self.policies]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"policies must have different names, got {', '.join(twice)} twice")
        return self


@dataclass(frozen=True, slots=True)
class Block:
    """One piece of work.  settings: the whole configuration, as JSON text.  policy: its index.  starts: from and to."""

    settings: str
    policy: int
    world: str
    starts: tuple[int, int]

    def numbers(self, config: EvaluationConfig) -> list[int]:
        """The episode numbers of its rows."""
        first = (self.policy * len(WORLDS) + WORLDS.index(self.world)) * config.starts
        return [first + start for start in range(*self.starts)]

    def jobs(self, config: EvaluationConfig) -> list[str]:
        """The jobs of its rows."""
        policy = config.policies[self.policy].name
        return [job_key(policy=policy, world=self.world, start=start) for start in range(*self.starts)]


def blocks(config: EvaluationConfig) -> list[Block]:
    """All of it, dearest first, so that no worker is left alone with a slow one."""
    settings = dumps(config.model_dump(mode="json"))
    spans = [(first, min(first + config.block, config.starts)) for first in range(0, config.starts, config.block)]
    return [Block(settings, policy, world, span)
            for world in ("uncached", "cached", "truth") for policy in range(len(config.policies)) for span in spans]


class Evaluation:
    """The experiment, ready to run and to resume."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config

    def run(self, path: Path, *, executor: Executor | None = None, on_block: Tell | None = None) -> Run:
        """Do what is missing and write summary and table; does nothing where nothing is."""
        with Run.resume(path, self.config.model_dump(mode="json"), self._manifest()) as run:
            config = validate(EvaluationConfig, run.config)  # in the stored order, by which rows are numbered
            return finish(run, {block: block.jobs(config) for block in blocks(config)}, play_block, columns=COLUMNS,
                          summarise=partial(summarise, config=run.config), executor=executor, tell=on_block)

    def _manifest(self) -> dict[str, Any]:
        config = self.config
        seeds = {"first_seed": config.first_seed, "starts": config.starts}
        return make_manifest(device=config.device, seeds=seeds, inputs=inputs_of(config))


def play_block(block: Block) -> list[dict[str, Any]]:
    """The rows of a block's episodes."""
    config, task = _stage(block.settings)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seeds = [config.first_seed + start for start in range(*block.starts)]
    starts = [task.start(seed) for seed in seeds]
    candidate = config.policies[block.policy]
    policies = [candidate.build(task) for _ in starts]
    lanes = _lanes(config, task, block.world, starts, seeds)
    began = perf_counter()
    episodes = play(task, lanes, starts, policies, list(range(*block.starts)), max_steps=config.max_steps)
    seconds = (perf_counter() - began) / len(starts)
    return [
        {"job": job, "episode": number, "policy": candidate.name, "world": block.world, "start": start, "seed": seed,
         **_row(episode, config.max_steps), "seconds": seconds}
        for job, number, start, seed, episode in zip(block.jobs(config), block.numbers(config), range(*block.starts),
                                                     seeds, episodes, strict=True)
    ]


def _lanes(config: EvaluationConfig, task: Task, name: str, starts: Sequence[Any], seeds: Sequence[int]) -> Lanes:
    if name == "truth":
        return TruthLanes(task, starts)
    world = load_world(config.world, device=config.device)
    settings = config.fidelity if name == "cached" else config.fidelity.model_copy(update={"cache": NoCache.Config()})
    return WorldLanes(world, settings.build(world.spec), starts, seeds)


def _row(episode: Episode, max_steps: int) -> dict[str, Any]:
    """An episode as numbers.  One that ends early keeps its last reward for the steps it leaves out: otherwise the
    quickest success would have the lowest return."""
    steps = len(episode.reward)
    row: dict[str, Any] = {
        "steps": steps,
        "success": episode.success,
        "final_coverage": episode.coverage[-1],
        "max_coverage": max(episode.coverage),
        "return": sum(episode.reward) + (max_steps - steps) * episode.reward[-1],
        "judged_success": episode.judged_success,
        "judged_coverage": episode.judged[-1],
        "hit_rate": sum(episode.hit_rate) / steps,
        "skipped": sum(episode.skipped) / steps,
        "coverage": [round(value, 4) for value in episode.coverage],
    }
    assert set(SCORES) <= row.keys()
    return row


@lru_cache(maxsize=2)
def _stage(settings: str) -> tuple[EvaluationConfig, Task]:
    """A process plays many blocks of one evaluation."""
    config = validate(EvaluationConfig, loads(settings))
    return config, make_task(config.task.name, **config.task.options)
