"""What a rollout needs beside the weights, estimated before it begins, and how many lanes fit at once.

Tensors of a token's width make up nearly all of it, so they are counted: those that one block holds at its fullest
moment, those that a cache remembers between steps, and those of the context where it is cached.  Easy to get wrong:
attention is taken to run without its score matrix, as every backend of torch but the plainest does.

Shape suffixes: N lanes, L tokens, D width.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from wcsim.backbones.backbone import Geometry
from wcsim.errors import ConfigError
from wcsim.types import Fidelity, WorldSpec

VARIABLE = "WCSIM_MEMORY_GB"
"""Environment variable with the limit for worlds that were given none."""

SAVED = 10
"""Tensors `[N, L, D]` that live between the blocks: the tokens, and what the fullest cache remembers."""

JOINED = 3
"""More of them, per branch, where branches run together: they are put side by side and taken apart."""

LATENTS = 12
"""Tensors of the size of the latents, float32: the solver's history, the input channels, the velocities."""

CODEC_LIVE = 10
"""Full-resolution feature maps of the autoencoder's first width that are alive at once."""

SHARE = 0.9
"""Of a device's free memory, the rest being lost to fragments."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes beside the weights.  fixed: however many lanes there are.  per_lane: for each of them."""

    fixed: int
    per_lane: int

    def total(self, lanes: int) -> int:
        """Bytes for so many lanes at once."""
        return self.fixed + lanes * self.per_lane

    def lanes_within(self, limit: int) -> int:
        """The most lanes that fit; 0 where not even one does."""
        return max(0, (limit - self.fixed) // self.per_lane)


def rollout_memory(
    geometry: Geometry, spec: WorldSpec, fidelity: Fidelity, *, text_tokens: int, size: int,
    codec_width: int = 0,
) -> Need:
    """The need of one `World.advance`.  geometry: the transformer's.  size: bytes per number in its blocks.
    codec_width: feature maps at full resolution where frames are decoded on the way, as in worlds of clips."""
    width, depth, (patch_h, patch_w) = geometry.width, geometry.depth, geometry.patch
    channels, height, columns = spec.latent_shape
    frames = (fidelity.context or spec.max_context) + (fidelity.chunk or spec.max_chunk) // spec.frames_per_latent
    places = -(-height // patch_h) * -(-columns // patch_w)
    tokens = frames * places + (spec.max_chunk if geometry.action_tokens else 0)
    branches = 2 if fidelity.guidance > 0 else 1
    at_once = branches if fidelity.decide == "together" and fidelity.batched else 1
    attending = 6 * size + 4 * 4  # read, normed, query, key, value, answer; the rotation works in float32
    feeding = size * (3 + 2 * geometry.feed_forward)
    modulation = 12 * frames * width * 4
    saved = branches * (SAVED + (JOINED if at_once > 1 else 0)) * size
    per_lane = tokens * width * (saved + at_once * max(attending, feeding)) + at_once * modulation
    per_lane += LATENTS * frames * channels * height * columns * 4
    if fidelity.context_refresh:
        context = places * (fidelity.context or spec.max_context)
        per_lane += branches * (2 * depth + 1) * context * width * size
    texts = branches * 2 * depth * text_tokens * width * size
    pixels = spec.frame_size[0] * spec.frame_size[1]
    if codec_width:
        per_lane += 2 * spec.max_chunk * 3 * pixels * 4
    codec = CODEC_LIVE * codec_width * spec.frames_per_latent * pixels * 4
    return Need(fixed=int(max(texts + geometry.step_bytes, codec)), per_lane=int(per_lane))


def lots(lanes: int, need: Need, limit: int) -> list[list[int]]:
    """Lanes by the batches in which they fit below `limit` bytes, as even as can be; ConfigError where none fits."""
    most = need.lanes_within(limit)
    if most < 1:
        raise ConfigError(f"one lane needs about {need.total(1) / 1e9:.3g} GB beside the weights; allowed are "
                          f"{limit / 1e9:.3g} (memory_limit, or {VARIABLE}): use a smaller chunk, no guidance or a "
                          "smaller dtype")
    count = -(-lanes // most)
    return [part.tolist() for part in torch.arange(lanes).tensor_split(count)]


def memory_limit(device: torch.device) -> int | None:
    """Bytes that may be used beside what is in use: `WCSIM_MEMORY_GB`, or what a GPU has free, or None: unknown."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        try:
            return int(float(given) * 1e9)
        except ValueError:
            raise ConfigError(f"{VARIABLE} is {given!r}; it must be a number") from None
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(SHARE * (free + idle))
