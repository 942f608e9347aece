"""A world of clips: the official robot models, which imagine a chunk of frames from the last one, all at once.

Its interface is `World`'s, a frame per action: what stands for a frame outside is the picture itself, `[3, H, W]` in
[-1, 1], and latents stay inside.  A chunk whose actions are not all known yet is imagined with the rest at rest, and
only its known frames are shown; it is imagined again as more become known, always from the frame it began with, the
anchor.  So twelve actions at once are the official loop, and one at a time costs twelve times as much.  Easy to get
wrong: the context moves on at the end of a chunk, not with every frame.

What the fields of `WorldState` hold here: latents, the anchor's.  actions, known: `[N, max_chunk, F]` and
`[N, max_chunk]`, those taken since the anchor, first one first.  length: how many of the anchor's latents are real.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from wcsim.actions import check_action
from wcsim.errors import WcsimError
from wcsim.spans import Spans
from wcsim.types import Decision, Fidelity, WorldState
from wcsim.world.clips import Sampling, sample_clip
from wcsim.world.codec import to_frames, to_pixels
from wcsim.world.guidance import CONDITIONAL
from wcsim.world.noise import chunk_noise
from wcsim.world.traces import merge_lanes
from wcsim.world.world import World, check_frames


class ClipWorld(World):
    """See the module."""

    def encode(self, frames: np.ndarray, refine_steps: int | None = None) -> Tensor:
        """Pictures `[..., 3, H, W]` in [-1, 1] of uint8 frames `[..., H, W, 3]`; nothing is lost, so there is
        nothing to refine."""
        check_frames(self.spec, frames)
        pixels = to_pixels(torch.from_numpy(frames.reshape(-1, *frames.shape[-3:])).to(self.device))
        return pixels.view(*frames.shape[:-3], *pixels.shape[1:])

    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames uint8 `[..., H, W, 3]` of pictures `[..., 3, H, W]`."""
        frames: np.ndarray = to_frames(latents.reshape(-1, *latents.shape[-3:])).cpu().numpy()
        return self._guarded(frames.reshape(*latents.shape[:-3], *frames.shape[1:]))

    def init(self, frames: np.ndarray, actions: np.ndarray, seeds: list[int] | np.ndarray) -> WorldState:
        """Begin rollouts at the last of frames `[N, T, H, W, 3]` uint8; see `World.init`.  Of actions `[N, T-1, A]`
        the model sees none: it looks back on frames alone."""
        lanes, count = frames.shape[:2]
        if actions.shape[:2] != (lanes, count - 1) or len(seeds) != lanes:
            needed = [lanes, count - 1, self.spec.action.dim]
            raise WcsimError(f"{lanes} lanes of {count} frames need actions {needed} and {lanes} seeds; got "
                             f"{list(actions.shape)} and {len(seeds)}")
        check_action(self.spec.action, actions)
        check_frames(self.spec, frames)
        state = self._empty(torch.as_tensor(np.asarray(seeds, dtype=np.int64)))
        return self._anchor(replace(state, frame=state.frame + count), self._look_back(frames))

    def observe(self, state: WorldState, latents: Tensor, actions: np.ndarray) -> WorldState:
        """Go on from one really seen frame per lane: pictures `[N, 3, H, W]`; the actions `[N, A]` are only checked."""
        check_action(self.spec.action, actions)
        return self._anchor(replace(state, frame=state.frame + 1), self._look_back(self.decode(latents)[:, None]))

    def _look_back(self, frames: np.ndarray) -> Tensor:
        """Latents `[N, c, C, h, w]` of as many of the last frames `[N, T, H, W, 3]` as a clip can hold, c >= 1."""
        share = self.spec.frames_per_latent
        latents = min(1 + (frames.shape[1] - 1) // share, self.spec.max_context)
        encoded: Tensor = self.codec.encode(frames[:, -(1 + share * (latents - 1)) :])
        return encoded

    def _anchor(self, state: WorldState, latents: Tensor) -> WorldState:
        """A chunk begins behind these latents `[N, c, C, h, w]`; no action is known yet."""
        count, past = latents.shape[1], self.spec.max_context
        return replace(
            state,
            latents=torch.cat([state.latents, latents], dim=1)[:, -past:],
            actions=torch.zeros_like(state.actions), known=torch.zeros_like(state.known),
            length=torch.full_like(state.length, min(count, past)),
        )

    def _empty(self, seeds: Tensor) -> WorldState:
        empty, chunk = super()._empty(seeds), self.spec.max_chunk
        lanes = len(seeds)
        return replace(
            empty,
            actions=torch.zeros(lanes, chunk, self.spec.action.num_features, device=self.device),
            known=torch.zeros(lanes, chunk, dtype=torch.bool, device=self.device),
        )

    def _split(self, state: WorldState, actions: Tensor, chunk: int) -> Sequence[Tensor]:
        """What is left of the chunk under way, then whole chunks."""
        pending = state.known.sum(1).cpu()
        count, first = actions.shape[1], chunk - int(pending.max())
        if count > 1 and (pending != pending[0]).any():
            raise WcsimError(f"the lanes have taken {pending.tolist()} actions of their chunks of {chunk}; advance "
                             "them by one action at a time, or apart")
        return [actions[:, :first], *actions[:, first:].split(chunk, dim=1)] if count > first else [actions]

    def _chunk(
        self, state: WorldState, actions: Tensor, fidelity: Fidelity, context: int, spans: Spans
    ) -> tuple[WorldState, Tensor, list[Decision], Tensor]:
        """One pass for all lanes, lanes alike in context and progress together."""
        lengths, pending = state.length.clamp(max=context), state.known.sum(1).cpu()
        alike = lengths * (self.spec.max_chunk + 1) + pending
        parts = []
        for group in alike.unique().tolist():
            lanes = (alike == group).nonzero().squeeze(1)
            length, taken = divmod(group, self.spec.max_chunk + 1)
            some, *imagined = self._pass(state.select(lanes), actions[lanes], fidelity, length, taken, spans)
            state = state.scatter(lanes, some)
            parts.append((lanes, *imagined))
        return state, *merge_lanes(parts)

    def _pass(
        self, state: WorldState, actions: Tensor, fidelity: Fidelity, length: int, taken: int, spans: Spans
    ) -> tuple[WorldState, Tensor, list[Decision], Tensor]:
        """The chunk behind the anchor, under the actions taken and `actions` `[N, m, F]`; shows the m new frames."""
        spec, count = self.spec, actions.shape[1]
        state = replace(
            state,
            actions=torch.cat([state.actions[:, :taken], actions, state.actions[:, taken + count :]], dim=1),
            known=torch.arange(spec.max_chunk, device=self.device).expand_as(state.known) < taken + count,
            frame=state.frame + count,
        )
        read, known = self._reads(state.actions, taken + count, length)
        first = state.frame - (taken + count)
        noise = chunk_noise(state.seed, first, length + spec.max_chunk // spec.frames_per_latent, spec.latent_shape)
        sampling = Sampling(fidelity.steps, fidelity.solver, spec.flow_shift, spec.context_sigma,
                            self.guidance(fidelity), fidelity.context_refresh)
        latents, decisions, blocks = sample_clip(
            self.transformer, state.latents[:, -length:], noise.to(state.latents), self._texts[CONDITIONAL], sampling,
            fidelity.cache, actions=read, known=known, spans=spans,
        )
        with spans("codec"):
            chunk = self.codec.decode(latents)[:, -spec.max_chunk :]
            if taken + count == spec.max_chunk:
                past = self._look_back(chunk[:, -1:]) if spec.carry == "pixels" else latents[:, -spec.max_context :]
                state = self._anchor(state, past)
            shown = self.encode(chunk[:, taken : taken + count])
        return state, shown, decisions, blocks

    def _reads(self, actions: Tensor, taken: int, length: int) -> tuple[Tensor, Tensor]:
        """What the action embedders read behind `length` latents of context: `[N, T, F]`, and where `[N, T]` they do.

        Actions not known yet are rest: no change, and what is absolute stays as it is.
        """
        spec = self.spec
        held = torch.tensor([name in spec.action.absolute for name in spec.action.names], device=self.device)
        rest = torch.where(held, actions[:, max(taken - 1, 0)], 0.0).unsqueeze(1)
        padded = torch.cat([actions[:, :taken], rest.expand(-1, spec.max_chunk - taken, -1)], dim=1)
        lanes, new = len(actions), spec.max_chunk // spec.frames_per_latent
        if spec.reads == "chunk":
            whole = padded.flatten(1).unsqueeze(1).expand(-1, length + new, -1)
            return whole, torch.ones(lanes, length + new, dtype=torch.bool, device=self.device)
        own = padded.view(lanes, new, -1)
        known = torch.arange(length + new, device=self.device) >= length
        return torch.cat([own.new_zeros(lanes, length, own.shape[-1]), own], dim=1), known.expand(lanes, -1)
