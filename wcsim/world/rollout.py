"""How a world steps: its parts, and the two ways in which a rollout begins and goes on.

A world whose latents hold one frame each steps frame by frame (`wcsim.world.frame_rollout`); one whose frames share
latents steps clip by clip (`wcsim.world.clip_rollout`).  `wcsim.world.world.World` is one interface over both.  Easy to
get wrong: lanes whose histories differ in length share a batch, and must not notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from wcsim.backbones.backbone import Backbone, Text
from wcsim.errors import ConfigError
from wcsim.spans import Spans
from wcsim.types import Decision, Fidelity, WorldSpec, WorldState
from wcsim.world.guidance import UNCONDITIONAL, Guidance
from wcsim.world.state_model import StateModel

Chunk = tuple[WorldState, Tensor, list[Decision], Tensor]
"""What one pass gives: the state after it, the new frames' latents `[N, m, ...]`, the decision of every denoise step,
and the blocks run `[S, N]`."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a world is made of.  texts: prompts by branch, as the blocks read them.  device: where states live, too."""

    spec: WorldSpec
    transformer: Backbone
    codec: Any
    state_model: StateModel | None
    texts: Mapping[str, Text]
    device: torch.device

    def guidance(self, fidelity: Fidelity) -> Guidance | None:
        """What a fidelity asks for, None at scale 0; ConfigError where there is no text to guide away from."""
        scale = fidelity.guidance
        if scale == 0:
            return None
        if UNCONDITIONAL not in self.texts:
            raise ConfigError(f"fidelity.guidance is {scale:g}; world {self.spec.name!r} has no {UNCONDITIONAL} text "
                              "and allows only 0")
        return Guidance(scale, self.texts[UNCONDITIONAL], fidelity.batched, fidelity.decide, fidelity.guidance_until)

    def empty(self, seeds: list[int] | np.ndarray, actions_held: int) -> WorldState:
        """Lanes without any frame yet, the next of which has index 0.  actions_held: past actions in the state."""
        lanes, past, spec = len(seeds), self.spec.max_context, self.spec
        zeros = torch.zeros(lanes, dtype=torch.int64)
        memory = 0 if self.state_model is None else self.state_model.memory_size
        return WorldState(
            latents=torch.zeros(lanes, past, *spec.latent_shape, device=self.device),
            model_memory=torch.zeros(lanes, past, memory, device=self.device),
            actions=torch.zeros(lanes, actions_held, spec.action.num_features, device=self.device),
            known=torch.zeros(lanes, actions_held, dtype=torch.bool, device=self.device),
            length=zeros, frame=zeros - 1, seed=torch.as_tensor(np.asarray(seeds, dtype=np.int64)),
        )


class Rollout(Protocol):
    """See `World`, whose methods of the same names call these; arguments are checked where something is begun."""

    def encode(self, frames: np.ndarray, refine_steps: int | None = None) -> Tensor: ...

    def decode(self, latents: Tensor) -> np.ndarray: ...

    def init(self, frames: np.ndarray, actions: np.ndarray, seeds: list[int] | np.ndarray) -> WorldState: ...

    def observe(self, state: WorldState, latents: Tensor, actions: np.ndarray) -> WorldState: ...

    def split(self, state: WorldState, actions: Tensor, chunk: int) -> Sequence[Tensor]:
        """Action features `[N, k, F]` by the pass that takes them."""
        ...

    def chunk(self, state: WorldState, actions: Tensor, fidelity: Fidelity, context: int, spans: Spans) -> Chunk:
        """One pass for all lanes, under action features `[N, m, F]`, looking back on at most `context` latents."""
        ...
