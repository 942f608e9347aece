"""Other people's policies behind this project's contract: any callable, Stable-Baselines3, LeRobot.

A source turns an observation into one action or a chunk; `ChunkedPolicy` plays chunks and turns what they say into the
environment's units.  Easy to get wrong: a delta is relative to where the agent is when the chunk is made, and all of a
chunk is, not each action to the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from wcsim.agents.policies import Observation
from wcsim.errors import ActionError, ConfigError

if TYPE_CHECKING:
    from wcsim.types import ActionSpec

Source = Callable[[Observation], np.ndarray]
"""An observation to an action `[A]` or a chunk `[k, A]`, in the source's own units."""

Units = Literal["native", "unit"]
"""The environment's units, or [-1, 1] for low to high."""


class ChunkedPolicy:
    """Plays what `source` says.

    units, delta: what its numbers mean; a delta is added to `agent_pos` as the source saw it, and in `unit` one is half
    the action range.  execute: actions of a chunk to play before asking again (None: all).  restart: told of every
    reset.  Actions beyond the bounds of `action` are clipped where `clip`, else refused (ActionError).
    """

    def __init__(
        self, source: Source, action: ActionSpec, *, units: Units = "native", delta: bool = False,
        execute: int | None = None, clip: bool = True, restart: Callable[[], object] = lambda: None,
    ) -> None:
        if units not in ("native", "unit"):
            raise ConfigError(f"units {units!r} are unknown; known: native, unit")
        if execute is not None and execute < 1:
            raise ConfigError(f"execute must be 1 or more actions, got {execute}")
        self._source, self._restart, self._delta, self._clip, self._execute = source, restart, delta, clip, execute
        self._low, self._high = np.asarray(action.low, np.float64), np.asarray(action.high, np.float64)
        self._unit = units == "unit"
        self._queue: list[np.ndarray] = []

    def reset(self, observation: Observation, *, episode: int = 0) -> None:
        """Drop what is left of the last chunk."""
        self._queue = []
        self._restart()

    def act(self, observation: Observation) -> np.ndarray:
        """The next action `[A]`, asking the source where its chunk has been played."""
        if not self._queue:
            self._queue = list(self.chunk(observation)[: self._execute])
        return np.array(self._queue.pop(0))

    def chunk(self, observation: Observation) -> np.ndarray:
        """What the source says now, `[k, A]` in the environment's units."""
        said = np.asarray(self._source(observation), dtype=np.float64)
        chunk = said[None] if said.ndim == 1 else said
        if chunk.ndim != 2 or chunk.shape[1] != len(self._low) or len(chunk) < 1 or not np.isfinite(chunk).all():
            raise ActionError(f"a policy must return finite [{len(self._low)}] or [k >= 1, {len(self._low)}], got "
                              f"{list(said.shape)}{'' if np.isfinite(said).all() else ' with NaN or infinity'}")
        half = (self._high - self._low) / 2
        if self._unit:
            chunk = chunk * half + (0.0 if self._delta else self._low + half)
        if self._delta:
            chunk = chunk + np.asarray(observation["agent_pos"], np.float64)
        inside = np.clip(chunk, self._low, self._high)
        if not self._clip and not np.array_equal(inside, chunk):
            raise ActionError(f"a policy left the bounds {self._low.tolist()} to {self._high.tolist()}: {chunk[0]}")
        return inside


class Predictor(Protocol):
    """What Stable-Baselines3's algorithms offer."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]: ...


class Predicting:
    """A `Source` of an object with Stable-Baselines3's `predict`, recurrent or not.

    read: the part of the observation that it was trained on.
    """

    def __init__(self, model: Predictor, *, read: Callable[[Observation], Any] = dict, deterministic: bool = True
                 ) -> None:
        self._model, self._read, self._deterministic = model, read, deterministic
        self.restart()

    def restart(self) -> None:
        """An episode begins."""
        self._state: Any = None
        self._begins = True

    def __call__(self, observation: Observation) -> np.ndarray:
        """Its action `[A]`."""
        action, self._state = self._model.predict(
            self._read(observation), state=self._state, episode_start=np.array([self._begins]),
            deterministic=self._deterministic)
        self._begins = False
        return np.asarray(action)


def sb3_policy(model: Predictor, action: ActionSpec, *, read: Callable[[Observation], Any] = dict) -> ChunkedPolicy:
    """A Stable-Baselines3 model as a policy; its `predict` already speaks the environment's units."""
    source = Predicting(model, read=read)
    return ChunkedPolicy(source, action, restart=source.restart)


class LeRobotSource:
    """A `Source` of a LeRobot policy: `select_action` on a batch of one.

    names: LeRobot's input to the observation's key, images as float32 `[1, C, H, W]` in [0, 1], the rest `[1, n]`.
    before, after: its processors, which normalise and undo that (lerobot >= 0.4 keeps them beside the weights).
    """

    def __init__(
        self, policy: Any, *, names: Mapping[str, str], before: Callable[[Any], Any] = lambda batch: batch,
        after: Callable[[Any], Any] = lambda action: action, device: str = "cpu",
    ) -> None:
        self._policy, self._names, self._before, self._after, self._device = policy, names, before, after, device

    def restart(self) -> None:
        """An episode begins; LeRobot's policies queue chunks and observations themselves."""
        self._policy.reset()

    def __call__(self, observation: Observation) -> np.ndarray:
        """Its action `[A]`."""
        import torch

        batch: dict[str, Any] = {}
        for name, key in self._names.items():
            value = torch.from_numpy(np.ascontiguousarray(observation[key]))
            image = value.ndim == 3
            value = value.permute(2, 0, 1).float() / 255 if image else value.float()
            batch[name] = value[None].to(self._device)
        with torch.inference_mode():
            action = self._after(self._policy.select_action(self._before(batch)))
        return np.asarray(action.squeeze(0).cpu().numpy())


PUSHT_NAMES = {"observation.image": "pixels", "observation.state": "agent_pos"}
"""Inputs of LeRobot's published PushT policies."""


def lerobot_policy(
    folder: str | Path, action: ActionSpec, *, names: Mapping[str, str] = PUSHT_NAMES, device: str = "cpu"
) -> ChunkedPolicy:
    """A LeRobot policy directory as a policy.  ConfigError where the folder is none or lerobot is not installed."""
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
    source = LeRobotSource(policy, names=names, before=before, after=after, device=device)
    return ChunkedPolicy(source, action, restart=source.restart)
