"""A planner as configuration: its objective, its rungs and its fidelity.

Easy to get wrong: an objective is of a goal, and an episode may have one of its own; `aim` makes the objective of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from wcsim.agents.halving import Rung
from wcsim.agents.mpc import MPCAgent, MPCConfig
from wcsim.agents.objectives import LatentGoal, Objective, StateGoal
from wcsim.agents.policies import NoisyPolicy, PerLane
from wcsim.agents.proposals import ImaginedPolicies
from wcsim.cache.fidelity import FidelityConfig
from wcsim.config import StrictConfig
from wcsim.errors import ConfigError
from wcsim.estimate import Goal
from wcsim.experiments.policy_context import (
    PolicyContext,
    PolicySettings,
    frame_of,
    hold_of,
    observe_of,
)
from wcsim.registry import imported
from wcsim.types import Fidelity

if TYPE_CHECKING:
    from wcsim.agents.policies import LanePolicy
    from wcsim.envs.tasks import Task
    from wcsim.types import WorldSpec
    from wcsim.world.world import World


class StateGoalConfig(StrictConfig):
    """See `wcsim.agents.objectives.StateGoal`."""

    renamed: ClassVar[Mapping[str, str]] = {"coverage_px": "progress_weight", "angle_px": "weights, by quantity"}
    kind: Literal["state_goal"] = "state_goal"
    every: int = Field(2, ge=1)
    discount: float = Field(0.5, ge=0, le=1)
    approach: float = Field(0.1, ge=0)
    progress_weight: float = Field(50.0, ge=0)
    reach: float = Field(0.0, ge=0)
    """Weight of the robot's way to its own place in the goal, where the goal has one."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Quantity to its weight, instead of that of the task's state."""

    def build(self, world: World, task: Task, goal: Goal | None = None) -> Objective:
        """The objective for a goal; None: the task's own.  ConfigError where there is none."""
        goal = task.goal if goal is None else goal
        if goal is None or not goal.values:
            raise ConfigError(f"the objective state_goal needs a goal, and task {task.name!r} has none")
        return StateGoal(task, goal, **self.model_dump(exclude={"kind"}))


class LatentGoalConfig(StrictConfig):
    """See `wcsim.agents.objectives.LatentGoal`."""

    kind: Literal["latent_goal"] = "latent_goal"
    discount: float = Field(0.0, ge=0, le=1)

    def build(self, world: World, task: Task, goal: Goal | None = None) -> Objective:
        """The objective for a goal; None: the task's own.  ConfigError where there is no frame of it."""
        if goal is None or (goal.frame is None and goal is task.goal):
            frame = task.goal_frame()
        elif goal.frame is None:
            raise ConfigError("the objective latent_goal needs a frame of the goal, and this goal has none")
        else:
            frame = goal.frame
        return LatentGoal(world.encode(frame[None])[0], self.discount)


def _refuse_judged(given: Any) -> Any:
    if isinstance(given, dict) and given.get("kind") == "judged":
        raise ConfigError("objective.kind 'judged' is now called state_goal")
    return given


class RungConfig(StrictConfig):
    """See `wcsim.agents.halving.Rung`."""

    fidelity: FidelityConfig | None = None
    """None: predicted by the world's state model alone."""
    survivors: int = Field(8, ge=0)
    ticks: int | None = Field(None, ge=1)

    def build(self, world: World) -> Rung:
        """The rung for a world."""
        return Rung(None if self.fidelity is None else self.fidelity.build(world.spec), self.survivors, self.ticks)


class MPCPolicyConfig(PolicySettings, MPCConfig):
    """A planner inside the world, at a fidelity of its own; one per lane."""

    renamed: ClassVar[Mapping[str, str]] = {**MPCConfig.renamed, "screens": "rungs"}
    kind: Literal["mpc"] = "mpc"
    fidelity: FidelityConfig | None = FidelityConfig(steps=4)
    """null plans on what the world's state model predicts, and renders nothing."""
    objective: Annotated[StateGoalConfig | LatentGoalConfig, Field(discriminator="kind")] = StateGoalConfig()
    rungs: tuple[RungConfig, ...] = ()
    """Successive halving: each rung scores what the one before let through; the last ones' survivors are imagined at
    `fidelity`."""
    proposals: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Noise, in the action's units, of scripted experts whose imagined actions join the first round."""

    @model_validator(mode="before")
    @classmethod
    def _old(cls, given: Any) -> Any:
        if isinstance(given, dict):
            _refuse_judged(given.get("objective"))
        return given

    def check(self, task: Task, spec: WorldSpec) -> None:
        """See `PolicySettings`."""
        for fidelity in (self.fidelity, *(rung.fidelity for rung in self.rungs)):
            if fidelity is not None:
                fidelity.build(spec)
        if self.proposals:
            expert_of(task)

    def build(self, context: PolicyContext) -> PerLane:
        """The planners; ConfigError without a world."""
        world = context.need_world(self.name)
        return PerLane([self.agent(world, context.task) for _ in range(context.num_lanes)])

    def agent(self, world: World, task: Task) -> MPCAgent:
        """The planner of one lane."""
        settings = MPCConfig.model_validate(self.model_dump(include=set(MPCConfig.model_fields)))
        fidelity = None if self.fidelity is None else self.fidelity.build(world.spec)
        rungs = [rung.build(world) for rung in self.rungs]
        rendered = [rung.fidelity for rung in rungs if rung.fidelity is not None]
        return MPCAgent(
            world, None, settings, fidelity=fidelity, aim=self.aim(world, task), estimator=task, hold=hold_of(task),
            rungs=rungs, propose=self._ideas(world, task, rendered[0] if rendered else fidelity),
            frame_of=frame_of(task),
        )

    def aim(self, world: World, task: Task) -> Callable[[Goal | None], Objective]:
        """What makes the objective of an episode's goal."""
        return lambda goal: self.objective.build(world, task, goal)

    def _ideas(self, world: World, task: Task, fidelity: Fidelity | None) -> ImaginedPolicies | None:
        """The experts of `proposals`, imagined at a fidelity."""
        if not self.proposals:
            return None
        if fidelity is None:
            raise ConfigError("proposals are played in rendered frames; give a fidelity instead of null")
        experts = [NoisyPolicy(expert_of(task), task.action, std=std, seed=i) for i, std in enumerate(self.proposals)]
        return ImaginedPolicies(world, experts, observe_of(task), fidelity, frame_of=frame_of(task))


def expert_of(task: Task, **options: Any) -> LanePolicy:
    """The scripted expert that a task names.  ConfigError where it names none, or the options are not the expert's."""
    if task.expert is None:
        raise ConfigError(f"task {task.name!r} has no scripted expert")
    make = imported(task.expert, what=f"the expert of task {task.name!r}")
    try:
        policy: LanePolicy = make(task, **options)
    except TypeError as error:
        raise ConfigError(f"the expert of task {task.name!r}: {error}") from error
    return policy
