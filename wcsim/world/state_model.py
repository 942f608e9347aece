"""What a world may predict beside its pixels: named quantities of the robot or the scene, in the task's own units.

A state model is an optional part of a world, in a folder `state_model/` whose `config.json` names its `kind`.  It reads
every new latent frame, remembers what it needs of it (`WorldState.model_memory`, which nothing else reads), and
predicts the quantities of frames to come for a small share of the cost of imagining them.  Two uses: the robot's own
state, from recordings; and bodies of a scene, from a simulator (`wcsim.world.body_dynamics`).  Easy to get wrong: which
labels a model was trained on decides what a result may claim, so each says its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor, nn

from wcsim.errors import CheckpointError
from wcsim.registry import Registry
from wcsim.world.limits import read_json

STATE_MODELS = Registry("state model", "wcsim.state_models", {
    "body_dynamics": "wcsim.world.body_dynamics:BodyDynamics",
    "robot_state": "wcsim.world.robot_state:RobotState",
})
"""Kinds of state models: the shipped one, and those that installed packages offer."""


class StateModel(nn.Module, ABC):
    """Quantities beside the pixels.

    labels: what it was trained on, as `WorldSpec.labels`.  quantities: names, in the order of `values`.  memory_size:
    P, the numbers that it remembers of a frame.  control_channels: maps that it draws for the transformer, 0 for none.

    Shape suffixes: N lanes, m past frames, k new frames, P numbers of memory, F action features, K maps.
    """

    labels: str
    quantities: tuple[str, ...]
    memory_size: int
    control_channels: int = 0

    @abstractmethod
    def update(self, memory: Tensor, latents: Tensor, actions: Tensor, known: Tensor, *, seen: bool) -> Tensor:
        """Memory `[N, k, P]` of k new frames with latents `[N, k, C, h, w]`, which follow m with memory `[N, m, P]`.

        actions: `[N, m+k, F]` features of the action that led to each frame.  known: `[N, m+k]` bool, whether it is
        known.  seen: whether the frames are real, or imagined.
        """

    @abstractmethod
    def predict(self, memory: Tensor, actions: Tensor, known: Tensor) -> Tensor:
        """Memory `[N, k, P]` of the k frames that follow m >= 1 with memory `[N, m, P]`.  actions: `[N, m+k, F]`, of
        which the last k lead to them.  known: `[N, m]`."""

    @abstractmethod
    def control(self, memory: Tensor, actions: Tensor, known: Tensor) -> Tensor:
        """Maps `[N, K, m+k, h, w]` of past and predicted frames, which the transformer reads beside the latents;
        arguments as in `predict`.  Only asked for where `control_channels` is above 0."""

    @abstractmethod
    def values(self, memory: Tensor) -> dict[str, np.ndarray]:
        """Quantity name to float64 `[..., size]` in the task's own units, of memory `[..., P]`."""

    @abstractmethod
    def check(self, latent_shape: tuple[int, int, int], action_dim: int) -> None:
        """Raise CheckpointError unless it reads latents of this shape and actions of so many coordinates."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write `config.json`, with its `kind`, and weights (safetensors)."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """What `save` has written, in float32 on the CPU."""


def load_state_model(folder: Path) -> StateModel:
    """The state model in a folder, by the kind in its configuration.  CheckpointError for an unknown kind; a world may
    come from anywhere, so its files cannot name a module to import."""
    kind, known = read_json(folder / "config.json").get("kind"), STATE_MODELS.names()
    if kind not in known:
        raise CheckpointError(f"{folder}: kind of state model is {kind!r}; known: {', '.join(known)}")
    model: StateModel = STATE_MODELS.load(kind).load(folder)
    return model.eval()
