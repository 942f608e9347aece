"""Clips of recordings, encoded once: what a world of clips is fine-tuned on.

A clip is a context and the whole chunk behind it, as the world imagines it.  Contexts of every length have clips of
their own, because the first latent of a clip holds one frame and every other one several.  Easy to get wrong: an
autoencoder of clips needs far more memory than a pass of the transformer, so it never runs beside the training.

Shapes: n clips, T latent frames, C latent channels, h w latent pixels, A action, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wcsim.actions import features
from wcsim.errors import DataError
from wcsim.train.footage import Count, Footage, kept
from wcsim.train.windows import Draws, Window, reach_of
from wcsim.types import WorldSpec
from wcsim.world.clip_rollout import ClipRollout
from wcsim.world.codec import ClipCodec
from wcsim.world.rollout import Parts


@dataclass(frozen=True)
class ClipPool:
    """Clips of one context length.  latents: `[n, T, C, h, w]` float16, mapped from a file.  actions: `[n, max_chunk,
    A]`.  reach: running sum of how much every clip counts where they are drawn by change."""

    latents: np.ndarray
    actions: np.ndarray
    reach: np.ndarray


class Clips:
    """Draws clips of footage."""

    def __init__(self, footage: Footage, parts: Parts, draws: Draws, path: Path, most: int, count: Count) -> None:
        """parts: of the world.  path: stem of the files.  most: clips, of all context lengths together."""
        self._draws, self._rollout, self._spec = draws, ClipRollout(parts), parts.spec
        each = max(1, most // parts.spec.max_context)
        self._pools = {
            context: pool_of(footage, parts.codec, parts.spec, context, path.with_name(f"{path.name}_{context}.npy"),
                             each, count)
            for context in range(1, parts.spec.max_context + 1) if draws.context_shares[context - 1]}

    def draw(self, count: int, rng: np.random.Generator) -> Window:
        """`count` clips of one context length, some of them by how much the picture changes."""
        context = int(rng.choice(self._spec.max_context, p=self._draws.context_shares)) + 1
        pool = self._pools[context]
        evenly = rng.integers(len(pool.latents), size=count)
        moving = np.searchsorted(pool.reach, rng.random(count) * pool.reach[-1])
        index = np.where(rng.random(count) < self._draws.moving_share, moving, evenly)
        encoded = torch.from_numpy(features(self._spec.action, pool.actions[index]))
        actions, known = self._rollout.reads(encoded, self._spec.max_chunk, context)
        nothing = torch.zeros(count, 0)
        return Window(torch.from_numpy(pool.latents[index].astype(np.float32)), actions, known, nothing, nothing,
                      context)


def pool_of(footage: Footage, codec: ClipCodec, spec: WorldSpec, context: int, path: Path, most: int, count: Count
            ) -> ClipPool:
    """Up to `most` clips, evenly taken, encoded once into a file.  DataError where no episode is long enough."""
    before = 1 + spec.frames_per_latent * (context - 1)
    length = before + spec.max_chunk
    starts = np.array([(number, tick) for number, frames in enumerate(footage.lengths)
                       for tick in range(frames - length + 1)])
    if not len(starts):
        raise DataError(f"no episode of {footage.recordings.path} has {length} frames, which a clip of world "
                        f"{spec.name!r} needs; the longest has {int(footage.lengths.max())}")
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, min(most, len(starts))).round().astype(np.int64))]

    def encoded() -> Iterator[np.ndarray]:
        for number, tick in chosen.tolist():
            yield codec.encode(footage.frames(number, list(range(tick, tick + length)))[None]).half().cpu().numpy()

    shape = (len(chosen), context + spec.max_chunk // spec.frames_per_latent, *spec.latent_shape)
    latents = kept(path, shape, np.dtype(np.float16), encoded, count)
    begin = footage.first[chosen[:, 0]] + chosen[:, 1]
    actions = footage.actions[begin[:, None] + before + np.arange(spec.max_chunk)]
    change = np.array([np.abs(np.diff(clip[context - 1 :].astype(np.float32), axis=0)).mean() for clip in latents])
    return ClipPool(latents, actions, reach_of(change))
