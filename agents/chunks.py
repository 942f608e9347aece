"""Chunks of actions and what makes them: the seam between what thinks and what acts every tick.

Easy to get wrong: while a chunk is being made the robot moves on, so the first actions of a new chunk may be past
before it arrives; `prefix` says which of them are already decided.  Shapes: H ticks ahead, d decided, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from wcsim.agents.mpc import MPCConfig
from wcsim.agents.objectives import Objective, imagined_cost, objective_of, relative_distance
from wcsim.agents.planners import plan_with
from wcsim.agents.policies import Hold, Observation
from wcsim.agents.proposals import Propose
from wcsim.agents.search import Plan, Settings
from wcsim.errors import ConfigError
from wcsim.estimate import Episode, Goal
from wcsim.timing.budget import Budget
from wcsim.timing.clock import Latency, SimulatedClock, TimedCost
from wcsim.timing.governor import Governor, Pace
from wcsim.types import CostFn, Fidelity, WorldState

if TYPE_CHECKING:
    from torch import Tensor

    from wcsim.world.world import World


class ChunkSource(Protocol):
    """Makes chunks.  last_ms: what the last one took."""

    last_ms: float

    def reset(self, episode: Episode) -> None:
        """Forget the past; the next observation opens `episode`."""
        ...

    def see(self, observation: Observation, action: np.ndarray) -> None:
        """What `action` `[A]` led to; called every tick after the first."""
        ...

    def chunk(self, observation: Observation, prefix: np.ndarray) -> np.ndarray:
        """Actions `[H, A]` from now on, the first of which are `prefix` `[d, A]`, d < H."""
        ...


class PolicyChunks:
    """A function of an observation that returns chunks `[H, A]`, as a source that cannot heed a prefix.

    latency: what a chunk takes (its one call, one lane); None: what it does take.
    """

    def __init__(self, source: Callable[[Observation], np.ndarray], *, latency: Latency | None = None) -> None:
        self._source, self._latency = source, latency
        self.last_ms, self._calls = 0.0, 0

    def reset(self, episode: Episode) -> None:
        """Nothing is remembered."""

    def see(self, observation: Observation, action: np.ndarray) -> None:
        """Nothing is remembered."""

    def chunk(self, observation: Observation, prefix: np.ndarray) -> np.ndarray:
        """What the function says."""
        began = perf_counter()
        chunk = np.asarray(self._source(observation), dtype=np.float64)
        took = 1e3 * (perf_counter() - began)
        self.last_ms = took if self._latency is None else self._latency.ms(self._calls, 1, len(chunk))
        self._calls += 1
        return chunk


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to plan: one level of a governor.  fidelity: of the scoring; None asks the state model alone, and
    nothing is rendered.  candidates: per round.  latency: of its scoring, under a simulated clock; None takes that of
    all.  elites: of the candidates; None takes those of the planner's configuration."""

    fidelity: Fidelity | None
    candidates: int
    latency: Latency | None = None
    elites: int | None = None


class PlannedChunks:
    """Chunks from a planner inside a world.

    efforts: cheapest first; a `governor` chooses among them, beginning at `level` (None: the dearest), without one the
    last is used.  hold: the action around which the first plan is searched.  objective, aim: as in
    `wcsim.agents.mpc.MPCAgent`.  clock: seconds, by which `config.deadline_ms` is kept; with a SimulatedClock,
    `latency` is what every scoring takes.  propose: other ideas `[P, T, A]` for the first round.  errors: relative
    latent distance of what was imagined to what was seen, one per tick of this episode that had been imagined.
    """

    def __init__(
        self, world: World, objective: Objective | None, config: MPCConfig, *, efforts: Sequence[Effort], hold: Hold,
        aim: Callable[[Goal | None], Objective] | None = None,
        frame_of: Callable[[Observation], np.ndarray] = lambda observation: np.asarray(observation["pixels"]),
        clock: Callable[[], float] = perf_counter, latency: Latency | None = None, governor: Governor | None = None,
        level: int | None = None, propose: Propose | None = None,
    ) -> None:
        latencies = [latency if effort.latency is None else effort.latency for effort in efforts]
        if any(isinstance(clock, SimulatedClock) != (one is not None) for one in latencies):
            raise ConfigError("a simulated clock needs a latency, and no other clock takes one")
        if governor is not None and governor.levels != len(efforts):
            raise ConfigError(f"the governor has {governor.levels} levels for {len(efforts)} efforts")
        self.world, self.config, self.efforts = world, config, tuple(efforts)
        self._objective, self._aim, self._hold, self._frame_of = objective, aim, hold, frame_of
        self._clock, self._latencies, self._propose = clock, latencies, propose
        self._governor = governor
        self.pace = Pace(len(efforts) - 1) if governor is None else governor.init(level)
        self._low, self._high = np.asarray(world.spec.action.low), np.asarray(world.spec.action.high)
        self.last_ms = 0.0
        self.last: Plan | None = None

    def reset(self, episode: Episode) -> None:
        """See `ChunkSource`; the governor keeps its pace from one episode to the next."""
        self.objective = objective_of(episode, self._objective, self._aim)
        self._episode, self._tick, self._made = episode, 0, 0
        self._state: WorldState | None = None
        self._ahead = np.zeros((0, len(self._low)))
        self._imagined: Tensor | None = None
        self._followed = False
        self.errors: list[float] = []

    def see(self, observation: Observation, action: np.ndarray) -> None:
        """Take the frame in, and compare it with what was imagined where the plan was followed."""
        if self._state is None:
            raise ConfigError("a planner is asked for a chunk at the observation that opens an episode, before it sees "
                              "what an action led to")
        seen = self.world.encode(self._frame_of(observation)[None], self.config.refine_steps)
        age = self._tick - self._made
        self._followed &= age < len(self._ahead) and np.array_equal(self._ahead[age], action)
        if self._imagined is not None and self._followed and age < len(self._imagined):
            self.errors.append(relative_distance(self._imagined[age][None], seen))
        self._state = self.world.observe(self._state, seen, np.asarray(action)[None])
        self._tick += 1

    def chunk(self, observation: Observation, prefix: np.ndarray) -> np.ndarray:
        """Search with the prefix frozen, within the deadline."""
        effort, length, decided = self.efforts[self.pace.level], self.config.horizon, len(prefix)
        state = self._begun(observation)
        if decided >= length:
            raise ConfigError(f"a prefix of {decided} actions leaves nothing of a horizon of {length}")
        config = self.config.model_copy(update={
            "candidates": effort.candidates, "elites": min(effort.elites or self.config.elites, effort.candidates)})
        budget = config.budget(self._clock)
        mean, std, settings = self._around(prefix, config, budget)
        if self._propose is not None:
            settings["proposals"] = self._propose(state, observation, length, self._episode)
        cost = self._cost(state, effort.fidelity, self._latencies[self.pace.level])
        plan = plan_with(config.planner, cost, mean, std, elites=config.elites, **settings)
        self.last, self.last_ms = plan, budget.elapsed_ms
        if self._governor is not None:
            self.pace = self._governor.after(self.pace, self.last_ms)
        self._ahead, self._made, self._followed, self._imagined = plan.actions, self._tick, True, None
        if effort.fidelity is not None:
            _, imagined, _ = self.world.advance(state, plan.actions[None, : config.replan_every], effort.fidelity)
            self._imagined = imagined[0]
        return plan.actions

    def _around(self, prefix: np.ndarray, config: MPCConfig, budget: Budget) -> tuple[np.ndarray, np.ndarray, Settings]:
        """Mean and std `[H, A]` of the search, what is left of the last plan, the prefix frozen; and the settings."""
        length, decided = config.horizon, len(prefix)
        rest = self._ahead[min(self._tick - self._made, len(self._ahead) - 1) :]
        mean = np.array(rest[np.minimum(np.arange(length), len(rest) - 1)], dtype=np.float64)
        low, high = (np.array(np.broadcast_to(bound, mean.shape)) for bound in (self._low, self._high))
        std = np.array(np.broadcast_to(config.std_fraction * (self._high - self._low), mean.shape))
        mean[:decided] = low[:decided] = high[:decided] = prefix
        std[:decided] = 0.0
        settings = Settings(
            low=low, high=high, rng=np.random.default_rng([config.seed, self._episode.number, self._tick]),
            rounds=config.rounds, candidates=config.candidates, budget=budget,
            knots=min(config.knots or length, length),
        )
        return mean, std, settings

    def _begun(self, observation: Observation) -> WorldState:
        """Where the world stands; the observation that opens an episode begins it."""
        if self._state is None:
            seed = np.random.default_rng([self.config.seed, self._episode.number]).integers(2**31, size=1)
            frame = self._frame_of(observation)
            self._state = self.world.init(frame[None, None], np.zeros((1, 0, len(self._low))), seed)
            self._ahead = np.asarray(self._hold(observation), np.float64)[None]
        return self._state

    def _cost(self, state: WorldState, fidelity: Fidelity | None, latency: Latency | None) -> CostFn:
        cost = imagined_cost(self.world, state, fidelity=fidelity, objective=self.objective,
                             max_lanes=self.config.max_lanes)
        if latency is None:
            return cost
        assert isinstance(self._clock, SimulatedClock)
        return TimedCost(cost, self._clock, latency)
