"""Policies and planners that may take over from a person: what fits the served task, or what the server was given.

Easy to get wrong: a client says a name and nothing else; what a name means was settled when the server started.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from wcsim.agents.learned import shipped_policies
from wcsim.agents.policies import Policy
from wcsim.config import StrictConfig, read_yaml, validate
from wcsim.envs.observations import observations
from wcsim.envs.tasks import Task
from wcsim.errors import ConfigError, RemoteError, WcsimError
from wcsim.estimate import Episode
from wcsim.experiments.policies import PolicyConfig, PolicyContext
from wcsim.rollout.engine import within
from wcsim.world.world import World


class _Listed(StrictConfig):
    policies: tuple[PolicyConfig, ...] = Field(min_length=1)


def drivers_in(name: str) -> tuple[PolicyConfig, ...]:
    """The `policies` of a configuration, a path or a packaged one; ConfigError where it has none."""
    given = read_yaml(name)
    if "policies" not in given:
        raise ConfigError(f"config {name!r} lists no policies")
    return validate(_Listed, {"policies": given["policies"]}).policies


def usual(task: Task, world: World) -> list[dict[str, Any]]:
    """What is offered where the server was given nothing; not all of it need fit."""
    predicted = world.state_model is not None
    planner = {"horizon": 8, "rounds": 3, "candidates": 128 if predicted else 24, "elites": 16 if predicted else 6,
               "knots": 4, "fidelity": None if predicted else {"steps": 4}}
    learned = [{"kind": "learned", "name": name, "policy": name} for name in shipped_policies()]
    expert = [{"kind": "expert"}] if task.expert is not None else []
    return [*expert, *learned, {"kind": "mpc", "name": "planner", **planner}, {"kind": "random"}, {"kind": "hold"}]


class Drivers:
    """By name.  given: None offers what is usual and fits; else every one must fit, or it is a ConfigError."""

    def __init__(self, task: Task, world: World, given: Sequence[PolicyConfig] | None) -> None:
        self._context = PolicyContext(task, lambda: world, 1)
        offered = given
        if offered is None:
            offered = validate(_Listed, {"policies": usual(task, world)}).policies
        self._makers: dict[str, Callable[[PolicyContext], Policy]] = {}
        for one in offered:
            if one.name in self._makers:
                raise ConfigError(f"two drivers are called {one.name!r}")
            if given is not None or self._fits(one):
                one.check(task, world.spec)
                self._makers[one.name] = one.build

    @property
    def names(self) -> list[str]:
        """All that are offered."""
        return list(self._makers)

    def make(self, name: str, episode: Episode) -> Policy:
        """A policy of one lane, at the start of an episode; RemoteError for an unknown name."""
        if name not in self._makers:
            raise RemoteError(f"driver {name[:40]!r} is unknown; known: {', '.join(self._makers)}")
        policy = self._makers[name](self._context)
        policy.reset(np.ones(1, bool), [episode])
        return policy

    def act(self, policy: Policy, pixels: np.ndarray, robot: np.ndarray, episode: Episode) -> np.ndarray:
        """Its action `[1, A]` float32, within bounds, for a frame `[H, W, 3]` and the robot's state `[R]`."""
        task = self._context.task
        seen = observations(task, pixels[None], robot[None], task.estimate(pixels[None]),
                            instructions=[episode.instruction or task.description])
        return within(task.action, np.asarray(policy.act(seen)))[0].astype(np.float32)

    def _fits(self, one: PolicyConfig) -> bool:
        try:
            one.check(self._context.task, self._context.need_world("").spec)
            one.build(self._context).reset(np.ones(1, bool), [Episode(0, 0, "", self._context.task.goal, None)])
        except WcsimError:
            return False
        return True
