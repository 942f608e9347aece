"""A recipe of a fine-tuning: what `wcsim train --from WORLD` reads.

Codec, texts, state model and description of the base stay as they are; only its transformer learns.  Easy to get wrong:
in a world of clips a context counts latents and a chunk is always whole, so it has no shares of chunks.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from wcsim.config import StrictConfig
from wcsim.errors import ConfigError
from wcsim.train.recipe import DataRecipe, JudgeRecipe
from wcsim.train.schedule import Schedule
from wcsim.types import WorldSpec


class FineTune(StrictConfig):
    """One fine-tuned world."""

    world: str
    """Its name."""
    base: str = ""
    """The world to begin with: a name, a folder or a released model.  `--from` replaces it."""
    data: DataRecipe = DataRecipe()
    """Recordings with the fps and the frame size of the base; no robot state is read."""
    actions: Literal["world", "recordings"] = "world"
    """Whose actions the result takes: the base's, which the recordings must have; or those of the recordings, another
    robot's, with new layers to read them."""
    clips: int = Field(4000, gt=0)
    """Clips, evenly taken, that are encoded once and kept on disk, in a world of clips."""
    method: Literal["lora", "full"] = "lora"
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) beside frozen weights, merged into them on export; or all
    weights."""
    rank: int = Field(16, gt=0)
    alpha: float = Field(16.0, gt=0)
    """An adapter's product counts alpha / rank times."""
    weights: Literal["float32", "bfloat16"] | None = None
    """Of the frozen weights in memory; adapters are float32.  None: bfloat16 beside adapters on a GPU."""
    checkpointing: bool | None = None
    """Whether blocks run again in the backward pass instead of keeping what they computed; None: where it would not fit
    otherwise."""
    schedule: Schedule
    shift: float | None = Field(None, gt=0)
    """As in `TransformerRecipe`; None: the base's own flow shift."""
    context_noise: float = Field(0.0, ge=0)
    change_weight: float = Field(0.0, ge=0)
    """Extra loss weight of latent pixels that change from frame to frame."""
    context_shares: tuple[float, ...] | None = None
    """Probability of 1, 2, ... clean latent frames; None: equal."""
    chunk_shares: tuple[float, ...] | None = None
    """Probability of 1, 2, ... new frames, in a world of single frames; None: equal."""
    moving_share: float = Field(0.6, ge=0, le=1)
    """Share of the windows that are drawn by how much the picture changes."""
    start_share: float = Field(0.1, ge=0, le=1)
    """Share of the windows that begin at the start of an episode, in a world of single frames."""
    judge: JudgeRecipe = JudgeRecipe(steps=())
    """Without `steps`, the base's own number of denoise steps."""

    @model_validator(mode="after")
    def _full_learns_in_float32(self) -> Self:
        if self.method == "full" and self.weights == "bfloat16":
            raise ValueError(f"method full learns weights in float32, got weights {self.weights}")
        return self

    def draws(self, spec: WorldSpec) -> Draws:
        """How windows of a world are drawn.  ConfigError where the shares do not fit its context and chunk."""
        def shares(name: str, given: tuple[float, ...] | None, most: int) -> tuple[float, ...]:
            found = (1.0 / most,) * most if given is None else given
            if len(found) != most or min(found) < 0 or abs(sum(found) - 1) > 1e-6:
                raise ConfigError(f"{name} are {list(found)}; world {spec.name!r} needs {most} shares that sum to 1")
            return found

        return Draws(max_context=spec.max_context, max_chunk=spec.max_chunk, moving_share=self.moving_share,
                     start_share=self.start_share,
                     context_shares=shares("context_shares", self.context_shares, spec.max_context),
                     chunk_shares=shares("chunk_shares", self.chunk_shares, spec.max_chunk))


class Draws(StrictConfig):
    """See `wcsim.train.windows.Draws`."""

    max_context: int
    max_chunk: int
    context_shares: tuple[float, ...]
    chunk_shares: tuple[float, ...]
    moving_share: float
    start_share: float
