"""A world: pure functions from a state and actions to the next state and its latent frames.

Lanes never mix.  Lanes whose histories differ in length are advanced in groups of equal length, so a lane that has just
been reset and one that is long under way may share a batch without either noticing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wcsim.actions import check_action, features
from wcsim.backbones.backbone import Backbone
from wcsim.errors import ConfigError, WcsimError
from wcsim.spans import Spans
from wcsim.types import Decision, Fidelity, Trace, WorldSpec, WorldState
from wcsim.world.checkpoints import find_world, load_parts, load_state, load_texts
from wcsim.world.codec import WanCodec
from wcsim.world.compiled import compile_world
from wcsim.world.guardrail import Guardrail, default_guardrail
from wcsim.world.guidance import CONDITIONAL, UNCONDITIONAL, Guidance
from wcsim.world.memory import Need, lots, memory_limit, rollout_memory
from wcsim.world.noise import chunk_noise
from wcsim.world.sampler import Window, check_solver, denoise, make_scheduler
from wcsim.world.state_model import StateModel
from wcsim.world.traces import join_traces, merge_lanes, trace_of


class World:
    """An action-conditioned video model and its codec, behind a functional interface."""

    def __init__(
        self,
        spec: WorldSpec,
        transformer: Backbone,
        codec: WanCodec,
        texts: Mapping[str, Tensor] | None = None,
        *,
        memory_limit: int | None = None,
        guardrail: Guardrail | None = None,
        state_model: StateModel | None = None,
    ) -> None:
        """memory_limit: bytes that a rollout may need beside the weights; see `wcsim.world.memory` for None.
        guardrail: what watches the frames that are decoded; None for none, or that of `WCSIM_GUARDRAIL`.
        state_model: what predicts quantities beside the pixels, for a transformer that was trained with it."""
        self.spec, self.memory_limit = spec, memory_limit
        self._guardrail = guardrail or default_guardrail()
        self.transformer = transformer.eval().requires_grad_(False)
        self.codec: Any = codec.eval().requires_grad_(False)
        self.state_model = None if state_model is None else state_model.eval().requires_grad_(False)
        self.device: torch.device = transformer.device  # where states and latents live, too; asking diffusers is slow
        nothing = torch.zeros(1, 1, transformer.text_width)
        self._texts = {name: transformer.read_text(text.to(self.device))
                       for name, text in {CONDITIONAL: nothing, **(texts or {})}.items()}

    @classmethod
    def load(
        cls, name: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32,
        memory_limit: int | None = None, guardrail: Guardrail | None = None, compiled: bool = False,
    ) -> World:
        """A shipped world by name, or any world folder by path; verified first (CheckpointError).  compiled: see
        `wcsim.world.compiled.compile_world`."""
        from wcsim.world.clip_world import ClipWorld

        folder = find_world(str(name))
        spec, transformer, codec = load_parts(folder)
        transformer.set_precision(dtype)
        kind = cls if spec.frames_per_latent == 1 else ClipWorld
        state_model = load_state(folder, spec, transformer)
        world = kind(spec, transformer.to(device), codec.to(device), load_texts(folder), memory_limit=memory_limit,
                     guardrail=guardrail, state_model=None if state_model is None else state_model.to(device))
        if compiled:
            compile_world(world)
        return world

    def guidance(self, fidelity: Fidelity) -> Guidance | None:
        """What a fidelity asks for, None at scale 0; ConfigError where this world has no text to guide away from."""
        scale = fidelity.guidance
        if scale == 0:
            return None
        if UNCONDITIONAL not in self._texts:
            raise ConfigError(f"fidelity.guidance is {scale:g}; world {self.spec.name!r} has no {UNCONDITIONAL} text "
                              "and allows only 0")
        return Guidance(scale, self._texts[UNCONDITIONAL], fidelity.batched, fidelity.decide, fidelity.guidance_until)

    def memory(self, fidelity: Fidelity) -> Need:
        """Bytes that `advance` needs beside the weights, estimated from the geometry."""
        return rollout_memory(
            self.transformer.geometry, self.spec, fidelity, text_tokens=self._texts[CONDITIONAL].tokens,
            size=self.transformer.compute_dtype.itemsize,
            codec_width=self.codec.vae.config.base_dim if self.spec.frames_per_latent > 1 else 0,
        )

    def encode(self, frames: np.ndarray, refine_steps: int | None = None) -> Tensor:
        """Latents `[..., C, h, w]` of uint8 frames `[..., H, W, 3]`.  refine_steps: how often
        the codec refines them (`wcsim.world.codec.Codec`), a decoding and an encoding each; None: its own number."""
        check_frames(self.spec, frames)
        latents: Tensor = self.codec.encode(frames, refine_steps)
        return latents

    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames uint8 `[..., H, W, 3]` of latents `[..., C, h, w]`; GuardrailError where they may not be shown."""
        return self._guarded(self.codec.decode(latents))

    def _guarded(self, frames: np.ndarray) -> np.ndarray:
        return frames if self._guardrail is None else self._guardrail.check_frames(frames)

    def init(self, frames: np.ndarray, actions: np.ndarray, seeds: list[int] | np.ndarray) -> WorldState:
        """Begin rollouts.  frames: `[N, T, H, W, 3]` uint8, T >= 1.  actions: `[N, T-1, A]`, the t-th leading to frame
        t+1, in the units of the spec.  seeds: `[N]` non-negative."""
        lanes, count = frames.shape[:2]
        if actions.shape[:2] != (lanes, count - 1) or len(seeds) != lanes:
            needed = [lanes, count - 1, self.spec.action.dim]
            raise WcsimError(f"{lanes} lanes of {count} frames need actions {needed} and {lanes} seeds; got "
                             f"{list(actions.shape)} and {len(seeds)}")
        state = self._empty(torch.as_tensor(np.asarray(seeds, dtype=np.int64)))
        latents, known = self.encode(frames), torch.ones(lanes, count, dtype=torch.bool, device=self.device)
        known[:, 0] = False
        encoded = features(self.spec.action, check_action(self.spec.action, actions))
        padded = np.concatenate([np.zeros((lanes, 1, encoded.shape[-1]), np.float32), encoded], axis=1)
        return self._append(state, latents, torch.from_numpy(padded).to(self.device), known, seen=True)

    def observe(self, state: WorldState, latents: Tensor, actions: np.ndarray) -> WorldState:
        """Append one really seen frame per lane: latents `[N, C, h, w]` and the actions `[N, A]` that led to it."""
        encoded = torch.from_numpy(features(self.spec.action, check_action(self.spec.action, actions)))
        known = torch.ones(state.num_lanes, 1, dtype=torch.bool, device=self.device)
        return self._append(state, latents.unsqueeze(1), encoded.unsqueeze(1).to(self.device), known, seen=True)

    @torch.no_grad()
    def advance(self, state: WorldState, actions: np.ndarray, fidelity: Fidelity) -> tuple[WorldState, Tensor, Trace]:
        """Imagine k frames under `actions` `[N, k, A]`: the state after them, latents `[N, k, C, h, w]`, the trace.

        Where not all lanes fit into memory they go one lot after the other, and nobody notices but the clock.
        """
        features_NkF = self._features(actions, state.num_lanes)
        check_fidelity(self.spec, fidelity)
        self.guidance(fidelity)
        limit = memory_limit(self.device) if self.memory_limit is None else self.memory_limit
        if limit is None:
            return self._advance(state, features_NkF, fidelity)
        if not self.memory(fidelity).lanes_within(limit):
            fidelity = replace(fidelity, batched=False)
        parts = [self._advance(state.select(lot), features_NkF[lot], fidelity)
                 for lot in lots(state.num_lanes, self.memory(fidelity), limit)]
        return (state.join([after for after, _, _ in parts]), torch.cat([new for _, new, _ in parts]),
                join_traces([trace for _, _, trace in parts]))

    @torch.no_grad()
    def predict_state(self, state: WorldState, actions: np.ndarray) -> dict[str, np.ndarray]:
        """Quantities under actions `[N, k, A]`: name to float64 `[N, k, size]` in the task's own units.  By the state
        model alone, which imagines no frame and takes a thousandth of the time of `advance`.

        state: of N lanes, or of one from which all N go on.  ConfigError for a world without a state model.
        """
        if self.state_model is None:
            raise ConfigError(f"world {self.spec.name!r} has no state model; it predicts frames alone")
        taken = self._features(actions, len(actions) if state.num_lanes == 1 else state.num_lanes)
        memory, before, known = (each.expand(len(taken), *each.shape[1:]) for each in (
            state.model_memory, state.actions, state.known))
        return self.state_model.values(self.state_model.predict(memory, torch.cat([before, taken], dim=1), known))

    def _features(self, actions: np.ndarray, lanes: int) -> Tensor:
        """Features `[N, k, F]` of actions `[N, k, A]` for N lanes; WcsimError for another shape."""
        encoded = features(self.spec.action, check_action(self.spec.action, actions))
        if encoded.ndim != 3 or encoded.shape[0] != lanes or encoded.shape[1] < 1:
            raise WcsimError(f"actions have shape {list(np.shape(actions))}; {lanes} lanes need "
                             f"[{lanes}, k >= 1, {self.spec.action.dim}]")
        return torch.from_numpy(encoded).to(self.device)

    def _advance(self, state: WorldState, actions: Tensor, fidelity: Fidelity) -> tuple[WorldState, Tensor, Trace]:
        """`advance` of lanes that fit into memory, under action features `[N, k, F]`."""
        context, chunk = check_fidelity(self.spec, fidelity)
        spans = Spans(self.device)
        latents, decisions, blocks = [], [], []
        for part in self._split(state, actions, chunk):
            state, new, told, ran = self._chunk(state, part, fidelity, context, spans)
            latents.append(new)
            decisions.append(told)
            blocks.append(ran)
        caches = 2 if fidelity.guidance > 0 and fidelity.decide == "apart" else 1
        trace = trace_of(decisions, blocks, caches * self.transformer.depth, spans)
        return state, torch.cat(latents, dim=1), trace

    def _split(self, state: WorldState, actions: Tensor, chunk: int) -> Sequence[Tensor]:
        """Action features `[N, k, F]` by the pass that takes them."""
        del state
        parts: Sequence[Tensor] = actions.split(chunk, dim=1)
        return parts

    def _chunk(
        self, state: WorldState, actions: Tensor, fidelity: Fidelity, context: int, spans: Spans
    ) -> tuple[WorldState, Tensor, list[Decision], Tensor]:
        """One chunk for all lanes, lanes of equal context length together."""
        lengths = state.length.clamp(max=context)
        count = actions.shape[1]
        noise = chunk_noise(state.seed, state.frame + 1, count, self.spec.latent_shape)
        known = torch.ones(actions.shape[:2], dtype=torch.bool, device=self.device)
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
                text=self._texts[CONDITIONAL],
                guidance=self.guidance(fidelity),
                control=control,
            )
            scheduler = make_scheduler(fidelity.solver, fidelity.steps, self.spec.flow_shift)
            parts.append((lanes, *denoise(self.transformer, window, scheduler, fidelity.cache,
                                          context_sigma=self.spec.context_sigma, spans=spans,
                                          refresh=fidelity.context_refresh)))
        latents, decisions, blocks = merge_lanes(parts)
        with spans("state_model"):
            after = self._append(state, latents, actions, known, seen=False)
        return after, latents, decisions, blocks

    def _control(self, state: WorldState, actions: Tensor, length: int) -> Tensor | None:
        """What the state model draws of the last `length` frames and those that follow under action features
        `[N, k, F]`: maps `[N, K, length + k, h, w]`; None where it draws nothing."""
        model = self.state_model
        if model is None or not model.control_channels:
            return None
        maps = model.control(state.model_memory, torch.cat([state.actions, actions], dim=1), state.known)
        return maps[:, :, -length - actions.shape[1] :]

    def _empty(self, seeds: Tensor) -> WorldState:
        """Lanes without any frame yet; the next frame has index 0."""
        lanes, past = len(seeds), self.spec.max_context
        if (seeds < 0).any():
            raise WcsimError(f"seeds must not be negative, got {seeds.tolist()}")
        zeros = torch.zeros(lanes, dtype=torch.int64)
        return WorldState(
            latents=torch.zeros(lanes, past, *self.spec.latent_shape, device=self.device),
            model_memory=torch.zeros(lanes, past, 0 if self.state_model is None else self.state_model.memory_size,
                                     device=self.device),
            actions=torch.zeros(lanes, past, self.spec.action.num_features, device=self.device),
            known=torch.zeros(lanes, past, dtype=torch.bool, device=self.device),
            length=zeros, frame=zeros - 1, seed=seeds,
        )

    def _append(self, state: WorldState, latents: Tensor, actions: Tensor, known: Tensor, *, seen: bool) -> WorldState:
        """The state after `[N, k]` more frames, `seen` or imagined."""
        past, count = self.spec.max_context, latents.shape[1]
        actions, known = torch.cat([state.actions, actions], dim=1), torch.cat([state.known, known], dim=1)
        memory = (latents.new_zeros(*latents.shape[:2], 0) if self.state_model is None
                  else self.state_model.update(state.model_memory, latents, actions, known, seen=seen))
        return replace(
            state,
            latents=torch.cat([state.latents, latents], dim=1)[:, -past:],
            model_memory=torch.cat([state.model_memory, memory], dim=1)[:, -past:],
            actions=actions[:, -past:],
            known=known[:, -past:],
            length=(state.length + count).clamp(max=past),
            frame=state.frame + count,
        )


def check_frames(spec: WorldSpec, frames: np.ndarray) -> None:
    """Raise WcsimError unless frames `[..., H, W, 3]` have the size of the world's."""
    if frames.shape[-3:-1] != spec.frame_size:
        raise WcsimError(f"frames are {list(frames.shape[-3:-1])} pixels; world {spec.name!r} takes "
                         f"{list(spec.frame_size)}")


def check_fidelity(spec: WorldSpec, fidelity: Fidelity) -> tuple[int, int]:
    """The context and chunk lengths that a fidelity means in a world; ConfigError where the world cannot do it."""
    check_solver(fidelity.solver, fidelity.steps)
    limits = {"context": (fidelity.context, spec.max_context), "chunk": (fidelity.chunk, spec.max_chunk)}
    for name, (asked, most) in limits.items():
        if asked is not None and not 1 <= asked <= most:
            raise ConfigError(f"fidelity.{name} is {asked}; world {spec.name!r} allows 1 to {most}")
    if fidelity.guidance < 0:
        raise ConfigError(f"fidelity.guidance is {fidelity.guidance:g}; it must be 0 or more")
    if not 0 <= fidelity.guidance_until <= 1 or (fidelity.guidance_until and not fidelity.guidance):
        raise ConfigError(f"fidelity.guidance_until is {fidelity.guidance_until:g} at guidance {fidelity.guidance:g}; "
                          "it must be a noise level from 0 to 1, and 0 where nothing is guided")
    if not 0 <= fidelity.context_refresh <= 1:
        raise ConfigError(f"fidelity.context_refresh is {fidelity.context_refresh:g}; it must be from 0 to 1")
    if spec.frames_per_latent > 1 and fidelity.chunk not in (None, spec.max_chunk):
        raise ConfigError(f"fidelity.chunk is {fidelity.chunk}; world {spec.name!r} makes chunks of {spec.max_chunk}")
    return fidelity.context or spec.max_context, fidelity.chunk or spec.max_chunk
