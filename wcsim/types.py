"""The values and contracts that the rooms of wcsim exchange.  Nothing here computes.

Shape suffixes: N lanes, B a sub-batch of lanes, S denoise steps, K chunks, T frames, k new frames, L tokens,
D width, C latent channels, h w latent pixels, H W frame pixels, A action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

Decide = Literal["together", "apart"]
"""How the guided branches of a lane come to a cache decision."""
Timesteps = Literal["exact", "whole"]


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """What an action means.  low, high: inclusive bounds per dimension, in `units`.

    fourier_octaves: the transformer sees each normalised coordinate `a` in [-1, 1] and sin, cos of `pi 2^o a` for
    `o` below this number (0: the bare coordinates, as in the official robot checkpoints).  scale: factors by which the
    transformer sees the coordinates instead of normalised, and offset what it adds to them; empty: normalised, and
    nothing added.  clamp: whether what it sees is kept within [-1, 1].  absolute: names of the dimensions that are a
    value to hold; the others are changes, of which `rest` (empty: zeros) stands for none, and which the transformer
    sees summed up within groups of `summed`.  slots: first place and number of those that it has for any robot's.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    names: tuple[str, ...]
    units: str
    fourier_octaves: int = 0
    scale: tuple[float, ...] = ()
    absolute: tuple[str, ...] = ()
    offset: tuple[float, ...] = ()
    clamp: bool = False
    rest: tuple[float, ...] = ()
    summed: int = 1
    slots: tuple[int, int] | None = None

    @property
    def dim(self) -> int:
        """Numbers per action."""
        return len(self.low)

    @property
    def num_features(self) -> int:
        """Numbers per action that the transformer sees."""
        return self.slots[1] if self.slots else self.dim * (1 + 2 * self.fourier_octaves)


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """The public description of a world; stored as `world.json` beside its weights.

    frame_size: H, W in pixels.  latent_shape: C, h, w.  fps: frames (and actions) per second.  max_context: most clean
    frames the transformer was trained to look back on.  max_chunk: most frames it generates together.  context_sigma:
    noise level that clean frames are said to have; below 0, that of the new ones.

    frames_per_latent: 1, or how many frames share a latent after the first of a clip; then max_context counts latents,
    and every pass generates a whole chunk.  carry: what one chunk hands to the next, its last `latents`, or `pixels`,
    its last frame as a decoder shows it.  reads: whose actions a latent frame sees, those of its own `frames` or those
    of the whole `chunk`, or whether actions are `tokens` beside it.  walk: whether the solver walks noise to the given
    frames of a clip, or leaves these as they are.  timesteps: whether the transformer is told noise levels as they are
    or in `whole` thousandths, rounded down.  canvas: H, W that clips are padded to before they are encoded, None for
    theirs.  eight_bits: whether pixels of clips are rounded to 8 bits, or what is over is `cut` off.  unknown: what
    stands for the actions of a chunk that are not known yet, rest or `zeros` as the transformer sees them.
    refine_steps: how often the latents of an encoded frame are refined (`wcsim.world.codec.Codec`).

    labels: which labels, beside frames and actions, any part of the world was trained on: `none`, `robot state`, or
    `privileged: ...` with what only a simulator knows.  cameras: name, height and width of each camera; the frame is
    their mosaic, side by side from left to right, shorter ones padded with zeros at the bottom.  Empty: one camera,
    which fills the frame.
    """

    name: str
    task: str
    frame_size: tuple[int, int]
    latent_shape: tuple[int, int, int]
    fps: float
    action: ActionSpec
    max_context: int
    max_chunk: int
    flow_shift: float
    context_sigma: float
    default_steps: int
    default_solver: str = "euler"
    frames_per_latent: int = 1
    carry: Literal["latents", "pixels"] = "latents"
    reads: Literal["frames", "chunk", "tokens"] = "frames"
    walk: bool = True
    timesteps: Timesteps = "exact"
    canvas: tuple[int, int] | None = None
    eight_bits: Literal["rounded", "cut"] = "rounded"
    unknown: Literal["rest", "zeros"] = "rest"
    refine_steps: int = 0
    labels: str = "none"
    cameras: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class WorldState:
    """Where every lane's rollout stands: all that the future depends on, indexable by lane.

    As here for worlds of single frames; `wcsim.world.clip_rollout` says what the fields hold in a world of clips.
    latents: `[N, past, C, h, w]` of the newest `max_context` frames, the newest last.  model_memory: `[N, past, P]`,
    what the world's state model remembers of each; only the state model reads it, and P is 0 without one.  actions:
    `[N, past, F]` features of the action that led to each frame, zero where none is known.  known: `[N, past]` bool,
    whether an action is known.  length: `[N]` how many of the frames are real (the newest ones).  frame: `[N]` episode
    index of the newest frame, which numbers the noise.  seed: `[N]`.  All integers are int64.
    """

    latents: Tensor
    model_memory: Tensor
    actions: Tensor
    known: Tensor
    length: Tensor
    frame: Tensor
    seed: Tensor

    @property
    def num_lanes(self) -> int:
        """Independent rollouts in this value."""
        return self.latents.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """Field name to tensor, in a fixed order."""
        return {name: getattr(self, name) for name in self.__slots__}

    def select(self, lanes: Tensor | list[int]) -> Self:
        """The given lanes, in the given order; repeats are allowed, which is how a planner branches."""
        index = torch.as_tensor(lanes, dtype=torch.int64, device=self.length.device)
        return replace(self, **{name: value[index] for name, value in self.tensors().items()})

    def branch(self, count: int) -> Self:
        """`count` copies of every lane, copies of one lane side by side.  They share their seed, hence their noise."""
        return self.select(torch.arange(self.num_lanes).repeat_interleave(count))

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        """The lanes of several states side by side, in order."""
        if len(states) == 1:
            return states[0]
        return cls(*(torch.cat([getattr(state, name) for state in states]) for name in cls.__slots__))

    def scatter(self, lanes: Tensor | list[int], other: WorldState) -> Self:
        """This state with `lanes` replaced by the lanes of `other`."""
        index = torch.as_tensor(lanes, dtype=torch.int64, device=self.length.device)
        return replace(self, **{name: value.index_copy(0, index.to(value.device), getattr(other, name))
                                for name, value in self.tensors().items()})


class BlockStack(Protocol):
    """The transformer at one denoise step, opened for a cache policy: tokens in, blocks in any range, velocity out.

    lanes: number of lanes N.  depth: number of blocks.  grid: latent frames, token rows, token columns; tokens are
    ordered so.  tail: tokens behind the grid, which are no place of any frame (actions, where they are tokens).
    branches: how many guided branches share the tokens: of every frame first the one, then the next, so that `grid[0]`
    counts each frame once per branch, and the tail has that of each branch.  context: how many of those leading frames
    are clean history, constant over the denoise steps; 0 where its keys and values are cached
    (`Fidelity.context_refresh`), since the tokens are then those of the other frames alone.
    sigma, next_sigma: noise level of the other frames at this step and after it, in [0, 1].
    """

    lanes: int
    depth: int
    grid: tuple[int, int, int]
    tail: int
    branches: int
    context: int
    sigma: float
    next_sigma: float

    @property
    def tokens(self) -> Tensor:
        """The latents as the first block reads them, `[N, L, D]`; embedded when first asked for."""
        ...

    def run(self, tokens: Tensor, first: int, last: int, lanes: Tensor | None = None) -> Tensor:
        """Blocks `first` up to but not including `last`, on tokens `[B, L, D]` of `lanes` `[B]` (an index on their
        device; None: all lanes)."""
        ...

    def modulated(self, tokens: Tensor) -> Tensor:
        """What the first block's self-attention reads, `[N, L, D]`: tokens normalised, then scaled and shifted by noise
        level and action."""
        ...

    def velocity(self, tokens: Tensor) -> Tensor:
        """What the last layer makes of the output tokens `[N, L, D]` of the last block: the velocity of the frames that
        are generated, `[N, b, k, C, h, w]`, by branch."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy did at one denoise step.

    hit: `[N]` bool on the host, whether the deep blocks were skipped.  drift, threshold, gain: `[N]` float32, NaN where
    the policy has no such number.  by_branch: where guided branches decide for themselves, the `hit` of each by its
    name; `hit` is then whether all skipped, and the numbers are those of the conditional branch.
    """

    hit: Tensor
    drift: Tensor
    threshold: Tensor
    gain: Tensor
    by_branch: dict[str, Tensor] = field(default_factory=dict)


class CachePolicy(Protocol):
    """When to skip deep blocks, and what to use instead.  Immutable: one object serves every lane and rollout; what it
    remembers travels in the state.  Inherit from it: `static_schedule` has a default."""

    __slots__ = ()

    def init(self, num_lanes: int, num_steps: int) -> Any:
        """Fresh state for one denoise loop of `num_steps` over `num_lanes`."""
        ...

    def forward(self, stack: BlockStack, step: int, state: Any) -> tuple[Tensor, Any, Decision]:
        """The velocity `[N, b, k, C, h, w]` at this denoise step, by all blocks or by an approximation."""
        ...

    def static_schedule(self, sigmas: Sequence[float]) -> Sequence[int] | None:
        """The steps at which it runs the transformer, in a denoise loop over these noise levels: of a policy that
        decides by them alone and asks the transformer for nothing at the steps that it skips.  None: it decides as it
        goes."""
        del sigmas
        return None


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How well to imagine.

    steps: denoise steps.  cache: the policy.  solver: `euler` or `unipc`.  context: most clean frames to look back on,
    None for all that the world allows.  chunk: most frames generated together, None likewise.  guidance: g of
    v = c + g (c - u), the velocities with and without the prompt; 0 needs one branch alone.  guidance_until: noise
    level in [0, 1] below which the branch with the prompt goes on alone (Kynkaanniemi et al. 2024, arXiv 2404.07724,
    whose interval it ends); 0 guides to the end.  decide: whether the cache
    skips in both branches or in neither (`together`), or each branch has a cache of its own (`apart`).  batched:
    whether branches that decide together share a batch; where memory is short they do not.  context_refresh: how
    far, of 1, the root of the noise level may fall before the blocks read the context again; until then they attend to
    its cached keys and values (`wcsim.world.context`).  0 reads it in every pass, 1 once per chunk.
    """

    steps: int
    cache: CachePolicy
    solver: str = "euler"
    context: int | None = None
    chunk: int | None = None
    guidance: float = 0.0
    decide: Decide = "together"
    batched: bool = True
    guidance_until: float = 0.0
    context_refresh: float = 0.0


@dataclass(frozen=True, slots=True)
class Trace:
    """What one `advance` did, per chunk K, denoise step S and lane N.

    hit: `[K, S, N]` bool.  drift, threshold, gain: `[K, S, N]` float32.  blocks: `[K, S, N]` int64, blocks run.
    depth: blocks of a full pass.  Branches that decide together count once in both; where they decide apart, `blocks`
    and `depth` add up over them, and by_branch has the `hit` of each by its name.  spans_ms: time per span; the only
    part that differs between identical calls.
    """

    hit: np.ndarray
    drift: np.ndarray
    threshold: np.ndarray
    gain: np.ndarray
    blocks: np.ndarray
    depth: int
    spans_ms: dict[str, float] = field(default_factory=dict)
    by_branch: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def hit_rate(self) -> float:
        """Share of (denoise step, lane) pairs whose deep blocks were skipped."""
        return float(self.hit.mean())

    @property
    def skipped(self) -> float:
        """Share of the blocks of plain passes that were not run."""
        return 1.0 - float(self.blocks.mean()) / self.depth


class CostFn(Protocol):
    """Scores action sequences `[N, T, A]`; returns `[N]`, lower is better.  All that a planner knows of the world."""

    def __call__(self, actions: np.ndarray) -> np.ndarray: ...
