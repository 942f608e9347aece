"""A world: pure functions from a state and actions to the next state and its latent frames.

Lanes never mix, and on the CPU a lane rounds alone as it rounds in a batch (`wcsim.world.batch_invariant`; it costs a
few filled-up rows in small matrix products, and is there however a world is made).  Worlds of single frames and of
clips share this interface; which of the two a world is follows from its description.  Easy to get wrong: a state
belongs to the world that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import wcsim.world.forked  # noqa: F401  registers what a forked child does first
from wcsim.actions import check_action, features
from wcsim.backbones.backbone import Backbone, Recipe
from wcsim.errors import ConfigError, NotFiniteError, WcsimError
from wcsim.spans import Spans
from wcsim.types import Fidelity, Trace, WorldSpec, WorldState
from wcsim.world.batch_invariant import make_batch_invariant
from wcsim.world.checkpoints import find_world, load_parts, load_state, load_texts
from wcsim.world.checks import check_device, check_fidelity, check_finite, check_imagined, told
from wcsim.world.clip_rollout import ClipRollout
from wcsim.world.codec import WanCodec
from wcsim.world.compiled import compile_world
from wcsim.world.frame_rollout import FrameRollout
from wcsim.world.guardrail import Guardrail, default_guardrail
from wcsim.world.guidance import CONDITIONAL
from wcsim.world.memory import Need, lots, memory_limit, rollout_memory
from wcsim.world.rollout import Parts, Rollout
from wcsim.world.state_model import StateModel
from wcsim.world.traces import join_traces, trace_of


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
        self.memory_limit, self._guardrail = memory_limit, guardrail or default_guardrail()
        make_batch_invariant(transformer)
        nothing = torch.zeros(1, 1, transformer.text_width)
        with torch.no_grad():
            read = {name: transformer.read_text(text.to(transformer.device))
                    for name, text in {CONDITIONAL: nothing, **(texts or {})}.items()}
        self.parts = Parts(
            spec, transformer.eval().requires_grad_(False), codec.eval().requires_grad_(False),
            None if state_model is None else state_model.eval().requires_grad_(False), read, transformer.device)
        # Attributes, since asking diffusers for its device is slow.
        self.spec, self.transformer, self.codec = spec, self.parts.transformer, self.parts.codec
        self.state_model, self.device = self.parts.state_model, self.parts.device
        self._rollout: Rollout = FrameRollout(self.parts) if spec.frames_per_latent == 1 else ClipRollout(self.parts)

    @classmethod
    def load(
        cls, name: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32,
        memory_limit: int | None = None, guardrail: Guardrail | None = None, compiled: bool = False,
        recipe: Recipe = "wcsim",
    ) -> World:
        """A shipped world by name, or any world folder by path; verified first (CheckpointError).  compiled: see
        `wcsim.world.compiled.compile_world`.  recipe: what keeps float32 whatever the dtype is; `authors`: as those
        who released the model have it, their autoencoder in the dtype, too."""
        check_device(device)
        folder = find_world(name)
        spec, transformer, codec = load_parts(folder)
        transformer.set_precision(dtype, recipe)
        codec = codec.to(dtype) if recipe == "authors" else codec
        state_model = load_state(folder, spec, transformer)
        world = cls(spec, transformer.to(device), codec.to(device), load_texts(folder), memory_limit=memory_limit,
                    guardrail=guardrail, state_model=None if state_model is None else state_model.to(device))
        if compiled:
            compile_world(world.parts)
        return world

    def memory(self, fidelity: Fidelity) -> Need:
        """Bytes that `advance` needs beside the weights, estimated from the geometry."""
        return rollout_memory(
            self.transformer.geometry, self.spec, fidelity, text_tokens=self.parts.texts[CONDITIONAL].tokens,
            size=self.transformer.compute_dtype.itemsize,
            codec_width=self.codec.vae.config.base_dim if self.spec.frames_per_latent > 1 else 0,
        )

    def encode(self, frames: np.ndarray, refine_steps: int | None = None) -> Tensor:
        """Latents `[..., C, h, w]` of uint8 frames `[..., H, W, 3]`.  refine_steps: how often
        the codec refines them (`wcsim.world.codec.Codec`), a decoding and an encoding each; None: its own number."""
        latents = self._rollout.encode(frames, refine_steps)
        check_finite(self.spec, latents, "encodes frames to")
        return latents

    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames uint8 `[..., H, W, 3]` of latents `[..., C, h, w]`; GuardrailError where they may not be shown."""
        return self.decode_guarded(latents)[0]

    @property
    def guardrail(self) -> str | None:
        """What the guardrail is called, None where there is none."""
        return None if self._guardrail is None else self._guardrail.name

    def decode_guarded(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """`decode`, and what the guardrail did: the share `[...]` of each frame's pixels that it changed."""
        check_finite(self.spec, latents, "is to decode")
        try:
            frames = self._rollout.decode(latents)
        except NotFiniteError as error:
            raise NotFiniteError(f"world {self.spec.name!r} {error}") from None
        shown = frames if self._guardrail is None else self._guardrail.check_frames(frames)
        return shown, (shown != frames).any(-1).mean((-2, -1)) if shown is not frames else np.zeros(frames.shape[:-3])

    @torch.no_grad()
    def init(self, frames: np.ndarray, actions: np.ndarray, seeds: list[int] | np.ndarray) -> WorldState:
        """Begin rollouts.  frames: `[N, T, H, W, 3]` uint8, T >= 1.  actions: `[N, T-1, A]`, the t-th leading to frame
        t+1, in the units of the spec.  seeds: `[N]` non-negative."""
        state = self._rollout.init(frames, actions, seeds)
        check_finite(self.spec, state.latents, "encodes frames to")
        return state

    def empty_state(self) -> WorldState:
        """One lane that has seen nothing: the shapes and types of every state of this world."""
        spec = self.spec
        return self.parts.empty([0], spec.max_context if spec.frames_per_latent == 1 else spec.max_chunk)

    @torch.no_grad()
    def observe(self, state: WorldState, latents: Tensor, actions: np.ndarray) -> WorldState:
        """Append one real frame per lane: latents `[N, C, h, w]` and the actions `[N, A]` that led to it."""
        check_finite(self.spec, latents, "is to observe")
        return self._rollout.observe(state, latents, actions)

    @torch.no_grad()
    def advance(self, state: WorldState, actions: np.ndarray, fidelity: Fidelity) -> tuple[WorldState, Tensor, Trace]:
        """Imagine k frames under `actions` `[N, k, A]`: the state after them, latents `[N, k, C, h, w]`, the trace.

        Where not all lanes fit into memory they go one lot after the other, with the same results.
        """
        features_NkF = self._features(actions, state.num_lanes)
        check_fidelity(self.spec, fidelity)
        self.parts.guidance(fidelity)
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

    def read_state(self, state: WorldState) -> dict[str, np.ndarray]:
        """What the state model knows of the newest frame: name to float64 `[N, size]`; nothing without one."""
        return {} if self.state_model is None else self.state_model.values(state.model_memory[:, -1])

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
        for part in self._rollout.split(state, actions, chunk):
            before = state.frame
            try:
                state, new, decided, ran = self._rollout.chunk(state, part, fidelity, context, spans)
            except NotFiniteError as error:  # of a world of clips, which decodes as it goes
                raise NotFiniteError(f"world {self.spec.name!r} {error} after frame {int(before.min())}, "
                                     f"{told(fidelity)}") from None
            check_imagined(self.spec, new, before, fidelity)
            latents.append(new)
            decisions.append(decided)
            blocks.append(ran)
        caches = 2 if fidelity.guidance > 0 and fidelity.decide == "apart" else 1
        trace = trace_of(decisions, blocks, caches * self.transformer.depth, spans)
        return state, torch.cat(latents, dim=1), trace
