"""Who acts, as configuration: a planner with its objective, or a policy."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from wcsim.agents.expert import PushExpert
from wcsim.agents.halving import Screen
from wcsim.agents.mpc import MPCAgent, MPCConfig
from wcsim.agents.objectives import Judged, LatentGoal, Objective
from wcsim.agents.policies import NoisyPolicy, Observation, RandomPolicy
from wcsim.agents.proposals import ImaginedPolicies
from wcsim.cache.fidelity import FidelityConfig
from wcsim.config import StrictConfig
from wcsim.envs.footage import Footage
from wcsim.envs.tasks import Task
from wcsim.errors import ConfigError
from wcsim.types import Fidelity
from wcsim.world.world import World


class JudgedConfig(StrictConfig):
    """See `wcsim.agents.objectives.Judged`."""

    kind: Literal["judged"] = "judged"
    every: int = Field(2, ge=1)
    discount: float = Field(0.5, ge=0, le=1)
    angle_px: float = Field(60.0, ge=0)
    approach: float = Field(0.1, ge=0)
    coverage_px: float = Field(50.0, ge=0)
    reach: float = Field(0.0, ge=0)
    """Weight of the agent's way to its own goal, where the task gives it one (`wcsim.experiments.goal_task`)."""

    def build(self, world: World, task: Task) -> Objective:
        """The objective for a task."""
        agent_goal, judge = getattr(task, "agent_goal", None), getattr(task, "judge_quantities", None)
        return Judged(task.judge, task.goal, agent_goal=agent_goal, judge_quantities=judge,
                      **self.model_dump(exclude={"kind"}))


class LatentGoalConfig(StrictConfig):
    """See `wcsim.agents.objectives.LatentGoal`."""

    kind: Literal["latent_goal"] = "latent_goal"
    discount: float = Field(0.0, ge=0, le=1)

    def build(self, world: World, task: Task) -> Objective:
        """The objective for a task: its goal frame, encoded."""
        return LatentGoal(world.encode(task.goal_frame()[None])[0], self.discount)


class ScreenConfig(StrictConfig):
    """See `wcsim.agents.halving.Screen`."""

    fidelity: FidelityConfig | None = None
    """None: foretold by the world's dynamics alone."""
    survivors: int = Field(8, ge=0)
    ticks: int | None = Field(None, ge=1)

    def build(self, world: World) -> Screen:
        """The screen for a world."""
        return Screen(None if self.fidelity is None else self.fidelity.build(world.spec), self.survivors, self.ticks)


class MPCAgentConfig(MPCConfig):
    """A planner inside the world, at a fidelity of its own."""

    kind: Literal["mpc"] = "mpc"
    fidelity: FidelityConfig | None = FidelityConfig(steps=4)
    """null plans on what the world's dynamics foretell, and pictures nothing."""
    objective: Annotated[JudgedConfig | LatentGoalConfig, Field(discriminator="kind")] = JudgedConfig()
    screens: tuple[ScreenConfig, ...] = ()
    """Cheaper looks at all candidates, each at the survivors of the one before; the last ones' are imagined at
    `fidelity`."""
    proposals: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Noise, in the action's units, of scripted experts whose imagined actions join the first round."""

    def build(self, world: World, task: Task) -> MPCAgent:
        """The agent."""
        settings = MPCConfig.model_validate(self.model_dump(include=set(MPCConfig.model_fields)))
        fidelity = None if self.fidelity is None else self.fidelity.build(world.spec)
        screens = [screen.build(world) for screen in self.screens]
        pictured = [screen.fidelity for screen in screens if screen.fidelity is not None]
        return MPCAgent(
            world, self.objective.build(world, task), settings, fidelity=fidelity, judge=task.judge, stay=task.stay,
            screens=screens, propose=self._ideas(world, task, pictured[0] if pictured else fidelity),
        )

    def _ideas(self, world: World, task: Task, fidelity: Fidelity | None) -> ImaginedPolicies | None:
        """The experts of `proposals`, imagined at a fidelity."""
        if not self.proposals:
            return None
        if fidelity is None:
            raise ConfigError("agent.proposals are played in pictures; give agent.fidelity instead of null")
        experts = [NoisyPolicy(PushExpert(task.goal), task.action, std=std, seed=i)
                   for i, std in enumerate(self.proposals)]
        return ImaginedPolicies(world, experts, task.judge, fidelity)


class RandomAgentConfig(StrictConfig):
    """Uniform actions, each held for some ticks."""

    kind: Literal["random"] = "random"
    hold: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)

    def build(self, world: World, task: Task) -> RandomPolicy:
        """The policy."""
        return RandomPolicy(world.spec.action, hold=self.hold, seed=self.seed)


class RecordedAgentConfig(StrictConfig):
    """The actions that were recorded with the footage."""

    kind: Literal["recorded"] = "recorded"

    def build(self, world: World, task: Task) -> RecordedPolicy:
        """The policy; ConfigError for a task without recordings."""
        if not isinstance(task, Footage):
            raise ConfigError(f"agent.kind recorded needs the task 'footage', given {task.name!r}")
        return RecordedPolicy(task)


class RecordedPolicy:
    """Plays the actions of the recording whose first frame it is shown."""

    def __init__(self, footage: Footage) -> None:
        self._footage = footage

    def reset(self, observation: Observation, *, episode: int = 0) -> None:
        """Find the recording."""
        self._actions = iter(self._footage.recording(self._footage.recording_of(observation["pixels"]))[1])

    def act(self, observation: Observation) -> np.ndarray:
        """Its next action `[A]`; ConfigError after the last."""
        for action in self._actions:
            return np.asarray(action)
        raise ConfigError("the recording has no more actions; ask for fewer max_steps")


AgentConfig = Annotated[MPCAgentConfig | RandomAgentConfig | RecordedAgentConfig, Field(discriminator="kind")]
