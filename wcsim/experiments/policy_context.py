"""What a policy is built from, and what all configurations of policies share.

Easy to get wrong: a world is loaded when a policy asks for it, so that a policy that needs none costs none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import getmodule, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from wcsim.agents.policies import Hold, Observation, Observations, Policy
from wcsim.config import StrictConfig
from wcsim.envs.observations import observations, robot_state
from wcsim.errors import ConfigError
from wcsim.registry import attribute

if TYPE_CHECKING:
    from wcsim.envs.tasks import Task
    from wcsim.types import WorldSpec
    from wcsim.world.world import World


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What a policy acts on.  world: loads the world in which planners plan; None: there is none.  num_lanes: N."""

    task: Task
    world: Callable[[], World] | None
    num_lanes: int

    def need_world(self, name: str) -> World:
        """The world; ConfigError where there is none for the policy `name`."""
        if self.world is None:
            raise ConfigError(f"policy {name!r} plans inside a world, and there is none here")
        return self.world()


class PolicySettings(StrictConfig):
    """What every kind of policy has.  Each also has its `kind`."""

    name: str = Field(min_length=1)
    """In tables and figures; left out, its kind."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {"name": given.get("kind", cls.model_fields["kind"].default), **given}

    def build(self, context: PolicyContext) -> Policy:
        """The policy.  ConfigError where the task or the world do not allow it."""
        raise NotImplementedError

    def check(self, task: Task, spec: WorldSpec) -> None:
        """ConfigError for what can be known to be wrong before anything is loaded."""


def source_files(function: str, options: Mapping[str, Any], *, what: str) -> dict[str, Path]:
    """The module that defines `module:name`, and every option that names a file, or a folder by a path with a
    separator: what a policy from elsewhere depends on, as far as it is known.  `what` begins errors."""
    module = getmodule(attribute(function, what=what))
    source = None if module is None else getattr(module, "__file__", None)
    found = {} if source is None else {"function": Path(source)}
    for option, value in options.items():
        if isinstance(value, str) and (Path(value).is_file() or (os.sep in value and Path(value).is_dir())):
            found[f"options.{option}"] = Path(value)
    return found


def frame_of(task: Task) -> Callable[[Observation], np.ndarray]:
    """An observation to the mosaic `[H, W, 3]` of all cameras of a task."""
    return lambda observation: task.cameras.join(observation["pixels"])


def hold_of(task: Task, *, rounded: bool = False) -> Hold:
    """What holds the robot where it is, by the task's own word.  rounded: to float32, as actions have it in the
    environment's space."""
    frame = frame_of(task)

    def hold(observation: Observation) -> np.ndarray:
        action = np.asarray(task.hold_action(frame(observation)), np.float64)
        return action.astype(np.float32).astype(np.float64) if rounded else action

    return hold


def observe_of(task: Task) -> Callable[[np.ndarray, Observations], Observations]:
    """Imagined frames to what policies see, given what they saw before (`wcsim.agents.proposals`)."""

    def observe(frames: np.ndarray, before: Observations) -> Observations:
        estimate = task.estimate(frames)
        robot = robot_state(task.state, estimate, before["agent_pos"])
        return observations(task, frames, robot, estimate, instructions=before.get("task"))

    return observe


def called(make: Callable[..., Any], *arguments: Any, what: str, options: Mapping[str, Any]) -> Any:
    """What `make` returns for these.  ConfigError, which begins with `what`, where it does not take them."""
    try:
        signature(make).bind(*arguments, **options)
    except ValueError:  # some functions written in C do not say what they take
        pass
    except TypeError as error:
        first = "a PolicyContext and " if arguments else ""
        raise ConfigError(f"{what} is called with {first}options {dict(options)}: {error}") from error
    return make(*arguments, **options)
