"""The blocks, and their modulation, as graphs of `torch.compile`: as many as there are shapes in which a rollout asks
for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wcsim.types import Attend
from wcsim.world.conditioning import Conditioning

GRAPHS = 64
"""Most graphs of blocks that may be made in a process."""


def compile_blocks(transformer: Any, **options: Any) -> None:
    """Let `torch.compile` (which takes the options) make one graph of every block range that a cache asks for, and of
    what modulates them.

    The cache itself, which reads the host, stays outside, and blocks of which it reaches inside run as they are.  Each
    range, each number of lanes and each way to treat the context compiles once, which is more often than torch expects
    of one function, so its limit (of the process) is raised.
    """
    from torch import _dynamo as dynamo  # seconds, which only those who compile should wait

    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, GRAPHS)
    plain: Callable[..., Tensor] = type(transformer).run_blocks.__get__(transformer)
    compiled: Callable[..., Tensor] = torch.compile(plain, fullgraph=True, **options)

    def run_blocks(
        tokens_BLD: Tensor, first: int, last: int, given: Conditioning, attend: Attend | None = None, **context: Any
    ) -> Tensor:
        if attend is not None:
            return plain(tokens_BLD, first, last, given, attend, **context)
        return compiled(tokens_BLD, first, last, given, **context)

    transformer.run_blocks = run_blocks
    transformer.make_modulations = torch.compile(transformer.make_modulations, fullgraph=True, **options)
