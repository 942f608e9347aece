"""The contract of a backbone: a video diffusion transformer that a world, a sampler and a cache policy can open.

A pass is three calls: `embed_step`, `run_blocks` in any ranges, `head`.  So a cache policy decides which blocks run,
and no model is implemented twice.  What is constant is made once: texts per world, `prepare` per denoise loop,
`modulations` for all its steps.  Conventions that every backbone keeps:

- Latents are `[N, C, T, h, w]`.  Clean context frames come first, noisy ones behind them; `clean` says which is which.
- Tokens are `[N, L, D]`, ordered by frame, row and column; every frame has equally many.  Behind them a backbone may
  have tokens of no frame, its `tail`.
- Noise is rectified flow's: x = (1 - s) clean + s noise, s in [0, 1] per frame.  The head gives the velocity
  noise - clean.
- Actions are `[N, T, F]` features (`wcsim.actions`), one vector per latent frame; `known` says where there is one.  Or
  they are tokens, `[N, A, F]`, one vector for each of the A actions.

A family is found by `_class_name` in a world's `transformer/config.json`, as diffusers writes it; the class has
diffusers' `from_pretrained` and `save_pretrained`.  Easy to get wrong: the output of a range of blocks must not depend
on how the ranges were cut, to the last bit.

Shape suffixes: N lanes, B a sub-batch of lanes, S denoise steps, T frames, L tokens, D width, K control maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from wcsim.registry import Registry
from wcsim.types import WorldSpec

Recipe = Literal["wcsim", "authors"]
"""Whose choice it is what is computed in float32."""
Read = tuple[Tensor, Tensor]
"""Keys and values `[B, n, L, d]` of one self-attention, as it looks them up (positions applied)."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a backbone.

    depth: blocks.  width: channels of a token.  patch: latent pixels per token, rows and columns.  latent_channels:
    that it reads and predicts.  action_features: numbers per latent frame that it reads, 0 for none; where actions are
    tokens, the most per token.  control_channels: maps that it reads beside the latents.  feed_forward: hidden width of
    a block's MLP over `width`, half as much again where a gate has one, too.  step_bytes: of what `modulations` makes
    ahead, at most.  action_tokens: whether actions are tokens.  pads: whether latents may end within a patch.
    """

    depth: int
    width: int
    patch: tuple[int, int]
    latent_channels: int
    action_features: int
    control_channels: int
    feed_forward: float
    step_bytes: int = 0
    action_tokens: bool = False
    pads: bool = False


class Text(Protocol):
    """A prompt as the blocks read it.  It belongs to a group of lanes, all of them where `groups` is 1."""

    @property
    def groups(self) -> int:
        """Different texts."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens of each."""
        ...

    def join(self, others: Sequence[Self]) -> Self:
        """This text and others of equal length as the groups of one."""
        ...


class Constants(Protocol):
    """What is constant during a denoise loop; only the backbone reads the rest."""

    @property
    def text(self) -> Any:
        """The `Text`."""
        ...

    @property
    def tail(self) -> int:
        """Tokens behind those of the frames."""
        ...


class Conditioning(Protocol):
    """What every block reads beside the tokens at one denoise step."""

    def select(self, lanes: Tensor) -> Self:
        """That of some lanes."""
        ...

    def since(self, frame: int) -> Self:
        """That of the frames from number `frame` on, and of the tail."""
        ...

    def branch(self, text: Any, count: int) -> Self:
        """All lanes `count` times over, the lanes of each repetition under their share of `text`."""
        ...


class Backbone(Protocol):
    """See the module; an implementation is a `torch.nn.Module`, of which the first methods are.

    compiled_parts: names of methods, beside `run_blocks`, that `torch.compile` may turn into graphs.  adapted_layers:
    names, within a block, of the linear layers that low-rank adapters go to.  action_layers: names of the parts that
    read actions, which learn whole beside adapters.
    """

    compiled_parts: Sequence[str]
    adapted_layers: Sequence[str]
    action_layers: Sequence[str]

    def eval(self) -> Self: ...

    def requires_grad_(self, requires_grad: bool = True) -> Self: ...

    def to(self, device: torch.device | str) -> Self: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def modules(self) -> Iterator[torch.nn.Module]: ...

    def save_pretrained(self, folder: Path) -> None:
        """Write `config.json`, with the class's name, and weights (safetensors)."""
        ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def depth(self) -> int:
        """Number of blocks."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the blocks compute in."""
        ...

    @property
    def text_width(self) -> int:
        """Features of a text token on its way in."""
        ...

    def set_precision(self, dtype: torch.dtype, recipe: Recipe = "wcsim") -> None:
        """Compute in `dtype`, but for the parts that stay in float32 by our choice or by the authors'."""
        ...

    def read_text(self, text: Any) -> Any:
        """A `Text` of prompt features `[G, S, E]`, once per rollout; a `Text` comes back as it is."""
        ...

    def prepare(
        self, latents_NCThw: Tensor, actions_NTF: Tensor | None, known_NT: Tensor | None, text: Any,
        control_NKThw: Tensor | None = None,
    ) -> Any:
        """The `Constants` of a denoise loop, once per loop.  latents: for their shape alone.  actions, known: None in a
        model without actions.  text: features, or read already.  control: None in a model without."""
        ...

    def modulations(self, sigma_SNT: Tensor, constants: Any, schedule: Sequence[int] | None = None) -> Sequence[Any]:
        """What noise level and actions do to the blocks, by denoise step.  schedule: the steps that will be asked for,
        where that is known."""
        ...

    def embed_step(self, latents_NCThw: Tensor, modulation: Any, clean_T: Tensor, constants: Any) -> tuple[Tensor, Any]:
        """Tokens `[N, L, D]` and their `Conditioning`, once per denoise step.  clean: 1 on context frames, else 0."""
        ...

    def run_blocks(
        self, tokens_BLD: Tensor, first: int, last: int, given: Any, past: Sequence[Read] | None = None,
        notes: dict[int, Read] | None = None,
    ) -> Tensor:
        """Blocks `first` up to but not including `last`.  past: what each of these blocks attends to beside the tokens.
        notes: filled, by block, with what was read of the tokens."""
        ...

    def modulated(self, tokens_NLD: Tensor, given: Any) -> Tensor:
        """What the first block's self-attention reads, `[N, L, D]`."""
        ...

    def head(self, tokens_NLD: Tensor, given: Any, latents_NCThw: Tensor, sigma_1T: Tensor) -> Tensor:
        """The velocity `[N, C, T, h, w]` that the output tokens of the last block say, of latents at these levels."""
        ...

    def block(self, index: int) -> torch.nn.Module:
        """A block's module, for adapters that run its parts themselves."""
        ...


class Release(Protocol):
    """A released model that a converter makes a world of."""

    @property
    def spec(self) -> WorldSpec:
        """The world that it becomes."""
        ...

    def find(self, reference: str) -> Path:
        """The folder of its world on this machine; CheckpointError says how to get one that is not there."""
        ...


BACKBONES = Registry("backbone", "wcsim.backbones", {
    "ActionCosmosTransformer": "wcsim.backbones.cosmos2.transformer:ActionCosmosTransformer",
    "Cosmos3Generator": "wcsim.backbones.cosmos3.transformer:Cosmos3Generator",
})
"""Classes by the `_class_name` that they write: shipped ones, and those of installed packages."""

RELEASES = Registry("released models", "wcsim.releases", {"cosmos2": "wcsim.backbones.cosmos2.releases:RELEASES"})
"""By family, the released models that a world may be called by: mappings from reference to `Release`."""


def releases() -> Mapping[str, Release]:
    """Every released model by the name that `world:` in a configuration may give."""
    return {reference: release for family in RELEASES.names() for reference, release in RELEASES.load(family).items()}
