"""Policies as configuration: the one registry of policies, used by runs, evaluations, goals and budgets alike.

`PolicyConfig` is a union by `kind`; policies from elsewhere are found by the entry point `wcsim.policies`, or as
`{kind: "module:Class", options: {...}}`.  Easy to get wrong: everything that loads or builds third-party code runs with
global random generators of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Discriminator, Field, Tag

from wcsim.agents.adapters import ChunkedPolicy, Source, Units
from wcsim.agents.learned import LearnedPolicy, find_policy, load_policy
from wcsim.agents.lerobot import LeRobotPolicy, load_lerobot
from wcsim.agents.policies import HoldPolicy, LanePolicy, NoisyPolicy, PerLane, Policy, RandomPolicy, ReplayPolicy
from wcsim.agents.randomness import seeded, seeded_policy
from wcsim.agents.remote import DEFAULT_NAMES as OPENPI_NAMES
from wcsim.agents.remote import MAX_MB, MAX_TIMEOUT_S, RemoteSource
from wcsim.errors import ConfigError
from wcsim.experiments.planning import (
    LatentGoalConfig,
    MPCPolicyConfig,
    RungConfig,
    StateGoalConfig,
    expert_of,
)
from wcsim.experiments.policy_context import PolicyContext, PolicySettings, called, hold_of, source_files
from wcsim.registry import Registry, attribute

if TYPE_CHECKING:
    from wcsim.envs.tasks import Task
    from wcsim.types import WorldSpec

__all__ = [
    "ExpertPolicyConfig", "LatentGoalConfig", "MPCPolicyConfig", "PolicyConfig", "PolicyContext", "PolicySettings",
    "RungConfig", "StateGoalConfig", "hold_of",
]

EXTERNAL = Registry("policy", "wcsim.policies", {})
"""Policies that installed packages offer."""


def per_lane(context: PolicyContext, make: Callable[[], LanePolicy]) -> PerLane:
    """One policy per lane."""
    return PerLane([make() for _ in range(context.num_lanes)])


class ExpertPolicyConfig(PolicySettings):
    """The task's scripted expert, as skilled as `noise` and `lapse` leave it; see `NoisyPolicy`."""

    renamed: ClassVar[Mapping[str, str]] = {"noise_px": "noise", "speed_px": "options.speed_px"}
    kind: Literal["expert"] = "expert"
    noise: float = Field(0.0, ge=0)
    """In the units of the action."""
    memory: float = Field(0.7, ge=0, lt=1)
    lapse: float = Field(0.0, ge=0, le=1)
    seed: int = Field(0, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)
    """Of the expert itself."""

    def check(self, task: Task, spec: WorldSpec) -> None:
        """See `PolicySettings`."""
        expert_of(task, **self.options)

    def build(self, context: PolicyContext) -> Policy:
        """One expert per lane; ConfigError where the task has none."""
        task = context.task
        return per_lane(context, lambda: NoisyPolicy(
            expert_of(task, **self.options), task.action, std=self.noise, memory=self.memory, lapse=self.lapse,
            seed=self.seed))


class RandomPolicyConfig(PolicySettings):
    """Uniform actions, each held for some ticks."""

    kind: Literal["random"] = "random"
    hold: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)

    def build(self, context: PolicyContext) -> Policy:
        """The policy."""
        return per_lane(context, lambda: RandomPolicy(context.task.action, hold=self.hold, seed=self.seed))


class HoldPolicyConfig(PolicySettings):
    """Holds the robot where it is first seen, by the task's own `hold_action`."""

    kind: Literal["hold"] = "hold"

    def build(self, context: PolicyContext) -> Policy:
        """The policy."""
        return per_lane(context, lambda: HoldPolicy(hold_of(context.task, rounded=True)))


class ReplayPolicyConfig(PolicySettings):
    """Plays `actions` `[T, A]` of an .npy file."""

    kind: Literal["replay"] = "replay"
    path: str

    def build(self, context: PolicyContext) -> Policy:
        """The policy; ConfigError for a file that cannot be read, ActionError for actions that the task refuses."""
        try:
            actions = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"policy {self.name!r} cannot read actions from {self.path!r}: {error}") from error
        return per_lane(context, lambda: ReplayPolicy(context.task.action, actions))

    def files(self) -> dict[str, Path]:
        """The recording."""
        return {"path": Path(self.path)}


class RecordedPolicyConfig(PolicySettings):
    """Plays what was recorded with each episode: a recording's own actions, or those of its goal's demonstrator."""

    kind: Literal["recorded"] = "recorded"

    def build(self, context: PolicyContext) -> Policy:
        """The policy."""
        return per_lane(context, lambda: ReplayPolicy(context.task.action))


class LearnedPolicyConfig(PolicySettings):
    """A policy that was trained by `scripts/train_policy.py`: the name of a shipped one, or a file."""

    kind: Literal["learned"] = "learned"
    policy: str
    execute: int = Field(2, ge=1)
    seed: int = Field(0, ge=0)

    def build(self, context: PolicyContext) -> Policy:
        """The policy, one network for all lanes."""
        with seeded(self.seed):
            network = load_policy(self.policy)
        return LearnedPolicy(network, context.task.action, context.num_lanes, execute=self.execute, seed=self.seed)

    def files(self) -> dict[str, Path]:
        """Its weights."""
        return {"policy": find_policy(self.policy)}


class LeRobotPolicyConfig(PolicySettings):
    """A LeRobot policy directory; needs the package lerobot.  One model for all lanes."""

    kind: Literal["lerobot"] = "lerobot"
    path: str
    names: dict[str, str] = Field(default_factory=dict)
    """LeRobot's name for an input to the observation's (pixels, pixels/camera, agent_pos, environment_state, task),
    where that is not LeRobot's convention."""
    together: bool = True
    """Whether lanes share a call; see `wcsim.agents.lerobot.LeRobotPolicy`."""
    device: str = "cpu"
    seed: int = Field(0, ge=0)

    def build(self, context: PolicyContext) -> Policy:
        """The policy."""
        with seeded(self.seed):
            source = load_lerobot(self.path, names=self.names, device=self.device)
        return LeRobotPolicy(source, context.task.action, context.num_lanes, together=self.together, seed=self.seed)

    def files(self) -> dict[str, Path]:
        """All that lies in its directory."""
        return {"path": Path(self.path)}


class ChunkSettings(PolicySettings):
    """What every policy of chunks has; see `wcsim.agents.adapters.ChunkedPolicy`."""

    units: Units = "native"
    delta: bool = False
    execute: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)

    def chunked(self, context: PolicyContext, make: Callable[[], Callable[..., np.ndarray]]) -> PerLane:
        """One policy per lane, each of a source of its own."""
        task = context.task
        with seeded(self.seed):
            return per_lane(context, lambda: ChunkedPolicy(
                make(), task.action, units=self.units, delta=self.delta, hold=hold_of(task, rounded=True),
                execute=self.execute, seed=self.seed))


class OpenPIPolicyConfig(ChunkSettings):
    """A policy behind an openpi server; needs the extra openpi.  All lanes share one connection."""

    kind: Literal["openpi"] = "openpi"
    address: str
    names: dict[str, str] = Field(default_factory=lambda: dict(OPENPI_NAMES))
    """The server's name for an input to the observation's: pixels, pixels/camera, agent_pos, environment_state."""
    prompt: str | None = None
    """Left out: each episode's instruction."""
    key: str | None = Field(None, min_length=1, repr=False)
    """An API key; `env:NAME` reads it from an environment variable, so that no run directory holds it."""
    timeout_s: float = Field(60.0, gt=0, le=MAX_TIMEOUT_S)
    """To connect, to send, and for every answer."""
    max_message_mb: float = Field(64.0, gt=0, le=MAX_MB)
    """Most MiB of an answer."""

    def build(self, context: PolicyContext) -> Policy:
        """The policy; it connects when it first acts."""
        source = RemoteSource(self.address, names=self.names, prompt=self.prompt, key=self.key,
                              timeout_s=self.timeout_s, max_message_mb=self.max_message_mb)
        return self.chunked(context, lambda: source)


class FunctionPolicyConfig(ChunkSettings):
    """Your own: `function` is `module:name` of a callable that, called with `options` once per lane, makes a `Source`
    (`wcsim.agents.adapters`): a function of an observation that returns an action or a chunk."""

    kind: Literal["function"] = "function"
    function: str
    options: dict[str, Any] = Field(default_factory=dict)

    def files(self) -> dict[str, Path]:
        """The module that defines it, and the options that name files."""
        return source_files(self.function, self.options, what=f"the function of policy {self.name!r}")

    def build(self, context: PolicyContext) -> Policy:
        """The policy."""
        what = f"the function of policy {self.name!r}"
        make = attribute(self.function, what=what)

        def source() -> Source:
            made: Source = called(make, what=what, options=self.options)
            if not callable(made):
                raise ConfigError(f"{what} must return a function of an observation, got {type(made).__name__}; "
                                  f"a class with reset and act is named by kind: {self.function!r}")
            return made

        return self.chunked(context, source)


class ExternalPolicyConfig(PolicySettings):
    """A policy from elsewhere: its class is called with a `PolicyContext` and `options`, and makes a `Policy`."""

    kind: str
    options: dict[str, Any] = Field(default_factory=dict)

    def check(self, task: Task, spec: WorldSpec) -> None:
        """See `PolicySettings`."""
        EXTERNAL.load(self.kind)

    def build(self, context: PolicyContext) -> Policy:
        """The policy."""
        with seeded(0):
            policy: Policy = called(EXTERNAL.load(self.kind), context, what=f"policy {self.name!r}",
                                    options=self.options)
        return seeded_policy(policy, context.num_lanes)


KINDS: dict[str, type[PolicySettings]] = {
    "mpc": MPCPolicyConfig, "expert": ExpertPolicyConfig, "learned": LearnedPolicyConfig,
    "lerobot": LeRobotPolicyConfig, "openpi": OpenPIPolicyConfig, "function": FunctionPolicyConfig,
    "replay": ReplayPolicyConfig, "recorded": RecordedPolicyConfig, "random": RandomPolicyConfig,
    "hold": HoldPolicyConfig,
}
"""What ships, by kind."""

OLD_KINDS = {"still": "hold", "remote": "openpi", "demonstrator": "recorded"}


def _known(given: Any) -> Any:
    """`given` itself; ConfigError where its kind is none that is known."""
    if not isinstance(given, Mapping):
        return given
    kind = given.get("kind")
    if isinstance(kind, str) and kind in OLD_KINDS:
        raise ConfigError(f"policy kind {kind!r} is now called {OLD_KINDS[kind]}")
    if not isinstance(kind, str) or (kind not in KINDS and ":" not in kind and kind not in EXTERNAL.names()):
        raise ConfigError(f"policy kind {kind!r} is unknown; known: {', '.join([*KINDS, *EXTERNAL.names()])}, or "
                          "module:Class")
    return given


def _tag(given: Any) -> str:
    kind = given.get("kind") if isinstance(given, Mapping) else getattr(given, "kind", "")
    return kind if kind in KINDS else "external"


PolicyConfig = Annotated[
    Annotated[MPCPolicyConfig, Tag("mpc")] | Annotated[ExpertPolicyConfig, Tag("expert")]
    | Annotated[LearnedPolicyConfig, Tag("learned")] | Annotated[LeRobotPolicyConfig, Tag("lerobot")]
    | Annotated[OpenPIPolicyConfig, Tag("openpi")] | Annotated[FunctionPolicyConfig, Tag("function")]
    | Annotated[ReplayPolicyConfig, Tag("replay")] | Annotated[RecordedPolicyConfig, Tag("recorded")]
    | Annotated[RandomPolicyConfig, Tag("random")] | Annotated[HoldPolicyConfig, Tag("hold")]
    | Annotated[ExternalPolicyConfig, Tag("external")],
    Discriminator(_tag), BeforeValidator(_known),
]
"""Any of them; `build` makes the policy and `files` says what it reads."""
