"""Latency budgets: what a planner achieves in the truth, by deadline, effort and planner, and by delay and mode.

The planner thinks in the world and acts in the simulator, one cell of the sweep and one start at a time.  Time is
simulated from a profile that is measured once and kept with the run.  Easy to get wrong: that profile is part of the
result, so a resumed run reads it back and never measures again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from json import dumps, loads
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wcsim.agents.asynchronous import AsynchronousPolicy, fixed_delay
from wcsim.agents.chunks import Effort, PlannedChunks
from wcsim.agents.objectives import imagined_cost
from wcsim.agents.policies import Observation, PerLane
from wcsim.cache.fidelity import FidelityConfig
from wcsim.config import StrictConfig, validate
from wcsim.envs.lanes import load_world
from wcsim.envs.tasks import Task
from wcsim.estimate import Episode
from wcsim.experiments.budget_config import BudgetConfig, Cell, cells
from wcsim.experiments.budget_summary import COLUMNS, as_run, recommend, summarise
from wcsim.experiments.executor import Executor
from wcsim.experiments.jobs import Outcome, Progress, complete, job_key
from wcsim.experiments.manifests import check_setting, manifest_of
from wcsim.experiments.needs import needs_of
from wcsim.experiments.policy_context import frame_of, hold_of
from wcsim.rollout.engine import opening, rollout
from wcsim.rollout.places import TruthPlace
from wcsim.rollout.sinks import Recorder, listen
from wcsim.runs.run import Run
from wcsim.strict_yaml import dump_yaml
from wcsim.timing.clock import Latency, LatencyConfig, MeasuredLatency, make_clock, measure
from wcsim.timing.governor import Governor
from wcsim.world.world import World


@dataclass(frozen=True, slots=True)
class CellJob:
    """A cell and a start.  settings: the configuration as JSON text.  latency: per effort, as JSON text."""

    settings: str
    latency: str
    cell: Cell
    start: int

    @property
    def key(self) -> str:
        """What the run calls it."""
        return job_key(cell=self.cell.key, start=self.start)


class BudgetSweep:
    """The experiment, ready to run and to resume."""

    def __init__(self, config: BudgetConfig) -> None:
        self.config = config
        check_setting(config, [], self._fidelities())

    def _fidelities(self) -> list[FidelityConfig]:
        """Those at which frames are imagined."""
        return [effort.fidelity for effort in self.config.efforts.values() if effort.fidelity is not None]

    def run(self, path: Path, *, executor: Executor | None = None, progress: Progress | None = None) -> Run:
        """Play what is missing and write the summary; does nothing where nothing is."""
        config = self.config
        manifest = manifest_of(config, seeds={"first_seed": config.first_seed, "episodes": config.episodes})
        run = Run.resume(path, config.model_dump(mode="json"), manifest, lambda: {"latency": self._latency()})
        config = validate(BudgetConfig, run.config)  # its efforts are in the order of the run
        text, latency = dumps(run.config), dumps(run.manifest["latency"])
        jobs = [CellJob(text, latency, cell, start) for cell in cells(config) for start in range(config.episodes)]
        order = [cell.key for cell in cells(config)]
        return complete(run, {job: [job.key] for job in jobs}, play_cell, columns=COLUMNS, executor=executor,
                        progress=progress, needs=needs_of(config, self._fidelities(), lanes=config.planning.max_lanes),
                        summarise=lambda run: summarise(run.episodes, run.config, run.manifest["latency"], order))

    def _latency(self) -> dict[str, Any]:
        """The latency of every effort, as configured or as measured here and now."""
        config = self.config
        if config.clock == "wall":
            return {}
        if config.latency is not None:
            return {name: config.latency.model_dump(mode="json") for name in config.efforts}
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        world, task = load_world(config.world, device=config.device), config.task.build()
        return {name: profile(world, task, config, _effort(config, name, world)).model_dump(mode="json")
                for name in config.efforts}


def profile(world: World, task: Task, config: BudgetConfig, effort: Effort) -> MeasuredLatency:
    """What scoring candidates takes on this machine, by their number: imagining, decoding and estimating."""
    start = task.start(config.first_seed)
    state = world.init(start.frames[None], start.actions[None], [0])
    cost = imagined_cost(world, state, fidelity=effort.fidelity, objective=config.objective.build(world, task),
                         max_lanes=config.planning.max_lanes)
    rng, horizon = np.random.default_rng(0), config.planning.horizon
    low, high = world.spec.action.low, world.spec.action.high
    most = max(2, effort.candidates)
    lanes = tuple(sorted({1, max(2, most // 2), most}))
    return measure(lambda count: cost(rng.uniform(low, high, (count, horizon, len(low)))), lanes=lanes, ticks=horizon)


def advice(run: Run, deadline_ms: float) -> str:
    """The configuration for `wcsim run` that a finished sweep recommends for a deadline, as YAML.

    Raises RunError where no setting of the sweep is quick enough.
    """
    cell = recommend(run.read_summary(), deadline_ms)
    low, high = cell["final_progress_interval"]
    spread = "" if low is None else f" ({low:.3f} to {high:.3f})"
    comment = (f"# {cell['planner']} on {cell['effort']}: plans in {cell['plan_ms']['p95']:.0f} ms at p95, covered "
            f"{cell['final_progress']:.3f}{spread} of the goal in {cell['episodes']} episodes\n")
    return comment + dump_yaml(as_run(cell, run.config, deadline_ms)).rstrip()


def play_cell(job: CellJob) -> list[Outcome]:
    """The row of one episode."""
    config, task, world = parts_of(job.settings)
    latency = {name: validate(_Parsed, {"value": settings}).value for name, settings in loads(job.latency).items()}
    cell = job.cell
    policy = _policy(config, task, world, cell, latency)
    watched, recorder, place = Watched(policy), Recorder(frames=False), TruthPlace(task)
    start, episode = opening(task, job.start, config.first_seed + job.start)
    try:
        listen(rollout(task, {"truth": place}, PerLane([watched]), [episode], [start], acts_in="truth",
                       max_steps=config.max_steps), [recorder])
    finally:
        place.close()
    record = recorder.episodes[0]
    progress = [float(estimate.progress[0]) for estimate in record.places["truth"].scored[1:]]
    order = [one.key for one in cells(config)]
    return [Outcome(job.key, {
        "episode": order.index(cell.key) * config.episodes + job.start, "cell": cell.key, "start": job.start,
        "seed": episode.seed, "effort": cell.effort, "planner": cell.planner, "deadline_ms": cell.deadline_ms,
        "mode": cell.mode, "delay": cell.delay, "governed": cell.governed, "steps": len(progress),
        "world_s": len(progress) / task.fps, "success": record.ended, "final_progress": progress[-1],
        "max_progress": max(progress), "clipped": sum(record.clipped), "waited": policy.waited, **watched.row(),
    })]


class Watched:
    """An asynchronous policy whose plans are counted."""

    def __init__(self, policy: AsynchronousPolicy) -> None:
        assert isinstance(policy.source, PlannedChunks)
        self._policy, self._source = policy, policy.source
        self._plan_ms: list[float] = []
        self._levels: list[int] = []
        self._calls = self._rounds = 0

    def reset(self, episode: Episode) -> None:
        """See `LanePolicy`."""
        self._policy.reset(episode)

    def act(self, observation: Observation, steps_left: int | None = None) -> np.ndarray:
        """See `LanePolicy`."""
        before, level = self._source.last, self._source.pace.level
        action = self._policy.act(observation, steps_left)
        if self._source.last is not None and self._source.last is not before:
            self._plan_ms.append(self._source.last_ms)
            self._levels.append(level)
            self._calls += self._source.last.calls
            self._rounds += self._source.last.rounds
        return action

    def row(self) -> dict[str, Any]:
        """What the plans of the episode took, and how far the world was wrong."""
        errors = self._source.errors
        return {"plans": len(self._plan_ms), "plan_ms": self._plan_ms, "levels": self._levels,
                "calls": self._calls, "rounds": self._rounds,
                "latent_error": float(np.mean(errors)) if errors else None}


def _policy(
    config: BudgetConfig, task: Task, world: World, cell: Cell, latency: Mapping[str, Latency]
) -> AsynchronousPolicy:
    """What acts in a cell.  latency: per effort; empty under a wall clock."""
    settings = config.planning.model_copy(update={"planner": cell.planner, "deadline_ms": cell.deadline_ms})
    names: Sequence[str] = [cell.effort]
    governor, asked = None, config.governed
    if cell.governed and asked is not None:
        # The governor alone keeps the deadline: a search cut short would look quick, and be given more to do.
        settings = settings.model_copy(update={"rounds": asked.rounds, "deadline_ms": None})
        names = asked.efforts
        governor = Governor(len(names), cell.deadline_ms, asked.margin, asked.patience)
    efforts = [_effort(config, name, world, latency.get(name)) for name in names]
    hold = hold_of(task, rounded=True)
    source = PlannedChunks(world, config.objective.build(world, task), settings, efforts=efforts, hold=hold,
                           frame_of=frame_of(task),
                           clock=make_clock(config.clock), governor=governor, level=0)
    return AsynchronousPolicy(source, mode=cell.mode, execute=settings.replan_every, hold=hold,
                              delay=fixed_delay(cell.delay or 0))


def _effort(config: BudgetConfig, name: str, world: World, latency: Latency | None = None) -> Effort:
    """An effort of the sweep by its name."""
    fidelity, planning = config.efforts[name].fidelity, config.planning_of(name)
    built = None if fidelity is None else fidelity.build(world.spec)
    return Effort(built, planning.candidates, latency, planning.elites)


class _Parsed(StrictConfig):
    value: LatencyConfig


@lru_cache(maxsize=2)
def parts_of(settings: str) -> tuple[BudgetConfig, Task, World]:
    """A process plays many jobs of one sweep."""
    config = validate(BudgetConfig, loads(settings))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return config, config.task.build(), load_world(config.world, device=config.device)
