"""The closed loop: an agent acts, and three twins play its actions.

The truth, the cached world and the uncached world start from the same frame and get the same actions and noise; the
agent sees one of them.  Easy to get wrong: only what the agent waits for counts as latency, so the other twins step
outside the measured span, and the two worlds take turns at going first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field

from wcsim.agents.mpc import MPCAgent
from wcsim.agents.reports import ActReport
from wcsim.cache.fidelity import FidelityConfig
from wcsim.config import StrictConfig
from wcsim.envs.imagined import ImaginedEnv, load_world
from wcsim.envs.judge import Judgement
from wcsim.envs.tasks import Start, Task, Truth, make_task
from wcsim.experiments.planners import AgentConfig
from wcsim.experiments.summary import summarise
from wcsim.spans import Spans
from wcsim.track.ledger import Twin, error_rows
from wcsim.track.runs import Run, make_manifest
from wcsim.types import Trace
from wcsim.world.checkpoints import find_world, hash_files
from wcsim.world.world import World

WORLDS = ("cached", "uncached")


class TaskConfig(StrictConfig):
    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class ClosedLoopConfig(StrictConfig):
    """One experiment: `episodes` episodes from consecutive seeds."""

    name: str
    world: str = "pusht-96"
    task: TaskConfig = TaskConfig(name="pusht")
    episodes: int = Field(4, ge=1)
    first_seed: int = Field(700_000, ge=0)
    max_steps: int = Field(30, ge=1)
    acts_in: Literal["world", "truth"] = "world"
    """Whose frames the agent sees: the cached world's or the simulator's."""
    fidelity: FidelityConfig = FidelityConfig()
    """Of the cached world; the uncached one differs in the cache alone."""
    agent: AgentConfig
    deadline_ms: float = Field(1000.0, gt=0)
    """What a control step may take: planning, and imagining the next frame."""
    device: str = "cpu"
    threads: int | None = Field(None, ge=1)
    """torch threads; None leaves torch's choice."""
    compiled: bool = False
    """Whether `torch.compile` makes graphs of what every step runs; the first episode waits for them."""


class Player(Protocol):
    """What plays an episode: an `MPCAgent` or a policy."""

    def reset(self, observation: dict[str, np.ndarray], *, episode: int = 0) -> None: ...

    def act(self, observation: dict[str, np.ndarray]) -> np.ndarray: ...


@dataclass(slots=True)
class Tape:
    """What one twin showed, the start included; latents without it."""

    frames: list[np.ndarray]
    judged: list[Judgement]
    latents: list[torch.Tensor]

    def twin(self) -> Twin:
        """For the ledger: poses are NaN where the judge found none."""
        poses = np.array([np.concatenate([j.agent[0], j.block[0]]) for j in self.judged[1:]])
        return Twin(np.array(self.frames[1:]), poses, torch.stack(self.latents))


class Stage:
    """The three twins of one episode, in lock-step."""

    def __init__(self, truth: Truth, envs: dict[str, ImaginedEnv], start: Start, seed: int) -> None:
        self.truth, self.envs = truth, envs
        look = truth.restore(start.truth)
        self.tapes = {"truth": Tape([look.pixels], [look.judgement], [])}
        for name, env in envs.items():
            env.reset(seed=seed, options={"start": start})
            self.tapes[name] = Tape([start.frames[-1]], [env.last_judgement], [])

    def observation(self, twin: str) -> dict[str, np.ndarray]:
        """What an agent in `twin` sees now."""
        tape = self.tapes[twin]
        return {"pixels": tape.frames[-1], "agent_pos": tape.judged[-1].agent[0].astype(np.float32)}

    def step(self, twin: str, action: np.ndarray, world: World) -> dict[str, float]:
        """Play `action` in one twin; the time it took, by span."""
        tape, spans = self.tapes[twin], Spans(world.device)
        if twin == "truth":
            with spans("truth"):
                look = self.truth.step(action)
            tape.frames.append(look.pixels)
            tape.judged.append(look.judgement)
            tape.latents.append(world.encode(look.pixels[None])[0])
            return spans.ms()
        env = self.envs[twin]
        observation, *_ = env.step(action)
        tape.frames.append(observation["pixels"])
        tape.judged.append(env.last_judgement)
        tape.latents.append(env.last_latents)
        return env.last_timing


class ClosedLoop:
    """The experiment, ready to run and to resume."""

    def __init__(self, config: ClosedLoopConfig) -> None:
        self.config = config
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.task: Task = make_task(config.task.name, **config.task.options)
        self.world = load_world(config.world, device=config.device, compiled=config.compiled)
        self.acted_in = "cached" if config.acts_in == "world" else "truth"
        self.player: Player = config.agent.build(self.world, self.task)
        self._envs = {name: self._make_env(name) for name in WORLDS}
        self._truth = self.task.make_truth()

    def run(self, path: Path, *, on_step: Callable[[int, int], None] | None = None) -> Run:
        """Play what is missing of the episodes and write the summary; does nothing where nothing is.  on_step: told
        episode and step."""
        run = Run.resume(path, self.config.model_dump(mode="json"), self._manifest)
        done = {row["episode"] for row in run.episodes}
        left = [number for number in range(self.config.episodes) if number not in done]
        for number in left:
            self._play(run, number, on_step or (lambda episode, step: None))
        if left or not (path / "summary.json").is_file():
            run.write_summary(summarise(run, deadline_ms=self.config.deadline_ms, fps=self.world.spec.fps))
        return run

    def _manifest(self) -> dict[str, Any]:
        seeds = {"first_seed": self.config.first_seed, "episodes": self.config.episodes}
        return make_manifest(device=self.world.device, seeds=seeds, weights=hash_files(find_world(self.config.world)))

    def _make_env(self, name: str) -> ImaginedEnv:
        config = self.config
        cache = config.fidelity.cache.model_dump() if name == "cached" else "none"
        env = ImaginedEnv(
            config.task.name, config.world, cache=cache, steps=config.fidelity.steps, solver=config.fidelity.solver,
            context=config.fidelity.context, guidance=config.fidelity.guidance,
            guidance_until=config.fidelity.guidance_until, decide=config.fidelity.decide,
            context_refresh=config.fidelity.context_refresh,
            task_options=config.task.options, device=config.device, compiled=config.compiled,
        )
        return env

    def _play(self, run: Run, number: int, on_step: Callable[[int, int], None]) -> None:
        """One episode, recorded once it is whole."""
        seed = self.config.first_seed + number
        start = self.task.start(seed)
        stage = Stage(self._truth, self._envs, start, seed)
        self.player.reset(stage.observation(self.acted_in), episode=number)
        rows, traces, actions = [], [], []
        for step in range(self.config.max_steps):
            on_step(number, step)
            action, row, trace = self._step(stage, step)
            rows.append(row)
            traces.append(trace)
            actions.append(action)
            if stage.tapes[self.acted_in].judged[-1].success[0]:
                break
        twins = {name: tape.twin() for name, tape in stage.tapes.items()}
        for row, errors in zip(rows, error_rows(number, **twins), strict=True):
            row.update(errors)
        run.save_arrays(
            f"ep_{number:04d}", actions=np.array(actions),
            **{name: np.array(tape.frames) for name, tape in stage.tapes.items()},
            **{name: np.concatenate([getattr(trace, name)[0].T for trace in traces])
               for name in ("hit", "drift", "threshold", "gain")},
        )
        run.record_episode(rows, self._episode_row(number, seed, stage, rows))

    def _step(self, stage: Stage, step: int) -> tuple[np.ndarray, dict[str, Any], Trace]:
        """Act and play the action in every twin."""
        spans = Spans(self.world.device)
        with spans("plan"):
            action = self._act(stage, step)
        timing = {twin: stage.step(twin, action, self.world)
                  for twin in ("truth", *(WORLDS if step % 2 == 0 else reversed(WORLDS)))}
        waited = timing[self.acted_in]
        whole = waited["truth"] if self.acted_in == "truth" else sum(waited[s] for s in ("imagine", "decode", "judge"))
        plan_ms = spans.ms()["plan"]
        trace = self._envs["cached"].last_trace
        assert trace is not None
        judged = {name: tape.judged[-1] for name, tape in stage.tapes.items()}
        report = getattr(self.player, "last", None)
        row = {
            "coverage": {name: float(judgement.coverage[0]) for name, judgement in judged.items()},
            "shape_ok": {name: bool(judgement.shape_ok[0]) for name, judgement in judged.items()},
            "reward": float(self.task.reward(judged[self.acted_in])[0]),
            "spans_ms": {"step": plan_ms + whole, "plan": plan_ms, **waited},
            "imagine_ms": {name: timing[name]["imagine"] for name in WORLDS},
            "hit_rate": trace.hit_rate,
            "skipped": trace.skipped,
            "agent": None if report is None else _agent_row(report),
        }
        return action, row, trace

    def _act(self, stage: Stage, step: int) -> np.ndarray:
        observation = stage.observation(self.acted_in)
        if isinstance(self.player, MPCAgent):
            return self.player.act(observation, steps_left=self.config.max_steps - step)
        return self.player.act(observation)

    def _episode_row(self, number: int, seed: int, stage: Stage, rows: list[dict[str, Any]]) -> dict[str, Any]:
        ever = {name: any(bool(j.success[0]) for j in tape.judged) for name, tape in stage.tapes.items()}
        return {
            "episode": number, "seed": seed, "steps": len(rows), "success": ever, "acted_in": self.acted_in,
            "final_coverage": rows[-1]["coverage"], "return": sum(row["reward"] for row in rows),
        }


def _agent_row(report: ActReport) -> dict[str, Any]:
    """A planner's report as JSON."""
    error = report.error
    return {
        "reason": report.reason, "cost": report.cost, "calls": report.calls, "rounds": report.rounds,
        "exhausted": report.exhausted, "deadline_met": report.timing.deadline_met,
        "rank_agreement": report.rank_agreement, "regret": report.regret, "kept": report.kept,
        "prediction_error": None if error is None else {
            "latent": error.latent, "agent_px": error.agent_px, "block_px": error.block_px,
            "block_deg": error.block_deg,
        },
    }


