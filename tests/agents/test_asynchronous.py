"""Delays with chunks that say who made them: at which tick, and for which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from linear_world import FIDELITY, LinearWorld, frame_at
from wcsim.agents.asynchronous import AsynchronousPolicy, fixed_delay, ticks_of
from wcsim.agents.chunks import Effort, PlannedChunks, PolicyChunks
from wcsim.agents.mpc import MPCConfig
from wcsim.agents.objectives import LatentGoal
from wcsim.errors import ConfigError
from wcsim.estimate import Episode
from wcsim.timing.clock import ConstantLatency, SimulatedClock
from wcsim.timing.governor import Governor

HOLD = np.array([-1.0, -1.0])


class Telling:
    """Chunks of `[tick it was made at, tick it is for]`; prefixes are kept as they are."""

    last_ms = 0.0

    def __init__(self, length: int = 8) -> None:
        self.length, self.prefixes = length, list[np.ndarray]()

    def reset(self, episode: Episode) -> None:
        self.tick = 0

    def see(self, observation: Any, action: np.ndarray) -> None:
        self.tick += 1

    def chunk(self, observation: Any, prefix: np.ndarray) -> np.ndarray:
        self.prefixes.append(prefix)
        made = np.stack([np.full(self.length, self.tick), self.tick + np.arange(self.length)], axis=1).astype(float)
        made[: len(prefix)] = prefix if len(prefix) else made[:0]
        return made


def acted(mode: Any, delay: int, ticks: int, *, execute: int = 3, **options: Any) -> tuple[list[list[float]], Any]:
    policy = AsynchronousPolicy(Telling(), mode=mode, execute=execute, delay=fixed_delay(delay),
                                hold=lambda seen: HOLD, **options)
    policy.reset(Episode(0, 0))
    return [policy.act({}).tolist() for _ in range(ticks)], policy


@pytest.mark.parametrize("mode", ["wait", "naive", "freeze"])
def test_without_delay_every_mode_follows_the_newest_chunk(mode: str) -> None:
    actions, policy = acted(mode, 0, 7)
    assert actions == [[0, 0], [0, 1], [0, 2], [3, 3], [3, 4], [3, 5], [6, 6]]
    assert policy.waited == 0


def test_naive_goes_on_and_skips_what_is_past() -> None:
    actions, policy = acted("naive", 2, 8)
    # Made at 0, there at 2; made at 3, there at 5; in between the old chunk goes on.
    assert actions == [[-1, -1], [-1, -1], [0, 2], [0, 3], [0, 4], [3, 5], [3, 6], [3, 7]]
    assert policy.waited == 2


def test_waiting_holds_and_begins_at_the_first_action() -> None:
    actions, policy = acted("wait", 2, 9)
    assert actions[:2] == [[-1, -1], [-1, -1]]
    assert actions[2:5] == [[0, 0], [0, 1], [0, 2]]  # the chunk's own first three, two ticks late
    assert actions[5:7] == [[0, 2], [0, 2]]
    assert actions[7:] == [[5, 5], [5, 6]]
    assert policy.waited == 4


def test_freezing_hands_over_what_will_be_past() -> None:
    actions, policy = acted("freeze", 2, 8)
    assert actions == [[-1, -1], [-1, -1], [0, 2], [0, 3], [0, 4], [3, 5], [3, 6], [3, 7]]
    assert policy.source.prefixes[1].tolist() == [[0, 3], [0, 4]]  # what was then done at ticks 3 and 4


def test_an_ensemble_averages_all_chunks_that_cover_a_tick() -> None:
    actions, _ = acted("ensemble", 0, 5, execute=1, memory=0.0)
    assert actions == [[0, 0], [0.5, 1], [1, 2], [1.5, 3], [2, 4]]
    old, _ = acted("ensemble", 0, 5, execute=1, memory=5.0)
    assert old[4][0] == pytest.approx(0.0, abs=0.02)  # the oldest speaks loudest


def test_a_chunk_that_ends_before_the_next_arrives_is_held() -> None:
    policy = AsynchronousPolicy(Telling(length=2), mode="naive", execute=2, delay=fixed_delay(3),
                                hold=lambda seen: HOLD)
    policy.reset(Episode(0, 0))
    actions = [policy.act({}).tolist() for _ in range(7)]
    # Made at 0 for 0 and 1, there at 3: both are past, its last is held; the next is asked for then.
    assert actions == [[-1, -1]] * 3 + [[0, 1]] * 3 + [[3, 4]]


def test_a_delay_in_ticks_is_what_the_milliseconds_fill() -> None:
    delay = ticks_of(100.0)
    assert [delay(ms) for ms in (0.0, 1.0, 100.0, 100.1, 250.0)] == [0, 1, 1, 2, 3]
    assert [ticks_of(100.0, free_ms=80.0)(ms) for ms in (80.0, 180.0, 181.0)] == [0, 1, 2]


def test_a_latency_sets_the_delay_of_a_policy() -> None:
    source = PolicyChunks(lambda seen: np.arange(8.0).reshape(4, 2), latency=ConstantLatency(call_ms=150.0))
    policy = AsynchronousPolicy(source, mode="naive", execute=4, delay=ticks_of(100.0), hold=lambda seen: HOLD)
    policy.reset(Episode(0, 0))
    assert [policy.act({}).tolist() for _ in range(4)] == [[-1, -1], [-1, -1], [4, 5], [6, 7]]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="execute must be 1 or more"):
        AsynchronousPolicy(Telling(), mode="wait", execute=0, delay=fixed_delay(0), hold=lambda seen: HOLD)
    with pytest.raises(ConfigError, match="delay of -1"):
        acted("naive", -1, 1)


def planned(**options: Any) -> PlannedChunks:
    goal = torch.tensor([40.0, 60.0], dtype=torch.float64)[:, None, None]
    config = MPCConfig(**({"horizon": 6, "rounds": 4, "candidates": 32, "elites": 6, "replan_every": 3}
                          | options.pop("config", {})))
    efforts = options.pop("efforts", [Effort(FIDELITY, 32)])
    return PlannedChunks(LinearWorld(), LatentGoal(goal, discount=0.8), config,
                         efforts=efforts, hold=lambda seen: np.zeros(2), **options)


def drive(policy: AsynchronousPolicy, ticks: int) -> tuple[np.ndarray, np.ndarray]:
    """A point that moves by the action, to whole pixels."""
    point, actions = np.array([50.0, 50.0]), []
    policy.reset(Episode(0, 0))
    for _ in range(ticks):
        actions.append(policy.act(seen_at(point)))
        point = np.round(point + actions[-1])
    return point, np.array(actions)


def seen_at(point: np.ndarray) -> dict[str, np.ndarray]:
    return {"pixels": frame_at(*point)}


def test_seen_frames_are_refined_as_often_as_asked() -> None:
    source = planned(config={"refine_steps": 0})
    drive(AsynchronousPolicy(source, mode="wait", execute=3, delay=fixed_delay(0), hold=lambda seen: np.zeros(2)), 4)
    assert isinstance(source.world, LinearWorld)
    assert source.world.refine_steps[-3:] == [0, 0, 0]


@pytest.mark.parametrize("mode", ["wait", "naive", "ensemble", "freeze"])
@pytest.mark.parametrize("delay", [0, 2])
def test_a_planner_reaches_its_goal_in_every_mode(mode: Any, delay: int) -> None:
    source = planned()
    point, actions = drive(AsynchronousPolicy(source, mode=mode, execute=3, delay=fixed_delay(delay),
                                               hold=lambda seen: np.zeros(2)), 24)
    assert np.abs(actions).max() <= 4.0
    assert np.linalg.norm(point - [40.0, 60.0]) <= (3.0 if delay == 0 or mode in ("wait", "freeze") else 9.0)
    if mode == "freeze":
        assert source.errors
        assert max(source.errors) < 0.1  # the linear world is right up to rounding


def test_a_frozen_prefix_stays_as_it_is() -> None:
    source = planned()
    source.reset(Episode(0, 0))
    prefix = np.array([[3.0, -2.0], [1.0, 1.0]])
    chunk = source.chunk(seen_at(np.array([50.0, 50.0])), prefix)
    assert (chunk[:2] == prefix).all()
    assert chunk.shape == (6, 2)
    with pytest.raises(ConfigError, match="leaves nothing"):
        source.chunk(seen_at(np.array([50.0, 50.0])), np.zeros((6, 2)))


def test_a_simulated_clock_bounds_the_search_the_same_on_every_machine() -> None:
    def rounds(deadline_ms: float) -> tuple[int, float]:
        source = planned(config={"deadline_ms": deadline_ms, "rounds": 50}, clock=SimulatedClock(),
                         latency=ConstantLatency(call_ms=10.0, frame_ms=0.5))
        source.reset(Episode(0, 0))
        source.chunk(seen_at(np.array([50.0, 50.0])), np.zeros((0, 2)))
        assert source.last is not None
        return source.last.rounds, source.last_ms

    call_ms = 10.0 + 0.5 * 32 * 6
    for deadline_ms in (50.0, 300.0, 1000.0):
        count, spent = rounds(deadline_ms)
        assert (count, spent) == (max(1, int(deadline_ms // call_ms)), pytest.approx(count * call_ms))
        assert spent <= deadline_ms + call_ms


def test_a_governor_turns_the_candidates_down_until_the_deadline_is_met() -> None:
    efforts = [Effort(FIDELITY, count) for count in (8, 16, 32)]
    source = planned(efforts=efforts, governor=Governor(3, deadline_ms=60.0), clock=SimulatedClock(),
                     config={"rounds": 1}, latency=ConstantLatency(frame_ms=0.5))
    source.reset(Episode(0, 0))
    took = []
    for _ in range(4):
        source.chunk(seen_at(np.array([50.0, 50.0])), np.zeros((0, 2)))
        took.append(source.last_ms)
    assert took == pytest.approx([96.0, 48.0, 48.0, 48.0])


def test_an_effort_may_have_a_latency_and_a_governor_a_level_to_begin_at() -> None:
    quick, slow = ConstantLatency(call_ms=10.0), ConstantLatency(call_ms=80.0)
    source = planned(efforts=[Effort(FIDELITY, 8, quick), Effort(FIDELITY, 8, slow)], level=0, config={"rounds": 1},
                     governor=Governor(2, deadline_ms=60.0, patience=(1, 4)), clock=SimulatedClock())
    source.reset(Episode(0, 0))
    took = []
    for _ in range(4):
        source.chunk(seen_at(np.array([50.0, 50.0])), np.zeros((0, 2)))
        took.append(source.last_ms)
    assert took == pytest.approx([10.0, 80.0, 10.0, 10.0])


def test_clock_latency_and_governor_must_fit() -> None:
    with pytest.raises(ConfigError, match="needs a latency"):
        planned(clock=SimulatedClock())
    with pytest.raises(ConfigError, match="2 levels for 1 efforts"):
        planned(governor=Governor(2, deadline_ms=1.0))
