"""Every field of a fidelity that a configuration sets reaches the world, in every experiment."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from wcsim.backbones.cosmos2.tiny import tiny_parts
from wcsim.cache.fidelity import FidelityConfig
from wcsim.cache.interval import Interval
from wcsim.cache.none import NoCache
from wcsim.config import validate
from wcsim.experiments import budget_sweep, closed_loop, evaluation, goals
from wcsim.experiments.bench import env as env_bench
from wcsim.experiments.bench.cache import run_cache_benchmark
from wcsim.experiments.bench.cache_settings import CacheBenchConfig
from wcsim.types import Fidelity, Trace, WorldState
from wcsim.world.world import World

EVERY = {"steps": 3, "cache": {"kind": "interval"}, "solver": "unipc", "context": 2, "chunk": 3, "guidance": 1.5,
         "decide": "apart", "batched": False, "guidance_until": 0.25, "context_refresh": 0.5}
PLANNER = {"horizon": 2, "rounds": 1, "candidates": 2, "elites": 1, "replan_every": 1}
SHARED = {"name": "whole", "task": {"name": "pusht", "options": {"start": "near"}}, "max_steps": 1}
TOLD = {
    "planner": {"policy": {"kind": "mpc", "fidelity": EVERY, **PLANNER}},
    "rung": {"policy": {"kind": "mpc", "rungs": [{"survivors": 1, "fidelity": EVERY}], **PLANNER}},
}


class Watched(World):
    """A tiny world that remembers at what fidelity it was asked to imagine, and then does so unguided."""

    def __init__(self) -> None:
        super().__init__(*tiny_parts(task="pusht"))
        self.asked: list[Fidelity] = []

    def advance(self, state: WorldState, actions: np.ndarray, fidelity: Fidelity) -> tuple[WorldState, Tensor, Trace]:
        self.asked.append(fidelity)
        return super().advance(state, actions, Fidelity(2, NoCache()))

    def was_asked_for_all(self) -> bool:
        """Whether one fidelity had every field as in `EVERY`."""
        plain = {name: value for name, value in EVERY.items() if name != "cache"}
        return any(isinstance(asked.cache, Interval) and {name: getattr(asked, name) for name in plain} == plain
                   for asked in self.asked)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    world = Watched()
    for room in (closed_loop, evaluation, goals, budget_sweep):
        room.parts_of.cache_clear()
        monkeypatch.setattr(room, "load_world", lambda *_, **__: world)
    monkeypatch.setattr("wcsim.envs.imagined.load_world", lambda *_, **__: world)
    return world


def test_these_are_all_fields_and_none_is_the_default() -> None:
    assert set(EVERY) == set(FidelityConfig.model_fields) == {field.name for field in fields(Fidelity)}
    default = FidelityConfig().model_dump()
    assert all(value != default[name] for name, value in FidelityConfig(**EVERY).model_dump().items())


@pytest.mark.parametrize("settings", [{"fidelity": EVERY, "policy": {"kind": "hold"}}, *TOLD.values()],
                         ids=["place", *TOLD])
def test_in_a_closed_loop(folder: str, tmp_path: Path, watched: Watched, settings: dict[str, Any]) -> None:
    config = validate(closed_loop.ClosedLoopConfig, SHARED | {"world": folder, "episodes": 1} | settings)
    closed_loop.ClosedLoop(config).run(tmp_path / "run")
    assert watched.was_asked_for_all()


def test_in_an_evaluation(folder: str, tmp_path: Path, watched: Watched) -> None:
    config = validate(evaluation.EvaluationConfig, SHARED | {
        "world": folder, "starts": 1, "fidelity": EVERY, "policies": [{"kind": "hold"}, {"kind": "random"}]})
    evaluation.Evaluation(config).run(tmp_path / "run")
    assert watched.was_asked_for_all()


@pytest.mark.parametrize("where", ["place", "planner"])
def test_in_goals(folder: str, tmp_path: Path, watched: Watched, where: str) -> None:
    planner = TOLD["planner"]["policy"] if where == "planner" else {"kind": "mpc", **PLANNER}
    config = validate(goals.GoalsConfig, SHARED | {
        "world": folder, "episodes": 1, "goal_ticks": 1, "within": {"px": 20.0, "deg": 20.0}, "policies": [planner],
        "reference": "mpc", "audit": None, "places": ["world"], "fidelity": EVERY if where == "place" else {}})
    goals.GoalRuns(config).run(tmp_path / "run")
    assert watched.was_asked_for_all()


def test_in_a_budget(folder: str, tmp_path: Path, watched: Watched) -> None:
    config = validate(budget_sweep.BudgetConfig, SHARED | {
        "world": folder, "episodes": 1, "deadlines_ms": [50.0], "efforts": {"one": {"fidelity": EVERY}},
        "planning": PLANNER, "latency": {"kind": "constant", "call_ms": 1.0}})
    budget_sweep.BudgetSweep(config).run(tmp_path / "run")
    assert watched.was_asked_for_all()


def test_in_the_environment_bench(
    folder: str, tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env_bench, "DEADLINE_ROUNDS", 1)
    env_bench.bench_env(folder, out=tmp_path, lanes=1, rounds=2, fidelity=FidelityConfig(**EVERY),
                        caches=["{kind: interval}"], starts=1, ticks=1, fewer_steps=4, deadline_ms=100.0)
    assert watched.was_asked_for_all()


def test_in_the_cache_benchmark(folder: str, tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wcsim.experiments.bench.cache_measurements.load_world", lambda *_, **__: watched)
    shared = {name: EVERY[name] for name in ("solver", "context", "chunk", "guidance", "guidance_until", "decide",
                                             "batched")}
    config = validate(CacheBenchConfig, {
        "name": "small", "world": folder, "episodes": 2, "horizon": 3, "rounds": 1, "batches": [2],
        "steps": [EVERY["steps"]], "reference_steps": 2, **shared,
        "sweeps": [{"policy": "interval", "context_refresh": EVERY["context_refresh"], "knob": "interval",
                    "values": [2]}]})
    run_cache_benchmark(config, tmp_path, lambda text: None)
    asked = [fidelity for fidelity in watched.asked if fidelity.context_refresh]
    assert asked
    for fidelity in asked:
        assert {name: getattr(fidelity, name) for name in shared} == shared
        assert fidelity.steps == EVERY["steps"]
