"""A policy's training recipe: everything that demonstrating and learning read, from one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from wcsim.config import StrictConfig
from wcsim.strict_yaml import parse_yaml
from wcsim.train.schedule import Schedule


class Split(StrictConfig):
    """Consecutive seeds."""

    first_seed: int = Field(ge=0)
    episodes: int = Field(gt=0)


class Demonstrations(StrictConfig):
    """What the scripted expert shows in the truth."""

    folder: Path
    splits: dict[str, Split]
    """`train` and `validation`; their seeds must not meet."""
    steps: int = Field(60, gt=0)
    """Control ticks per episode."""
    noise: tuple[float, ...] = Field(min_length=1)
    """In units of the action, of the hand that carries out what the expert wishes; one is drawn per episode: what a
    learner's own errors lead to is then in the data, with the wish that leads back."""
    memory: float = Field(0.7, ge=0, lt=1)
    """Share of the noise that stays from tick to tick."""
    shard_episodes: int = Field(32, gt=0)
    workers: int = Field(2, gt=0)


class Learning(StrictConfig):
    """The network and how it learns."""

    kind: Literal["regression", "flow"]
    history: int = Field(2, ge=1)
    horizon: int = Field(8, ge=1)
    width: int = Field(256, ge=1)
    depth: int = Field(2, ge=1)
    draws: int = Field(8, ge=1)
    schedule: Schedule
    pose_noise: float = Field(1.0, ge=0)
    """Of the places that it learns from, in their unit: about what the estimator is off."""


class Trial(StrictConfig):
    """Episodes in the truth after training, from seeds that no policy was trained on."""

    first_seed: int = Field(600_000, ge=0)
    episodes: int = Field(20, ge=1)
    max_steps: int = Field(40, ge=1)
    execute: int = Field(2, ge=1)


class PolicyRecipe(StrictConfig):
    name: str
    task: str
    task_options: dict[str, Any] = Field(default_factory=dict)
    output: Path
    """Folder of the checkpoint and of `NAME.safetensors`."""
    demonstrations: Demonstrations
    learning: Learning
    trial: Trial = Trial()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe; relative folders are relative to the working directory."""
        return cls.model_validate(parse_yaml(path.read_bytes(), what=str(path)))
