"""What a recipe may use that no camera and no robot tells: the state of the task's simulator.

A world that was trained so says it (`WorldSpec.labels`), wherever it is shown.  Easy to get wrong: columns count the
numbers of the simulator's own state, as `Truth.state` has them.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from wcsim.config import StrictConfig
from wcsim.train.schedule import Schedule

PREFIX = "privileged: "


class Landmark(StrictConfig):
    """A body whose place the latents should say outright."""

    name: str
    columns: tuple[int, int]
    """That hold its x and y."""
    angle: int | None = None
    """Column that holds its angle in radians, if it has one."""


class Disc(StrictConfig):
    """How a trained codec learns where its first landmark, a disc, really is (`wcsim.train.disc`)."""

    schedule: Schedule
    share: float = Field(0.2, gt=0)
    radius_px: float = Field(gt=0)
    """Of the disc, in frame pixels."""
    hue: tuple[float, float, float]
    """Weights of red, green and blue, in [-1, 1] pixels, that tell the disc from all else: one step up at its edge."""
    num_res_blocks: int = Field(1, ge=1)
    """Residual blocks that the codec has afterwards; the new ones begin as the identity."""
    old_rate: float = Field(1.0, ge=0, le=1)
    """Learning rate of what was there before, as a share of the schedule's, which is that of new blocks."""
    shares: dict[Literal["beside", "corner", "border", "company"], float] = Field({})
    """Shares of the frames with the disc there (`wcsim.train.disc.kind_of`); the rest come from all."""
    moving_weight: float = Field(6.0, ge=1)
    """Loss weight of pixels that move."""
    disc_weight: float = Field(15.0, ge=1)
    """Loss weight of the disc and its surroundings."""
    cut_weight: float = Field(30.0, ge=1)
    """The same where the border cuts the disc."""
    displaced_weight: float = Field(0.11, ge=0)
    keep_weight: float = Field(0.8, ge=0)
    """Loss weight of the latents' mean squared distance from the former codec's."""
    former_share: float = Field(0.1, ge=0, le=1)
    """Share of the views that are reconstructed from the former codec's latents."""
    noisy_share: float = Field(0.3, ge=0, le=1)
    """Share of the views whose latents carry noise."""
    latent_noise: float = Field(0.2, ge=0)
    """Largest standard deviation of that noise."""

    @model_validator(mode="after")
    def _shares_leave_room(self) -> Self:
        if min(self.shares.values(), default=0.0) < 0 or sum(self.shares.values()) > 1:
            raise ValueError(f"shares are {self.shares}; each must be 0 or more, and together at most 1")
        return self


class Bodies(StrictConfig):
    """A state model of the landmarks (`wcsim.world.body_dynamics`), whose forecast the transformer reads."""

    model: dict[str, Any] = Field({})
    """Keyword arguments of `BodyDynamicsConfig` beside what codec and task say."""
    first_seed: int = Field(ge=0)
    episodes: int = Field(gt=0)
    """Of the simulator's exploration, without frames, on which the forward model learns beside nothing else."""
    steps: int = Field(48, gt=3)
    workers: int = Field(2, gt=0)
    """Processes that play them."""
    moving_columns: tuple[int, ...]
    """Columns whose change by more than `moving_change` makes a step count as moving."""
    moving_change: float = Field(gt=0)
    moving_share: float = Field(0.6, ge=0, le=1)
    """Share of the steps that are drawn from the moving ones; the rest are drawn from all."""
    estimator: Schedule
    forward: Schedule
    share: float = Field(0.3, gt=0)
    """Share of `--minutes`, for both."""
    latent_noise: float = Field(0.1, ge=0)
    """Largest standard deviation of the noise on the latents from which the estimator learns to read."""


class Privileged(StrictConfig):
    """What is taken from the simulator."""

    labels: str
    """What the world will say: `privileged: ...`."""
    landmarks: tuple[Landmark, ...] = ()
    """What the first latent channels map; their frame pixels are state units times `pixels_per_unit`."""
    pixels_per_unit: float = Field(1.0, gt=0)
    landmark_weight: float = Field(0.1, ge=0)
    """Loss weight of the share of the maps' variance that the latents miss."""
    angle_columns: tuple[int, ...] = ()
    """Columns that are angles in radians.  The transformer learns to say all columns, these as sine and cosine."""
    disc: Disc | None = None
    bodies: Bodies | None = None

    @model_validator(mode="after")
    def _owns_up(self) -> Self:
        if not self.labels.startswith(PREFIX):
            raise ValueError(f"labels are {self.labels!r}; say which, as in '{PREFIX}block pose'")
        if not self.landmarks and (self.disc or self.bodies):
            raise ValueError("disc and bodies need landmarks")
        return self
