"""Who acts, as configuration: a planner with its objective, or a policy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wcsim.agents.mpc import MPCAgent, MPCConfig
from wcsim.agents.objectives import Judged, LatentGoal, Objective
from wcsim.agents.policies import RandomPolicy
from wcsim.cache.fidelity import FidelityConfig
from wcsim.config import StrictConfig
from wcsim.envs.tasks import Task
from wcsim.world.world import World


class JudgedConfig(StrictConfig):
    """See `wcsim.agents.objectives.Judged`."""

    kind: Literal["judged"] = "judged"
    every: int = Field(2, ge=1)
    discount: float = Field(0.5, ge=0, le=1)
    angle_px: float = Field(60.0, ge=0)
    approach: float = Field(0.1, ge=0)
    coverage_px: float = Field(50.0, ge=0)

    def build(self, world: World, task: Task) -> Objective:
        """The objective for a task."""
        return Judged(task.judge, task.goal, **self.model_dump(exclude={"kind"}))


class LatentGoalConfig(StrictConfig):
    """See `wcsim.agents.objectives.LatentGoal`."""

    kind: Literal["latent_goal"] = "latent_goal"
    discount: float = Field(0.0, ge=0, le=1)

    def build(self, world: World, task: Task) -> Objective:
        """The objective for a task: its goal frame, encoded."""
        return LatentGoal(world.encode(task.goal_frame()[None])[0], self.discount)


class MPCAgentConfig(MPCConfig):
    """A planner inside the world, at a fidelity of its own."""

    kind: Literal["mpc"] = "mpc"
    fidelity: FidelityConfig = FidelityConfig(steps=4)
    objective: Annotated[JudgedConfig | LatentGoalConfig, Field(discriminator="kind")] = JudgedConfig()

    def build(self, world: World, task: Task) -> MPCAgent:
        """The agent."""
        settings = MPCConfig.model_validate(self.model_dump(include=set(MPCConfig.model_fields)))
        return MPCAgent(
            world, self.objective.build(world, task), settings, fidelity=self.fidelity.build(world.spec),
            judge=task.judge, stay=task.stay,
        )


class RandomAgentConfig(StrictConfig):
    """Uniform actions, each held for some ticks."""

    kind: Literal["random"] = "random"
    hold: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)

    def build(self, world: World, task: Task) -> RandomPolicy:
        """The policy."""
        return RandomPolicy(world.spec.action, hold=self.hold, seed=self.seed)


AgentConfig = Annotated[MPCAgentConfig | RandomAgentConfig, Field(discriminator="kind")]
