"""Rollouts of a world of clips: official robot models, which imagine a chunk of frames from the last one, all at once.

The interface is `World`'s, a frame per action: a frame is passed as pixels, `[3, H, W]` in
[-1, 1], and latents never leave.  A chunk whose actions are not all known yet is imagined with the rest at rest, and
only its known frames are shown; it is imagined again as more become known, always from the frame it began with, the
anchor.  So twelve actions at once are the official loop, and one at a time costs twelve times as much.  Easy to get
wrong: the context moves on at the end of a chunk, not with every frame.

What the fields of `WorldState` hold here: latents, the anchor's.  actions, known: `[N, max_chunk, F]` and
`[N, max_chunk]`, those taken since the anchor, first one first.  length: how many of the anchor's latents are real.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wcsim.actions import check_action, held, rest_of
from wcsim.errors import WcsimError
from wcsim.spans import Spans
from wcsim.types import Fidelity, WorldState
from wcsim.world.checks import check_frames, check_start
from wcsim.world.clips import Sampling, sample_clip
from wcsim.world.codec import to_frames, to_pixels
from wcsim.world.guidance import CONDITIONAL
from wcsim.world.noise import chunk_noise
from wcsim.world.rollout import Chunk, Parts
from wcsim.world.traces import merge_lanes


@dataclass(frozen=True, slots=True)
class ClipRollout:
    """See the module and `wcsim.world.rollout.Rollout`."""

    parts: Parts

    def encode(self, frames: np.ndarray, refine_steps: int | None = None) -> Tensor:
        """Pixels `[..., 3, H, W]` in [-1, 1] of uint8 frames `[..., H, W, 3]`; nothing is lost, so there is
        nothing to refine."""
        del refine_steps
        check_frames(self.parts.spec, frames)
        pixels = to_pixels(torch.from_numpy(frames.reshape(-1, *frames.shape[-3:])).to(self.parts.device))
        return pixels.view(*frames.shape[:-3], *pixels.shape[1:])

    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames uint8 `[..., H, W, 3]` of pixels `[..., 3, H, W]`."""
        frames: np.ndarray = to_frames(latents.reshape(-1, *latents.shape[-3:])).cpu().numpy()
        return frames.reshape(*latents.shape[:-3], *frames.shape[1:])

    def init(self, frames: np.ndarray, actions: np.ndarray, seeds: list[int] | np.ndarray) -> WorldState:
        """Begin at the last of frames `[N, T, H, W, 3]` uint8.  Of actions `[N, T-1, A]` the model sees none: it looks
        back on frames alone."""
        spec = self.parts.spec
        check_start(spec, frames, actions, seeds)
        check_action(spec.action, actions)
        check_frames(spec, frames)
        state = self.parts.empty(seeds, spec.max_chunk)
        return self._anchor(replace(state, frame=state.frame + frames.shape[1]), self._look_back(frames))

    def observe(self, state: WorldState, latents: Tensor, actions: np.ndarray) -> WorldState:
        """Go on from one real frame per lane: pixels `[N, 3, H, W]`; the actions `[N, A]` are only checked."""
        check_action(self.parts.spec.action, actions)
        return self._anchor(replace(state, frame=state.frame + 1), self._look_back(self.decode(latents)[:, None]))

    def _look_back(self, frames: np.ndarray) -> Tensor:
        """Latents `[N, c, C, h, w]` of as many of the last frames `[N, T, H, W, 3]` as a clip can hold, c >= 1."""
        share = self.parts.spec.frames_per_latent
        latents = min(1 + (frames.shape[1] - 1) // share, self.parts.spec.max_context)
        encoded: Tensor = self.parts.codec.encode(frames[:, -(1 + share * (latents - 1)) :])
        return encoded

    def _anchor(self, state: WorldState, latents: Tensor) -> WorldState:
        """A chunk begins behind these latents `[N, c, C, h, w]`; no action is known yet."""
        count, past = latents.shape[1], self.parts.spec.max_context
        return replace(
            state,
            latents=torch.cat([state.latents, latents], dim=1)[:, -past:],
            actions=torch.zeros_like(state.actions), known=torch.zeros_like(state.known),
            length=torch.full_like(state.length, min(count, past)),
        )

    def split(self, state: WorldState, actions: Tensor, chunk: int) -> Sequence[Tensor]:
        """What is left of the chunk under way, then whole chunks."""
        pending = state.known.sum(1).cpu()
        count, first = actions.shape[1], chunk - int(pending.max())
        if count > 1 and (pending != pending[0]).any():
            raise WcsimError(f"the lanes have taken {pending.tolist()} actions of their chunks of {chunk}; advance "
                             "them by one action at a time, or apart")
        return [actions[:, :first], *actions[:, first:].split(chunk, dim=1)] if count > first else [actions]

    def chunk(self, state: WorldState, actions: Tensor, fidelity: Fidelity, context: int, spans: Spans) -> Chunk:
        """See `Rollout`; lanes alike in context and progress together."""
        lengths, pending = state.length.clamp(max=context), state.known.sum(1).cpu()
        alike = lengths * (self.parts.spec.max_chunk + 1) + pending
        parts = []
        for group in alike.unique().tolist():
            lanes = (alike == group).nonzero().squeeze(1)
            length, taken = divmod(group, self.parts.spec.max_chunk + 1)
            some, *imagined = self._pass(state.select(lanes), actions[lanes], fidelity, length, taken, spans)
            state = state.scatter(lanes, some)
            parts.append((lanes, *imagined))
        return state, *merge_lanes(parts)

    def _pass(
        self, state: WorldState, actions: Tensor, fidelity: Fidelity, length: int, taken: int, spans: Spans
    ) -> Chunk:
        """The chunk behind the anchor, under the actions taken and `actions` `[N, m, F]`; shows the m new frames."""
        spec, count = self.parts.spec, actions.shape[1]
        state = replace(
            state,
            actions=torch.cat([state.actions[:, :taken], actions, state.actions[:, taken + count :]], dim=1),
            known=torch.arange(spec.max_chunk, device=self.parts.device).expand_as(state.known) < taken + count,
            frame=state.frame + count,
        )
        read, known = self.reads(state.actions, taken + count, length)
        first = state.frame - (taken + count)
        noise = chunk_noise(state.seed, first, length + spec.max_chunk // spec.frames_per_latent, spec.latent_shape)
        sampling = Sampling(fidelity.steps, fidelity.solver, spec.flow_shift, spec.context_sigma,
                            self.parts.guidance(fidelity), fidelity.context_refresh, spec.walk, spec.timesteps)
        latents, decisions, blocks = sample_clip(
            self.parts.transformer, state.latents[:, -length:], noise.to(state.latents), self.parts.texts[CONDITIONAL],
            sampling, fidelity.cache, actions=read, known=known, spans=spans,
        )
        with spans("codec"):
            chunk = self.parts.codec.decode(latents)[:, -spec.max_chunk :]
            if taken + count == spec.max_chunk:
                past = self._look_back(chunk[:, -1:]) if spec.carry == "pixels" else latents[:, -spec.max_context :]
                state = self._anchor(state, past)
            shown = self.encode(chunk[:, taken : taken + count])
        return state, shown, decisions, blocks

    def reads(self, actions: Tensor, taken: int, length: int) -> tuple[Tensor, Tensor]:
        """What is read of the actions behind `length` latents of context: `[N, T, F]`, and where `[N, T]` there is one;
        where they are tokens, `[N, A, F]` and `[N, A]`.

        Actions not known yet are rest, no change, and what is absolute stays as it is; or zeros.
        """
        spec = self.parts.spec
        absolute = torch.from_numpy(held(spec.action)).to(self.parts.device)
        still = torch.from_numpy(rest_of(spec.action)).to(actions)
        rest = torch.where(absolute, actions[:, max(taken - 1, 0)], still).unsqueeze(1)
        rest = torch.zeros_like(rest) if spec.unknown == "zeros" else rest
        padded = torch.cat([actions[:, :taken], rest.expand(-1, spec.max_chunk - taken, -1)], dim=1)
        padded = torch.where(absolute, padded, summed(padded, spec.action.summed))
        lanes, new = len(actions), spec.max_chunk // spec.frames_per_latent
        if spec.reads == "tokens":
            return padded, torch.ones(padded.shape[:2], dtype=torch.bool, device=self.parts.device)
        if spec.reads == "chunk":
            whole = padded.flatten(1).unsqueeze(1).expand(-1, length + new, -1)
            return whole, torch.ones(lanes, length + new, dtype=torch.bool, device=self.parts.device)
        own = padded.view(lanes, new, -1)
        known = torch.arange(length + new, device=self.parts.device) >= length
        return torch.cat([own.new_zeros(lanes, length, own.shape[-1]), own], dim=1), known.expand(lanes, -1)


def summed(actions: Tensor, group: int) -> Tensor:
    """Actions `[N, K, F]`, each the sum of itself and those before it in its group."""
    return actions if group == 1 else actions.unflatten(1, (-1, group)).cumsum(2).flatten(1, 2)
