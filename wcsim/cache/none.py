"""No caching: every block runs at every denoise step.  What every other policy is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from wcsim.cache.gate import PolicyConfig
from wcsim.cache.reuse import full_pass
from wcsim.types import BlockStack, CachePolicy, Decision


@dataclass(frozen=True, slots=True)
class NoCache(CachePolicy):
    """The plain transformer."""

    class Config(PolicyConfig):
        kind: Literal["none"] = "none"

        def build(self) -> NoCache:
            """The policy."""
            return NoCache()

    def init(self, num_lanes: int, num_steps: int) -> None:
        """Nothing to remember."""
        del num_lanes, num_steps

    def forward(self, stack: BlockStack, step: int, state: None) -> tuple[Tensor, None, Decision]:
        """All blocks: the velocity `[N, b, k, C, h, w]`."""
        del step, state
        return stack.velocity(stack.run(stack.tokens, 0, stack.depth)), None, full_pass(stack.lanes)
