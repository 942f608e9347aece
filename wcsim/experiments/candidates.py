"""The policies under evaluation, as configuration: each builds one policy per lane."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from wcsim.agents.adapters import ChunkedPolicy, lerobot_policy
from wcsim.agents.expert import PushConfig, PushExpert
from wcsim.agents.learned import LearnedPolicy, find_policy, load_policy
from wcsim.agents.policies import NoisyPolicy, Policy, RandomPolicy, ReplayPolicy, StillPolicy
from wcsim.agents.remote import MAX_MB, MAX_TIMEOUT_S, PUSHT_NAMES, RemoteSource
from wcsim.config import StrictConfig
from wcsim.envs.tasks import Task
from wcsim.errors import ConfigError


class Candidate(StrictConfig):
    """name: in tables and figures; unlike that of any other."""

    name: str = Field(min_length=1)


class ExpertCandidate(Candidate):
    """The scripted expert, as skilled as `noise_px` and `lapse` leave it; see `NoisyPolicy`."""

    kind: Literal["expert"] = "expert"
    noise_px: float = Field(0.0, ge=0)
    memory: float = Field(0.7, ge=0, lt=1)
    lapse: float = Field(0.0, ge=0, le=1)
    speed_px: float = Field(40.0, gt=0)
    seed: int = Field(0, ge=0)

    def build(self, task: Task) -> Policy:
        """It reads poses from the observation, or judges them itself."""
        expert = PushExpert(task.goal, config=PushConfig(speed_px=self.speed_px), estimator=task.judge)
        return NoisyPolicy(expert, task.action, std=self.noise_px, memory=self.memory, lapse=self.lapse, seed=self.seed)


class RandomCandidate(Candidate):
    """Uniform actions, each held for some ticks."""

    kind: Literal["random"] = "random"
    hold: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)

    def build(self, task: Task) -> Policy:
        """The policy."""
        return RandomPolicy(task.action, hold=self.hold, seed=self.seed)


class StillCandidate(Candidate):
    """Stays where it is."""

    kind: Literal["still"] = "still"

    def build(self, task: Task) -> Policy:
        """The policy."""
        return StillPolicy()


class ReplayCandidate(Candidate):
    """Plays `actions` `[T, A]` of an .npy file."""

    kind: Literal["replay"] = "replay"
    path: str

    def files(self) -> dict[str, Path]:
        """The actions."""
        return {"path": Path(self.path)}

    def build(self, task: Task) -> Policy:
        """The policy."""
        try:
            return ReplayPolicy(np.load(self.path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise ConfigError(f"policy {self.name!r} cannot read actions from {self.path!r}: {error}") from error


class LearnedCandidate(Candidate):
    """A policy that was trained by `scripts/train_policy.py`: the name of a shipped one, or a file."""

    kind: Literal["learned"] = "learned"
    policy: str
    execute: int = Field(2, ge=1)
    seed: int = Field(0, ge=0)

    def files(self) -> dict[str, Path]:
        """Settings and weights."""
        return {"policy": find_policy(self.policy)}

    def build(self, task: Task) -> Policy:
        """The policy."""
        return LearnedPolicy(load_policy(self.policy), task.action, execute=self.execute, seed=self.seed)


class LeRobotCandidate(Candidate):
    """A LeRobot policy directory; needs the package lerobot.  Every lane loads its own copy."""

    kind: Literal["lerobot"] = "lerobot"
    path: str
    device: str = "cpu"

    def files(self) -> dict[str, Path]:
        """The whole directory."""
        return {"path": Path(self.path)}

    def build(self, task: Task) -> Policy:
        """The policy."""
        return lerobot_policy(self.path, task.action, device=self.device)


class RemoteCandidate(Candidate):
    """A policy behind an openpi server; needs the extra openpi.  Every lane opens its own connection.

    key: an API key; `env:NAME` reads it from an environment variable, so that no run directory holds it.  timeout_s:
    to connect, to send, and for every answer.  max_message_mb: most MiB of an answer.
    """

    kind: Literal["remote"] = "remote"
    address: str
    names: dict[str, str] = Field(default_factory=lambda: dict(PUSHT_NAMES))
    """The server's name for an input to the observation's: pixels, agent_pos, block_pose."""
    prompt: str | None = None
    key: str | None = Field(None, min_length=1, repr=False)
    timeout_s: float = Field(60.0, gt=0, le=MAX_TIMEOUT_S)
    max_message_mb: float = Field(64.0, gt=0, le=MAX_MB)
    units: Literal["native", "unit"] = "native"
    delta: bool = False
    execute: int | None = Field(None, ge=1)

    def build(self, task: Task) -> Policy:
        """The policy."""
        source = RemoteSource(self.address, names=self.names, prompt=self.prompt, key=self.key,
                              timeout_s=self.timeout_s, max_message_mb=self.max_message_mb)
        return ChunkedPolicy(source, task.action, units=self.units, delta=self.delta, execute=self.execute)


class FunctionCandidate(Candidate):
    """Your own: `function` is `module:name` of a callable that, called with `options`, makes a `Source`
    (`wcsim.agents.adapters`): a function of an observation that returns an action or a chunk."""

    kind: Literal["function"] = "function"
    function: str
    options: dict[str, Any] = Field(default_factory=dict)
    units: Literal["native", "unit"] = "native"
    delta: bool = False
    execute: int | None = Field(None, ge=1)

    def files(self) -> dict[str, Path]:
        """The module that defines it, and every option that names a file, or a folder by a path with a separator."""
        source = self._module().__file__
        found = {} if source is None else {"function": Path(source)}
        for option, value in self.options.items():
            if isinstance(value, str) and (Path(value).is_file() or (os.sep in value and Path(value).is_dir())):
                found[f"options.{option}"] = Path(value)
        return found

    def build(self, task: Task) -> Policy:
        """The policy."""
        make = getattr(self._module(), self.function.partition(":")[2])
        return ChunkedPolicy(make(**self.options), task.action, units=self.units, delta=self.delta,
                             execute=self.execute)

    def _module(self) -> ModuleType:
        """The module, which has the function."""
        module, _, name = self.function.partition(":")
        try:
            found = import_module(module)
            getattr(found, name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"policy {self.name!r} has no function {self.function!r}: {error}") from error
        return found


AnyCandidate = Annotated[
    ExpertCandidate | RandomCandidate | StillCandidate | ReplayCandidate | LearnedCandidate | LeRobotCandidate
    | RemoteCandidate | FunctionCandidate,
    Field(discriminator="kind"),
]
