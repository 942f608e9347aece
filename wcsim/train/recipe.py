"""A training recipe: what `wcsim train` reads from one YAML file.

A recipe names recordings and the sizes of the networks; only its section `privileged` asks a simulator.  Easy to get
wrong: lengths are steps unless `wcsim train --minutes` is given; then each stage ends after its share of the minutes,
and a schedule's steps only say how often it saves.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from wcsim.config import StrictConfig
from wcsim.train.privileged_recipe import Privileged
from wcsim.train.schedule import Schedule


class DataRecipe(StrictConfig):
    """Which recordings, and how they are seen."""

    path: str | tuple[str, ...] = ()
    """Folders, files or `repo_id@revision`; several are joined.  `wcsim train --data` replaces it."""
    validation: float | str | tuple[str, ...] = 0.05
    """Recordings that are never trained on, or the share of the episodes that are held out."""
    cameras: tuple[str, ...] | None = None
    """Names, in the order of the mosaic; None for all."""
    frame_size: tuple[int, int] | None = None
    """H, W of every camera; None as recorded."""
    fit: Literal["crop", "squash"] | None = None
    fps: float | None = None
    """Frames per second, a whole divisor of the recorded ones; None as recorded."""
    actions: Literal["change", "absolute"] | None = None
    """Needed with `fps` where the recordings do not say what their actions are."""
    robot_state: bool = True
    """Whether `observation.state` is used where it is recorded: by the state model, and by the transformer's loss."""
    fourier_octaves: int = Field(0, ge=0, le=8)
    """See `wcsim.types.ActionSpec`."""
    codec_frames: int = Field(20_000, gt=0)
    """Frames, evenly taken, on which the codec is trained; they are kept decoded on disk."""

    @model_validator(mode="after")
    def _share_is_one(self) -> Self:
        if isinstance(self.validation, float) and not 0 < self.validation < 1:
            raise ValueError(f"validation is {self.validation}; a share lies between 0 and 1")
        return self


class CodecRecipe(StrictConfig):
    """The frame codec: a small one that is trained, or a folder of diffusers' `AutoencoderKLWan`."""

    folder: str | None = None
    """A trained `AutoencoderKLWan` without temporal compression, taken as it is."""
    model: dict[str, Any] = Field({})
    """Keyword arguments of `AutoencoderKLWan`, for one that is trained."""
    schedule: Schedule | None = None
    share: float = Field(0.25, gt=0)
    """Share of `--minutes`."""
    crop_px: int = Field(64, gt=0)
    whole_frame_fraction: float = Field(0.25, ge=0, le=1)
    """Share of the stage that sees whole frames instead of crops."""
    decoder_fraction: float = Field(0.15, gt=0, lt=1)
    """Share of the stage, at its end, in which the decoder alone learns, on whole frames."""
    latent_noise: float = Field(0.2, ge=0)
    """Largest standard deviation of the noise on latents while the decoder alone learns, so that it forgives."""
    moving_crops: float = Field(0.6, ge=0, le=1)
    """Share of the crops that are centred on something that moved."""
    moving_weight: float = Field(6.0, ge=1)
    """Loss weight of pixels that moved."""
    max_shift_px: int = Field(4, ge=0)
    """Most frame pixels between the two views of a pair; half the codec's compression covers every phase."""
    unshifted_share: float = Field(0.3, ge=0, le=1)
    """Share of the pairs that are not shifted: plain reconstruction."""
    shift_weight: float = Field(0.05, ge=0)
    """Loss weight of the latents' failure to move with the frame."""
    kl_weight: float = Field(1e-4, ge=0)
    refine_steps: int = Field(0, ge=0, le=16)
    """How often an encoded frame is compared with what the decoder draws of it (`wcsim.world.codec.Codec`)."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.folder is None) == (self.schedule is None):
            raise ValueError("a codec has either a folder, or model and schedule")
        return self


class StateRecipe(StrictConfig):
    """The state model: the robot's own state, read from latents and predicted from actions."""

    schedule: Schedule
    share: float = Field(0.05, gt=0)
    channels: int = Field(32, gt=0)
    """Of the convolutions that read the state of a frame."""
    width: int = Field(256, gt=0)
    """Of the layers that predict it."""
    depth: int = Field(3, gt=0)
    latent_noise: float = Field(0.1, ge=0)
    """Largest standard deviation of the noise on the latents from which the state is read."""
    horizon: int = Field(8, ge=1)
    """Steps in a row over which predictions are trained."""


class TransformerRecipe(StrictConfig):
    """The transformer, trained by rectified flow on windows of latents."""

    model: dict[str, Any]
    """Keyword arguments of the backbone's transformer."""
    schedule: Schedule
    share: float = Field(0.7, gt=0)
    muon_rate: float = Field(5.0, gt=0)
    """Muon's learning rate as a multiple of the schedule's, which is AdamW's."""
    max_context: int = Field(4, ge=1)
    max_chunk: int = Field(4, ge=1)
    context_shares: tuple[float, ...]
    """Probability of training on 1, 2, ... clean context frames; sums to one."""
    chunk_shares: tuple[float, ...]
    """Probability of training on 1, 2, ... new frames; sums to one."""
    shift: float = Field(3.0, gt=0)
    """Moves the logit-normal noise levels towards noise: sigma' = shift sigma / (1 + (shift - 1) sigma)."""
    context_noise: float = Field(0.1, ge=0)
    """Largest standard deviation of the noise on context latents, so that rollouts forgive their own errors."""
    context_sigma: float = Field(1e-4, ge=0, lt=1)
    """Noise level that the transformer is given for clean frames."""
    imagined_share: float = Field(0.1, ge=0, le=1)
    """Share of the steps whose context ends in frames that the model itself imagined."""
    imagined_start: float = Field(0.5, ge=0, le=1)
    """Share of the stage after which imagined context begins."""
    imagined_steps: int = Field(3, ge=1)
    """Most denoise steps spent on them."""
    change_weight: float = Field(4.0, ge=0)
    """Extra loss weight of latent pixels that change from frame to frame."""
    moving_share: float = Field(0.6, ge=0, le=1)
    """Share of the windows that are drawn by how much the picture changes; the others are drawn evenly."""
    start_share: float = Field(0.1, ge=0, le=1)
    """Share of the windows that begin at the start of an episode, where nothing is known of the past."""
    sparse_share: float = Field(0.0, ge=0, le=1)
    """Share of the steps that see `kept_tokens` of every frame's tokens, in as many times more windows."""
    kept_tokens: int = Field(4, ge=1)
    state_weight: float = Field(0.5, ge=0)
    """Loss weight of the recorded robot state, read halfway up; 0 where none is recorded."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        for name, most in (("context_shares", self.max_context), ("chunk_shares", self.max_chunk)):
            shares = getattr(self, name)
            if len(shares) != most or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
                raise ValueError(f"{name} are {list(shares)}; needed are {most} shares that sum to 1")
        return self


class JudgeRecipe(StrictConfig):
    """How the world is measured on held-out episodes once it is trained."""

    episodes: int = Field(24, gt=0)
    horizon: int = Field(32, gt=0)
    steps: tuple[int, ...] = (2, 4, 8)
    """Denoise steps that are tried; the best in PSNR becomes the world's default."""


class Recipe(StrictConfig):
    """One world.  task: whose actions, cameras and estimator it has; `recordings` where there is no simulator."""

    world: str
    task: str = "recordings"
    data: DataRecipe = DataRecipe()
    codec: CodecRecipe
    state_model: StateRecipe | None = None
    transformer: TransformerRecipe
    judge: JudgeRecipe = JudgeRecipe()
    privileged: Privileged | None = None
    """What is taken from the task's simulator beside; None: nothing, as for a robot that has none."""

    @model_validator(mode="after")
    def _a_simulator_is_there(self) -> Self:
        if self.privileged is not None and self.task == "recordings":
            raise ValueError("privileged needs a task with a simulator; the task is recordings")
        if self.privileged is not None and self.privileged.bodies is not None and self.state_model is not None:
            raise ValueError("a world has one state model; leave out state_model or privileged.bodies")
        return self

    def shares(self) -> dict[str, float]:
        """Share of the minutes of every stage that is trained; they sum to one."""
        given = {"transformer": self.transformer.share}
        if self.codec.schedule is not None:
            given["codec"] = self.codec.share
        if self.state_model is not None:
            given["state_model"] = self.state_model.share
        if self.privileged is not None and self.privileged.disc is not None:
            given["disc"] = self.privileged.disc.share
        if self.privileged is not None and self.privileged.bodies is not None:
            given |= dict.fromkeys(("estimator", "forward_model"), self.privileged.bodies.share / 2)
        return {name: share / sum(given.values()) for name, share in given.items()}
