"""A training recipe: everything that the collect, train and evaluate scripts read, from one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wcsim.strict_yaml import parse_yaml


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(Strict):
    first_seed: int = Field(ge=0)
    episodes: int = Field(gt=0)
    frames: bool = True
    """Whether frames are saved beside actions and states; without them a split takes a thousandth of the room."""


class Data(Strict):
    folder: Path
    splits: dict[str, Split]
    steps: int = Field(48, gt=0)
    """Control ticks per episode."""
    shard_episodes: int = Field(64, gt=0)
    workers: int = Field(2, gt=0)


class Schedule(Strict):
    """Linear warm-up, constant, linear decay to zero."""

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(100, ge=0)
    decay_fraction: float = Field(0.3, ge=0, le=1)
    """Share of the steps, at the end, over which the rate falls to zero."""
    save_every: int = Field(200, gt=0)
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at `step`."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (self.steps - step) / max(1.0, self.decay_fraction * self.steps)
        return self.learning_rate * min(warm, max(0.0, min(1.0, left)))


class Landmark(Strict):
    """Something whose place the latents should say outright."""

    name: str
    columns: tuple[int, int]
    """Columns of the recorded simulator state that hold its x and y."""
    angle: int | None = None
    """Column that holds its angle in radians, if it has one."""

    @property
    def channels(self) -> int:
        """Maps that it takes: one, and two more for the angle's sine and cosine."""
        return 1 if self.angle is None else 3


class Finetuning(Strict):
    """How a trained codec learns where its first landmark, a disc, really is (`scripts/finetune_codec.py`)."""

    schedule: Schedule
    radius_px: float = Field(gt=0)
    """Of the disc, in frame pixels."""
    hue: tuple[float, float, float]
    """Weights of red, green and blue, in [-1, 1] pixels, that tell the disc from all else: one step up at its edge."""
    num_res_blocks: int = Field(1, ge=1)
    """Residual blocks that the codec has afterwards; the new ones begin as the identity."""
    old_rate: float = Field(1.0, ge=0, le=1)
    """Learning rate of what was there before, as a share of the schedule's, which is that of new blocks."""
    shares: dict[Literal["beside", "corner", "border", "company"], float] = {}
    """Shares of the frames with the disc there (`kind_of` in `scripts/finetune_codec.py`); the rest come from all."""
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


class CodecTraining(Strict):
    model: dict[str, Any]
    """Keyword arguments of `AutoencoderKLWan`."""
    schedule: Schedule
    crop_px: int = Field(64, gt=0)
    whole_frame_fraction: float = Field(0.25, ge=0, le=1)
    """Share of the steps, at the end, that see whole frames instead of crops."""
    decoder_fraction: float = Field(0.15, gt=0, le=1)
    """Share of the steps, at the very end, in which the decoder alone learns, on whole frames."""
    latent_noise: float = Field(0.2, ge=0)
    """Largest standard deviation of the noise on latents while the decoder alone learns, so that it forgives."""
    landmarks: list[Landmark] = []
    """What the first latent channels map; their frame pixels are state units times `pixels_per_unit`."""
    pixels_per_unit: float = Field(1.0, gt=0)
    landmark_weight: float = Field(0.1, ge=0)
    """Loss weight of the share of the maps' variance that the latents miss."""
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
    refine_steps: int = Field(0, ge=0)
    """How often, once trained, an encoded frame is compared with what the decoder draws of it."""
    finetuning: Finetuning | None = None
    """Without it the codec is the one that `scripts/train_codec.py` exports."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_old(cls, given: Any) -> Any:
        for old, new in {"mending": "finetuning", "still_share": "unshifted_share"}.items():
            if isinstance(given, dict) and old in given:
                raise ValueError(f"{old!r} is now called {new}")
        return given


class DynamicsTraining(Strict):
    model: dict[str, Any] = {}
    """Keyword arguments of `BodyDynamicsConfig` beside what codec and task say."""
    split: str = "train"
    """The split whose steps the forward model learns; it needs no frames."""
    moving_share: float = Field(0.6, ge=0, le=1)
    """Share of those steps that are drawn from the ones in which what matters moves; the rest are drawn from all."""
    estimator: Schedule
    forward: Schedule
    latent_noise: float = Field(0.1, ge=0)
    """Largest standard deviation of the noise on the latents from which the estimator learns to read."""


class WorldTraining(Strict):
    model: dict[str, Any]
    """Keyword arguments of `ActionCosmosTransformer`."""
    schedule: Schedule
    muon_rate: float = Field(2.5, gt=0)
    """Muon's learning rate as a multiple of the schedule's, which is AdamW's."""
    max_context: int = Field(4, ge=1)
    max_chunk: int = Field(4, ge=1)
    context_shares: list[float]
    """Probability of training on 1, 2, ... clean context frames; sums to one."""
    chunk_shares: list[float]
    """Probability of training on 1, 2, ... new frames; sums to one."""
    shift: float = Field(3.0, gt=0)
    """Moves the logit-normal noise levels towards noise: sigma' = shift sigma / (1 + (shift - 1) sigma)."""
    context_noise: float = Field(0.05, ge=0)
    """Largest standard deviation of the noise put on context latents, so that rollouts forgive their own errors."""
    imagined_share: float = Field(0.0, ge=0, le=1)
    """Share of the steps whose context ends in frames that the model itself imagined."""
    imagined_start: float = Field(0.5, ge=0, le=1)
    """Share of the schedule after which imagined context begins."""
    imagined_steps: int = Field(3, ge=1)
    """Most denoise steps spent on them."""
    context_sigma: float = Field(1e-4, ge=0, lt=1)
    """Noise level that the transformer is given for clean frames."""
    change_weight: float = Field(4.0, ge=0)
    """Extra loss weight of latent pixels that change from frame to frame."""
    angle_columns: list[int]
    """Columns of the recorded simulator state that are angles in radians."""
    state_weight: float = Field(0.5, ge=0)
    """Loss weight of the state read halfway up."""
    moving_columns: list[int]
    """Columns of the recorded simulator state whose change makes a window count as moving."""
    moving_change: float = Field(gt=0)
    moving_share: float = Field(0.6, ge=0, le=1)
    """Share of the windows in which those columns change."""
    start_share: float = Field(0.1, ge=0, le=1)
    """Share of the windows that begin at the start of an episode, where nothing is known of the past."""
    sparse_share: float = Field(0.0, ge=0, le=1)
    """Share of the steps that see `kept_tokens` of every frame's tokens, in as many times more windows."""
    kept_tokens: int = Field(4, ge=1)


class Recipe(Strict):
    world: str
    task: str
    labels: str = "none"
    """See `wcsim.types.WorldSpec.labels`."""
    data: Data
    output: Path
    """Folder of checkpoints, logs and the exported world."""
    codec: CodecTraining
    dynamics: DynamicsTraining | None = None
    """Where the codec's landmarks go, as an input of the transformer.  None: it infers that itself."""
    transformer: WorldTraining

    @model_validator(mode="after")
    def _owns_up(self) -> Self:
        if self.codec.landmarks and self.labels == "none":
            raise ValueError("landmarks are labels: say which, as in `labels: \"privileged: block pose\"`")
        return self

    @property
    def codec_folder(self) -> Path:
        """Where the codec lies on whose latents all else is trained."""
        return self.output / ("codec" if self.codec.finetuning is None else "finetuned")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe; relative folders are relative to the working directory."""
        return cls.model_validate(parse_yaml(path.read_bytes(), what=str(path)))
