"""The base models of Cosmos-Predict2.5: a clip from text, from an image or from the end of a video.

They read no actions, so they are no worlds to step; sampler, codec and caches are the same.  Easy to get wrong: of a
video only the last frames are read, 1 or 5 of them, and everything behind them is imagined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.errors import ConfigError
from wcsim.types import CachePolicy, Decide, Decision
from wcsim.world.clips import Sampling, sample_clip
from wcsim.world.codec import ClipCodec
from wcsim.world.guardrail import Guardrail
from wcsim.world.guidance import Guidance
from wcsim.world.noise import chunk_noise

GIVEN = (0, 1, 5)
"""Frames that are read: none, an image, or the last of a video."""


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """size: H, W in pixels, multiples of 16.  frames: 1 + 4 n.  The defaults are the official ones; guidance: g of
    v = c + g (c - u), 0 for one branch.  guidance_until, decide, context_refresh: see `wcsim.types.Fidelity`."""

    size: tuple[int, int] = (704, 1280)
    frames: int = 93
    steps: int = 36
    guidance: float = 7.0
    guidance_until: float = 0.0
    seed: int = 0
    solver: str = "unipc-karras"
    decide: Decide = "together"
    batched: bool = True
    context_refresh: float = 0.0

    def __post_init__(self) -> None:
        if any(side < 16 or side % 16 for side in self.size):
            raise ConfigError(f"size is {list(self.size)}; both sides must be multiples of 16")
        if self.frames < 1 or self.frames % 4 != 1:
            raise ConfigError(f"frames is {self.frames}; it must be 1 + 4 n")


@torch.no_grad()
def imagine_clip(
    parts: tuple[ActionCosmosTransformer, ClipCodec],
    request: ClipRequest,
    policy: CachePolicy,
    *,
    text: Tensor,
    unconditional: Tensor | None = None,
    given: np.ndarray | None = None,
    guardrail: Guardrail | None = None,
) -> tuple[np.ndarray, list[Decision]]:
    """A clip uint8 `[T, H, W, 3]`, and what the cache decided.

    text, unconditional: features `[1, S, E]` of the prompt and of what to guide away from.  given: None from text
    alone, uint8 `[1, H, W, 3]` from an image, `[T, H, W, 3]` from the last 5 frames of a video.
    """
    transformer, codec = parts
    (height, width), device = request.size, transformer.device
    if request.guidance > 0 and unconditional is None:
        raise ConfigError(f"guidance is {request.guidance:g} and needs the features of a negative prompt; 0 needs none")
    latent = (codec.latent_channels, height // codec.compression, width // codec.compression)
    count = 1 + request.frames // codec.frames_per_latent
    noise = chunk_noise(torch.tensor([request.seed]), torch.tensor([0]), count, latent).to(device)
    context = codec.encode(last_frames(given, request)[None]) if given is not None else noise[:, :0]
    if context.shape[1] >= count:
        raise ConfigError(f"{request.frames} frames leave nothing to imagine behind those that are given")
    guidance = None
    if request.guidance > 0 and unconditional is not None:
        guidance = Guidance(request.guidance, unconditional.to(device), request.batched, request.decide,
                            request.guidance_until)
    sampling = Sampling(request.steps, request.solver, guidance=guidance, context_refresh=request.context_refresh)
    latents, decisions, _ = sample_clip(transformer, context, noise, text.to(device), sampling, policy)
    frames: np.ndarray = codec.decode(latents)[0]
    return frames if guardrail is None else guardrail.check_frames(frames), decisions


def last_frames(given: np.ndarray, request: ClipRequest) -> np.ndarray:
    """The frames of an image or a video that the model reads."""
    shape = (len(given), *request.size, 3)
    if given.shape != shape or given.dtype != np.uint8 or not len(given):
        raise ConfigError(f"given are {given.dtype} {list(given.shape)}; needed are uint8 {['T', *shape[1:]]}")
    return given[-max(count for count in GIVEN if count <= len(given)) :]
