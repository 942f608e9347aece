"""Clips as the official pipelines of video models sample them: all latent frames together, the first few given.

Given frames enter every denoise step clean.  Predict2.5's loop walks their own noise to them beside the new frames;
Cosmos 3's leaves them alone.  Easy to get wrong: the walk ends only near the given frames (the first noise level is not
quite 1), and the decoder, causal in time, should see what the official one sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wcsim.backbones.backbone import Backbone, Text
from wcsim.spans import Spans
from wcsim.types import CachePolicy, Decision, Timesteps
from wcsim.world.guidance import Guidance
from wcsim.world.sampler import Window, denoise, make_scheduler


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a clip is sampled.

    solver, flow_shift: see `wcsim.world.sampler.SOLVERS`.  context_sigma: noise level that given frames are said to
    have; below 0, that of the new ones.  guidance: None for one branch.  context_refresh: see `wcsim.types.Fidelity`.
    walk, timesteps: see `wcsim.types.WorldSpec`.
    """

    steps: int
    solver: str
    flow_shift: float = 1.0
    context_sigma: float = 1e-4
    guidance: Guidance | None = None
    context_refresh: float = 0.0
    walk: bool = True
    timesteps: Timesteps = "exact"


def sample_clip(
    transformer: Backbone,
    context: Tensor,
    noise: Tensor,
    text: Tensor | Text,
    sampling: Sampling,
    policy: CachePolicy,
    *,
    actions: Tensor | None = None,
    known: Tensor | None = None,
    spans: Spans | None = None,
) -> tuple[Tensor, list[Decision], Tensor]:
    """Latents `[N, T, C, h, w]`, the decision of every step, and the blocks run `[S, N]`.

    context: latents `[N, c, C, h, w]` of the given frames; c = 0 from text alone, 1 from an image, more from a video.
    noise: `[N, T, C, h, w]`, T > c, float32.  text, actions, known: see `wcsim.world.sampler.Window`.
    """
    given = context.shape[1]
    walk = noise[:, :given] if sampling.walk else None
    window = Window(context, noise[:, given:], actions, known, text, sampling.guidance, walk)
    scheduler = make_scheduler(sampling.solver, sampling.steps, sampling.flow_shift)
    latents, decisions, blocks = denoise(
        transformer, window, scheduler, policy, context_sigma=sampling.context_sigma,
        spans=spans or Spans(noise.device), refresh=sampling.context_refresh, timesteps=sampling.timesteps)
    return latents if sampling.walk else torch.cat([context, latents], dim=1), decisions, blocks
