"""Rollouts of a world of single frames: every frame has a latent of its own, and a chunk may be of any length.

Lanes whose histories differ in length are advanced in groups of equal length, so a lane that has just been reset and
one that is long under way share a batch without either noticing.  Easy to get wrong: the noise of a frame is numbered
by its index in the episode, not by its place in the chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wcsim.actions import check_action, features
from wcsim.spans import Spans
from wcsim.types import Fidelity, WorldState
from wcsim.world.checks import check_frames, check_start
from wcsim.world.guidance import CONDITIONAL
from wcsim.world.noise import chunk_noise
from wcsim.world.rollout import Chunk, Parts
from wcsim.world.sampler import Window, denoise, make_scheduler
from wcsim.world.traces import merge_lanes


@dataclass(frozen=True, slots=True)
class FrameRollout:
    """See the module and `wcsim.world.rollout.Rollout`."""

    parts: Parts

    def encode(self, frames: np.ndarray, refine_steps: int | None = None) -> Tensor:
        """Latents `[..., C, h, w]` of uint8 frames `[..., H, W, 3]`."""
        check_frames(self.parts.spec, frames)
        latents: Tensor = self.parts.codec.encode(frames, refine_steps)
        return latents

    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames uint8 `[..., H, W, 3]` of latents `[..., C, h, w]`."""
        frames: np.ndarray = self.parts.codec.decode(latents)
        return frames

    def init(self, frames: np.ndarray, actions: np.ndarray, seeds: list[int] | np.ndarray) -> WorldState:
        """The state behind frames `[N, T, H, W, 3]` uint8, T >= 1, and actions `[N, T-1, A]`."""
        spec, device = self.parts.spec, self.parts.device
        check_start(spec, frames, actions, seeds)
        (lanes, count), encoded = frames.shape[:2], features(spec.action, check_action(spec.action, actions))
        latents, known = self.encode(frames), torch.ones(lanes, count, dtype=torch.bool, device=device)
        known[:, 0] = False
        padded = np.concatenate([np.zeros((lanes, 1, encoded.shape[-1]), np.float32), encoded], axis=1)
        state = self.parts.empty(seeds, spec.max_context)
        return self._append(state, latents, torch.from_numpy(padded).to(device), known, seen=True)

    def observe(self, state: WorldState, latents: Tensor, actions: np.ndarray) -> WorldState:
        """Append one real frame per lane: latents `[N, C, h, w]` and the actions `[N, A]` that led to it."""
        action, device = self.parts.spec.action, self.parts.device
        encoded = torch.from_numpy(features(action, check_action(action, actions)))
        known = torch.ones(state.num_lanes, 1, dtype=torch.bool, device=device)
        return self._append(state, latents.unsqueeze(1), encoded.unsqueeze(1).to(device), known, seen=True)

    def split(self, state: WorldState, actions: Tensor, chunk: int) -> Sequence[Tensor]:
        """Action features `[N, k, F]` by the pass that takes them."""
        del state
        parts: Sequence[Tensor] = actions.split(chunk, dim=1)
        return parts

    def chunk(self, state: WorldState, actions: Tensor, fidelity: Fidelity, context: int, spans: Spans) -> Chunk:
        """See `Rollout`; lanes of equal context length together."""
        lengths = state.length.clamp(max=context)
        count = actions.shape[1]
        noise = chunk_noise(state.seed, state.frame + 1, count, self.parts.spec.latent_shape)
        known = torch.ones(actions.shape[:2], dtype=torch.bool, device=self.parts.device)
        parts = []
        for length in lengths.unique().tolist():
            lanes = (lengths == length).nonzero().squeeze(1)
            some, taken = state.select(lanes), actions[lanes]
            with spans("state_model"):
                control = self._control(some, taken, length)
            window = Window(
                context=some.latents[:, -length:],
                noise=noise[lanes].to(some.latents),
                actions=torch.cat([some.actions[:, -length:], taken], dim=1),
                known=torch.cat([some.known[:, -length:], known[lanes]], dim=1),
                text=self.parts.texts[CONDITIONAL],
                guidance=self.parts.guidance(fidelity),
                control=control,
            )
            scheduler = make_scheduler(fidelity.solver, fidelity.steps, self.parts.spec.flow_shift)
            parts.append((lanes, *denoise(self.parts.transformer, window, scheduler, fidelity.cache,
                                          context_sigma=self.parts.spec.context_sigma, spans=spans,
                                          refresh=fidelity.context_refresh)))
        latents, decisions, blocks = merge_lanes(parts)
        with spans("state_model"):
            after = self._append(state, latents, actions, known, seen=False)
        return after, latents, decisions, blocks

    def _control(self, state: WorldState, actions: Tensor, length: int) -> Tensor | None:
        """What the state model draws of the last `length` frames and those that follow under action features
        `[N, k, F]`: maps `[N, K, length + k, h, w]`; None where it draws nothing."""
        model = self.parts.state_model
        if model is None or not model.control_channels:
            return None
        maps = model.control(state.model_memory, torch.cat([state.actions, actions], dim=1), state.known)
        return maps[:, :, -length - actions.shape[1] :]

    def _append(self, state: WorldState, latents: Tensor, actions: Tensor, known: Tensor, *, seen: bool) -> WorldState:
        """The state after `[N, k]` more frames, `seen` or imagined."""
        past, count = self.parts.spec.max_context, latents.shape[1]
        actions, known = torch.cat([state.actions, actions], dim=1), torch.cat([state.known, known], dim=1)
        memory = (latents.new_zeros(*latents.shape[:2], 0) if self.parts.state_model is None
                  else self.parts.state_model.update(state.model_memory, latents, actions, known, seen=seen))
        return replace(
            state,
            latents=torch.cat([state.latents, latents], dim=1)[:, -past:],
            model_memory=torch.cat([state.model_memory, memory], dim=1)[:, -past:],
            actions=actions[:, -past:],
            known=known[:, -past:],
            length=(state.length + count).clamp(max=past),
            frame=state.frame + count,
        )
