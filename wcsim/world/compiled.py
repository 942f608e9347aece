"""The parts of a world as graphs of `torch.compile`: as many as there are shapes in which a rollout asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from wcsim.world.rollout import Parts

GRAPHS = 64
"""Most graphs of one function that may be made in a process."""


def compile_world(parts: Parts, **options: Any) -> None:
    """Let `torch.compile` (which takes the options) make graphs of whatever a rollout runs at every step: block
    ranges and what modulates them, the state model, and the decoder of a codec of single frames.

    The cache and the sampler, which read the host, stay outside.  Each block range, each number of lanes and each way
    to treat the context compiles once, which is more often than torch expects of one function, so its limit (of the
    process) is raised.
    """
    from torch import _dynamo as dynamo  # seconds, which only those who compile should wait

    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, GRAPHS)

    def graph(function: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any] = torch.compile(function, fullgraph=True, **options)
        return made

    transformer: Any = parts.transformer
    transformer.run_blocks = graph(transformer.run_blocks)
    for part in transformer.compiled_parts:
        setattr(transformer, part, graph(getattr(transformer, part)))
    if parts.spec.frames_per_latent == 1:
        parts.codec.reconstruct = graph(parts.codec.reconstruct)
    if parts.state_model is not None:
        model: Any = parts.state_model
        model.control, model.update = graph(model.control), graph(model.update)
