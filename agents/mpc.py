"""The agent that remembers: it plans inside a world, acts, and watches how far the world was wrong.

It builds its state from seen frames alone, at the first `act` of an episode, and imagines with noise of its own: it
must not equal that of the environment in which it acts.  Easy to get wrong: the frame that an action led to arrives
with the next `act`, so the prediction is compared there, before it is decided whether the plan still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from wcsim.agents.halving import Rung, RungReport, check_rungs, halving_cost
from wcsim.agents.objectives import Estimator, Objective, objective_of, relative_distance
from wcsim.agents.planners import PlannerName, plan_with
from wcsim.agents.policies import Hold, Observation
from wcsim.agents.proposals import Propose
from wcsim.agents.reports import ActReport, ActTiming, PredictionError, Reason
from wcsim.agents.search import Plan, PlanningError, Settings
from wcsim.config import StrictConfig
from wcsim.errors import ConfigError
from wcsim.estimate import Episode, Goal
from wcsim.timing.budget import Budget
from wcsim.types import Fidelity, Trace, WorldState

if TYPE_CHECKING:
    from torch import Tensor

    from wcsim.world.world import World


class MPCConfig(StrictConfig):
    """How to plan, and when again."""

    renamed: ClassVar[Mapping[str, str]] = {"looks": "refine_steps"}

    planner: PlannerName = "cem"
    horizon: int = Field(8, ge=1)
    """Ticks to plan ahead."""
    rounds: int = Field(3, ge=1)
    candidates: int = Field(48, ge=1)
    """Per round."""
    elites: int = Field(8, ge=1)
    replan_every: int = Field(4, ge=1)
    """Ticks to follow a plan."""
    deadline_ms: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Time for one `act`."""
    max_calls: int | None = Field(None, ge=1)
    """Most candidates to score for one plan."""
    error_bound: float | None = Field(None, gt=0)
    """Relative latent distance of prediction to what is seen above which the plan is dropped; None: never."""
    std_fraction: float = Field(0.2, gt=0, le=1)
    """First search width, as a share of the action range."""
    knots: int | None = Field(None, ge=1)
    """Ticks at which noise is drawn, linear between them; None: every tick."""
    max_lanes: int = Field(64, ge=1)
    """Most candidates imagined in one batch."""
    refine_steps: int | None = Field(None, ge=0)
    """Refinements of a seen frame's latents (`World.encode`); None: the world's own number."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, most in (("elites", "candidates"), ("replan_every", "horizon"), ("knots", "horizon")):
            value, limit = getattr(self, name), getattr(self, most)
            if value is not None and value > limit:
                raise ValueError(f"{name} must be at most {most} ({limit}), got {value}")
        if self.max_calls is not None and self.max_calls < self.candidates:
            raise ValueError(f"max_calls must hold one round of {self.candidates} candidates, got {self.max_calls}")
        return self

    def budget(self, clock: Callable[[], float]) -> Budget:
        """What one `act` may spend, from now."""
        calls = self.rounds * self.candidates if self.max_calls is None else self.max_calls
        return Budget(deadline_ms=self.deadline_ms, max_calls=calls, clock=clock)


@dataclass(frozen=True, slots=True)
class Intent:
    """A plan, for how many ticks it is followed, and what those should look like: latents `[ticks, C, h, w]`, first
    action first; None: they were not rendered."""

    plan: Plan
    ticks: int
    imagined: Tensor | None


class MPCAgent:
    """A `LanePolicy` that plans at `fidelity`, follows the plan, and plans again on schedule or when it has been wrong.

    objective: of episodes without a goal of their own; aim: makes that of an episode's goal (see `objective_of`).
    fidelity: None scores by the state model alone (see `imagined_cost`) and renders nothing, so that there is no
    prediction to be wrong; ConfigError with rungs or an error bound.  rungs: successive halving, the cheapest first.
    propose: ideas `[P, T, A]` for the first round; it knows no deadlines.  estimator: adds the errors of the
    task's state to the reports.  hold: the action around which the first plan is searched (None: the centre of the
    action range).  frame_of: an observation to the mosaic `[H, W, 3]` of all cameras.  clock: seconds.
    report: of the last `act`.
    """

    report: ActReport | None = None

    def __init__(
        self,
        world: World,
        objective: Objective | None,
        config: MPCConfig,
        *,
        fidelity: Fidelity | None,
        aim: Callable[[Goal | None], Objective] | None = None,
        estimator: Estimator | None = None,
        hold: Hold | None = None,
        rungs: Sequence[Rung] = (),
        propose: Propose | None = None,
        frame_of: Callable[[Observation], np.ndarray] = lambda observation: np.asarray(observation["pixels"]),
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        if fidelity is None and (rungs or config.error_bound is not None):
            raise ConfigError("without a fidelity nothing is rendered: there is nothing to halve for, and no error to "
                              "bound; leave out rungs and error_bound, or give a fidelity")
        check_rungs(rungs)
        self.world, self.config, self.fidelity = world, config, fidelity
        self._objective, self._aim = objective, aim
        self._estimator, self._hold, self._clock, self._frame_of = estimator, hold, clock, frame_of
        self._rungs, self._propose = tuple(rungs), propose
        self._low, self._high = np.asarray(world.spec.action.low), np.asarray(world.spec.action.high)
        self._episode: Episode | None = None
        self._state: WorldState | None = None
        self._imagining_ms = 0.0

    def reset(self, episode: Episode) -> None:
        """Forget the past; the episode's number numbers the noise.  ConfigError where no goal is given."""
        self.objective = objective_of(episode, self._objective, self._aim)
        self._episode, self._state = episode, None
        self._tick, self._age = 0, 0
        self._intent: Intent | None = None
        self._came: list[Tensor] = []
        self.report = None

    def act(self, observation: Observation, steps_left: int | None = None) -> np.ndarray:
        """The next action `[A]`.  steps_left: ticks until the episode ends, beyond which nothing is planned."""
        if self._episode is None:
            raise PlanningError("no episode has begun; call reset() before act()")
        if steps_left is not None and steps_left < 1:
            raise ConfigError(f"steps_left must be 1 or more, got {steps_left}")
        budget, traces = self.config.budget(self._clock), list[Trace]()
        self._halvings: list[RungReport] = []
        error = self._observe(self._frame_of(observation))
        reason = self._reason(error)
        realised = self._realised() if reason is not None else None
        planning_ms = budget.elapsed_ms
        if reason is not None:
            length = min(self.config.horizon, steps_left or self.config.horizon)
            self._intent = self._plan(observation, length, budget, traces)
            self._age, self._came = 0, []
        assert self._intent is not None
        act_ms = budget.elapsed_ms
        timing = ActTiming(act_ms, act_ms - planning_ms if reason else 0.0,
                           None if budget.deadline_ms is None else act_ms <= budget.deadline_ms)
        self.report = self._report(self._intent.plan, reason, error, timing, traces, realised)
        self._action = self._intent.plan.actions[self._age]
        self._age += 1
        self._tick += 1
        return np.array(self._action)

    def _report(
        self, plan: Plan, reason: Reason | None, error: PredictionError | None, timing: ActTiming,
        traces: Sequence[Trace], realised: tuple[float, float] | None,
    ) -> ActReport:
        """What this `act` did."""
        return ActReport(
            tick=self._tick, reason=reason, error=error,
            cost=_known(plan.cost), cost_of_mean=_known(plan.cost_of_mean),
            rounds=plan.rounds if reason else 0, calls=plan.calls if reason else 0,
            exhausted=plan.exhausted and reason is not None, timing=timing, traces=tuple(traces),
            rank_agreement=_average([half.rank_agreement for half in self._halvings]),
            regret=_average([half.regret for half in self._halvings]),
            realised=realised,
        )

    def _observe(self, frame: np.ndarray) -> PredictionError | None:
        """Take in the frame that the last action led to, and compare it with what was imagined; the frame that opens an
        episode begins the state."""
        assert self._episode is not None
        if self._state is None:
            seed = np.random.default_rng([self.config.seed, self._episode.number]).integers(2**31, size=1)
            self._state = self.world.init(frame[None, None], np.zeros((1, 0, len(self._low))), seed)
            return None
        assert self._intent is not None
        seen = self.world.encode(frame[None], self.config.refine_steps)
        self._state = self.world.observe(self._state, seen, self._action[None])
        self._came.append(seen[0])
        if self._intent.imagined is None:
            return None
        imagined = self._intent.imagined[self._age - 1][None]
        latent = relative_distance(imagined, seen)
        if self._estimator is None:
            return PredictionError(latent)
        values = self._estimator.estimate(np.concatenate([self.world.decode(imagined), frame[None]])).values
        ahead, now = ({name: value[which] for name, value in values.items()} for which in (0, 1))
        return PredictionError(latent, {metric: _known(error.item()) for metric, error in
                                        self._estimator.state.errors(ahead, now).items()})

    def _realised(self) -> tuple[float, float] | None:
        """What the plan that ends now promised for the ticks it was followed, and what came, as costs."""
        if self._intent is None or self._intent.imagined is None or not self._came:
            return None
        both = torch.stack([self._intent.imagined[: len(self._came)], torch.stack(self._came)])
        promised, came = self.objective(both, self.world.decode)
        return float(promised), float(came)

    def _reason(self, error: PredictionError | None) -> Reason | None:
        """Why to plan now, if at all."""
        if self._intent is None:
            return "start"
        bound = self.config.error_bound
        if bound is not None and error is not None and not error.latent <= bound:  # NaN is over the bound
            return "error"
        return "schedule" if self._age == self._intent.ticks else None

    def _plan(self, observation: Observation, length: int, budget: Budget, traces: list[Trace]) -> Intent:
        """Search, then imagine once more the part of the answer that will be followed."""
        config, state = self.config, self._state
        assert state is not None
        assert self._episode is not None
        cost = halving_cost(self.world, state, fidelity=self.fidelity, objective=self.objective,
                            max_lanes=config.max_lanes, rungs=self._rungs, watch=traces.append,
                            report=self._halvings.append)
        settings = Settings(
            low=self._low, high=self._high, rng=np.random.default_rng([config.seed, self._episode.number, self._tick]),
            rounds=config.rounds, candidates=config.candidates, budget=budget,
            knots=min(config.knots or length, length), reserve_ms=self._imagining_ms,
        )
        if self._propose is not None:
            settings["proposals"] = self._propose(state, observation, length, self._episode)
        mean = self._warm_start(observation, length)
        std = np.broadcast_to(config.std_fraction * (self._high - self._low), mean.shape)
        plan = plan_with(config.planner, cost, mean, std, elites=config.elites, **settings)
        followed = plan.actions[: config.replan_every]
        if self.fidelity is None:
            return Intent(plan, len(followed), None)
        began_ms = budget.elapsed_ms
        _, imagined, trace = self.world.advance(state, followed[None], self.fidelity)
        traces.append(trace)
        self._imagining_ms = budget.elapsed_ms - began_ms
        return Intent(plan, len(followed), imagined[0])

    def _warm_start(self, observation: Observation, length: int) -> np.ndarray:
        """What is left of the last plan, its last action held for as long as is missing: `[length, A]`."""
        if self._intent is not None:
            rest = self._intent.plan.actions[min(self._age, len(self._intent.plan.actions) - 1) :]
        elif self._hold is not None:
            rest = np.asarray(self._hold(observation))[None]
        else:
            rest = (self._low + self._high)[None] / 2
        return np.asarray(rest[np.minimum(np.arange(length), len(rest) - 1)])


def _known(value: float | np.floating) -> float | None:
    """None for a number that was not computed."""
    return float(value) if np.isfinite(value) else None


def _average(values: list[float]) -> float | None:
    """The mean of what is known."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None
