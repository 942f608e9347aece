"""LeRobot policies over many lanes: one model, one call.

LeRobot's policies keep queues of observations and actions of a whole batch in themselves, and forget all of them
together.  Easy to get wrong: lanes whose episodes began at different times therefore need what the policy remembered
of each, which is put aside and back here; and a policy that draws (diffusion, flow) draws for its whole batch at once,
here as for each lane alone (`lane_draws`).
Shapes: n lanes of a group, N all lanes, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wcsim.agents.adapters import part
from wcsim.agents.policies import Observations, active_of, masked, stack
from wcsim.agents.randomness import seeded, seeded_lanes
from wcsim.errors import ActionError, ConfigError
from wcsim.estimate import Episode

if TYPE_CHECKING:
    from wcsim.agents.reports import ActReport
    from wcsim.types import ActionSpec

CONVENTION = {"pixels": "observation.image", "agent_pos": "observation.state",
              "environment_state": "observation.environment_state", "task": "task"}
"""Entries of an observation, and what LeRobot calls them; its name for one of several cameras is
`observation.images.NAME`."""


class Selecting(Protocol):
    """What is used of a LeRobot policy."""

    def reset(self) -> None: ...

    def select_action(self, batch: dict[str, Any]) -> Any: ...


class LeRobotSource:
    """A LeRobot policy's `select_action` on observations of n lanes.

    Everything in an observation goes along: images as float32 `[n, C, H, W]` in [0, 1], numbers as float32 `[n, k]`,
    texts as lists.  names: LeRobot's input to the observation's entry (`pixels/front` for one of several cameras),
    where that is not by `CONVENTION`.  before, after: its processors, which normalise and undo that (lerobot >= 0.4
    keeps them beside the weights).
    """

    def __init__(
        self, policy: Selecting, *, names: Mapping[str, str] | None = None,
        before: Callable[[Any], Any] = lambda batch: batch, after: Callable[[Any], Any] = lambda action: action,
        device: str = "cpu",
    ) -> None:
        self.policy, self._names, self._before, self._after, self._device = policy, names or {}, before, after, device

    def __call__(self, observations: Observations) -> np.ndarray:
        """Its actions `[n, A]`, in its own units."""
        import torch

        batch = {name: self._tensor(part(observations, key)) for name, key in self.inputs(observations).items()}
        self._check(batch)
        with torch.inference_mode():
            action = self._after(self.policy.select_action(self._before(batch)))
        return np.asarray(action.cpu().numpy(), np.float64)

    def inputs(self, observations: Observations) -> dict[str, str]:
        """LeRobot's inputs to entries of the observations: all of them, by convention or as `names` says."""
        told = set(self._names.values())
        return {name: key for name, key in conventional(observations).items() if key not in told} | dict(self._names)

    def _tensor(self, value: Any) -> Any:
        """An entry as LeRobot takes it; texts as they are."""
        import torch

        if not isinstance(value, np.ndarray):
            return list(value)
        tensor = torch.from_numpy(np.ascontiguousarray(value)).to(self._device)
        return tensor.permute(0, 3, 1, 2).float() / 255 if tensor.ndim == 4 else tensor.float()

    def _check(self, batch: Mapping[str, Any]) -> None:
        """ConfigError where the policy's configuration names inputs that the batch lacks."""
        wanted = getattr(getattr(self.policy, "config", None), "input_features", None) or {}
        if missing := [name for name in wanted if name not in batch]:
            raise ConfigError(f"the LeRobot policy reads {', '.join(missing)}; the observation offers "
                              f"{', '.join(batch)}; rename by names: {{{missing[0]}: KEY}}")

    def remember(self) -> dict[str, Any]:
        """A copy of what the policy keeps from step to step: its attributes, networks and settings apart."""
        from torch import nn

        own = vars(nn.Module())
        return deepcopy({name: value for name, value in vars(self.policy).items()
                         if name not in own and name != "config" and not isinstance(value, nn.Module)})

    def restore(self, remembered: Mapping[str, Any]) -> None:
        """Put back what `remember` copied."""
        for name, value in remembered.items():
            setattr(self.policy, name, value)


def conventional(observations: Observations) -> dict[str, str]:
    """LeRobot's own names for all entries of an observation, each to the entry."""
    named: dict[str, str] = {}
    for key, value in observations.items():
        if isinstance(value, Mapping):
            named |= {f"observation.images.{camera}": f"{key}/{camera}" for camera in value}
        elif key != "active":
            named[CONVENTION.get(key, f"observation.{key}")] = key
    return named


@dataclass(slots=True, eq=False)
class Group:
    """Lanes whose episodes began together.  going: those of them that have not begun another since.  remembered: what
    the policy knows of them while it serves others."""

    lanes: list[int]
    numbers: list[int]
    going: set[int]
    step: int = 0
    remembered: dict[str, Any] = field(default_factory=dict)


class LeRobotPolicy:
    """A `Policy` of one LeRobot policy.

    together: lanes whose episodes began together share one call, and what torch draws in it belongs to each lane alone;
    without, everything does, whatever draws.  A lane that is not active any more stays in its group's call, as the
    queues need; what it then shows changes no other lane.  seed: numbers the draws, with episodes and step.
    """

    def __init__(
        self, source: LeRobotSource, action: ActionSpec, num_lanes: int, *, together: bool = True, seed: int = 0
    ) -> None:
        self._source, self._dim, self._lanes, self._together = source, action.dim, num_lanes, together
        self._seed, self._groups = seed, list[Group]()
        self._served: Group | None = None
        self.reports: Sequence[ActReport | None] = [None] * num_lanes

    def reset(self, mask: np.ndarray, episodes: Sequence[Episode]) -> None:
        """See `Policy`."""
        lanes = masked(mask, episodes, self._lanes)
        for group in self._groups:
            group.going -= set(lanes)
        self._groups = [group for group in self._groups if group.going]
        for members in [lanes] if self._together and lanes else [[lane] for lane in lanes]:
            group = Group(members, [episodes[lane].number for lane in members], set(members))
            self._serve(group)
            with seeded(self._seed, *group.numbers):
                self._source.policy.reset()
            self._groups.append(group)

    def act(self, observations: Observations, steps_left: int | None = None) -> np.ndarray:
        """See `Policy`."""
        active = active_of(observations, self._lanes)
        rows: dict[int, np.ndarray] = {}
        for group in self._groups:
            acting = [lane for lane in group.lanes if lane in group.going and active[lane]]
            if acting:
                actions = self._ask(group, observations)
                rows |= {lane: actions[group.lanes.index(lane)] for lane in acting}
        if missing := set(np.flatnonzero(active).tolist()) - set(rows):
            raise ConfigError(f"no episode has begun in lanes {sorted(missing)}; call reset() before act()")
        return stack(rows, self._lanes)

    def _ask(self, group: Group, observations: Observations) -> np.ndarray:
        """Actions `[n, A]` of a group."""
        self._serve(group)
        with seeded_lanes(self._seed, [(number, group.step) for number in group.numbers]):
            actions = self._source(rows_of(observations, group.lanes))
        group.step += 1
        if actions.shape != (len(group.lanes), self._dim) or not np.isfinite(actions).all():
            raise ActionError(f"a LeRobot policy must return finite [{len(group.lanes)}, {self._dim}], got "
                              f"{list(actions.shape)}")
        return actions

    def _serve(self, group: Group) -> None:
        """Have the policy remember this group."""
        if self._served is group:
            return
        if self._served in self._groups:
            assert self._served is not None
            self._served.remembered = self._source.remember()
        self._source.restore(group.remembered)
        self._served, group.remembered = group, {}


def rows_of(observations: Observations, lanes: Sequence[int]) -> dict[str, Any]:
    """The observations of some lanes."""
    def rows(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: rows(view) for name, view in value.items()}
        return value[list(lanes)] if isinstance(value, np.ndarray) else [value[lane] for lane in lanes]

    return {key: rows(value) for key, value in observations.items() if key != "active"}


def load_lerobot(
    folder: str | Path, *, names: Mapping[str, str] | None = None, device: str = "cpu"
) -> LeRobotSource:
    """A LeRobot policy directory.  ConfigError where the folder is none or lerobot is not installed."""
    if not (Path(folder) / "config.json").is_file():
        raise ConfigError(f"{folder} is not a LeRobot policy: it has no config.json")
    try:
        configs, factory = import_module("lerobot.configs.policies"), import_module("lerobot.policies.factory")
    except ImportError as error:
        raise ConfigError(f"a LeRobot policy needs the package lerobot (0.4 or newer): {error}") from error
    config = configs.PreTrainedConfig.from_pretrained(str(folder))
    config.device = device
    policy = factory.get_policy_class(config.type).from_pretrained(str(folder), config=config).eval()
    before, after = factory.make_pre_post_processors(
        config, pretrained_path=str(folder), preprocessor_overrides={"device_processor": {"device": device}})
    return LeRobotSource(policy, names=names, before=before, after=after, device=device)
