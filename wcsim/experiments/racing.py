"""What one contestant of a race costs and gets wrong, on one world.

Three measurements.  Time: rounds in which everybody imagines the same chunk in turn, so that what slows a round slows
all of it.  Distance: the first chunk, from real context and the same noise, against the twin that caches nothing.
Truth: a whole rollout, judged at the end of each chunk.  Easy to get wrong: a cache that looks at its input skips more
where that is easier, so time and distance must be of the same chunks of the same episodes; and an error far from the
truth hides a bad cache, since both twins are lost alike: read losses together with the baseline's own errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wcsim.cache.fidelity import FidelityConfig
from wcsim.cache.none import NoCache
from wcsim.envs.imagined import load_world
from wcsim.envs.tasks import make_task
from wcsim.experiments.across import Across
from wcsim.experiments.hooked import Model, held
from wcsim.experiments.race import RaceConfig, is_plain
from wcsim.experiments.world_bench import HeldOut, errors_of, record
from wcsim.spans import Spans
from wcsim.track import metrics
from wcsim.track.stats import bootstrap
from wcsim.types import BlockStack, CachePolicy, Decision, Fidelity, Trace, WorldState
from wcsim.world.world import World

WORST = {"block_px": 128.0, "block_deg": 90.0, "agent_px": 128.0}
"""Where a pose error counts as lost: no rollout weighs more in a mean than this."""
OTHER_NOISE = 1000
"""Added to the seeds of the chunk before."""
LOSSES = ("psnr_db", "block_px", "block_deg", "agent_px")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Imagined:
    """latents: `[N, H, C, h, w]`.  first: frames of the first chunk.  errors: metric to `[N, E]` at the chunk ends;
    empty where nothing but the first chunk was imagined.  grids: most that the cache held, in token grids per lane."""

    latents: Tensor
    first: np.ndarray
    errors: dict[str, np.ndarray]
    trace: Trace
    grids: float


class Race:
    """The world, the held-out episodes, and what the plain twins of each solver and step count made of them."""

    def __init__(self, config: RaceConfig) -> None:
        self.config = config
        self.world: World = load_world(config.world)
        self.task = make_task(self.world.spec.task)
        spec = self.world.spec
        self.lead, self.chunk = spec.max_context - 1, min(config.chunk or spec.max_chunk, config.horizon)
        self._pass = self.chunk if spec.frames_per_latent == 1 else None  # worlds of clips know but one length
        begin = self.chunk + self.lead  # a chunk of history before the one that is imagined
        self.seen = record(self.task, config.first_seed, config.episodes, begin, config.horizon)
        self.truth = HeldOut(self.seen.frames[:, begin:], self.seen.actions[:, begin:], self.seen.poses[:, begin:])
        self._plain: dict[tuple[str, int, bool], Imagined] = {}

    def start(self, lanes: np.ndarray, first_seed: int = 0, *, early: bool = False) -> WorldState:
        """The held-out starts `lanes`, each with its own noise; or, `early`, one chunk before."""
        first = 0 if early else self.chunk
        frames, actions = self.seen.frames[lanes, first:], self.seen.actions[lanes, first:]
        return self.world.init(frames[:, : self.lead + 1], actions[:, : self.lead], first_seed + lanes)

    def live_through(self, what: Fidelity) -> None:
        """The chunk before the starts, for a policy that remembers from chunk to chunk; with noise of its own."""
        lanes = np.arange(self.config.episodes)
        actions = self.seen.actions[:, self.lead : self.lead + self.chunk]
        self.world.advance(self.start(lanes, OTHER_NOISE, early=True), actions, replace(what, chunk=self._pass))

    def imagine(self, what: Fidelity, *, whole: bool, shift: float = 0.0) -> Imagined:
        """All episodes from their starts: the rollout, decoded and judged, or its first chunk alone; `shift` perturbs
        the newest real frames."""
        state = self.start(np.arange(self.config.episodes))
        if shift:
            noise = shift * torch.randn(state.latents.shape, generator=torch.Generator().manual_seed(0))
            state = replace(state, latents=state.latents + noise.to(state.latents))
        if isinstance(what.cache, Across):
            self.live_through(what)
        scales = Weighed(what.cache)
        length = self.config.horizon if whole else self.chunk
        what = replace(what, cache=scales, chunk=self._pass)
        _, latents, trace = self.world.advance(state, self.truth.actions[:, :length], what)
        errors = self._judge(latents) if whole else {}
        return Imagined(latents, self.world.decode(latents[:, : self.chunk]), errors, trace, scales.most)

    def _judge(self, latents: Tensor) -> dict[str, np.ndarray]:
        """Errors against the truth at the chunk ends."""
        horizon = self.config.horizon
        ends = np.unique(np.append(np.arange(self.chunk, horizon + 1, self.chunk), horizon)) - 1
        shown = np.append(0, ends + 1)
        seen = HeldOut(self.truth.frames[:, shown], self.truth.actions, self.truth.poses[:, shown])
        errors = errors_of(self.task, self.world.decode(latents[:, ends]), seen)
        return {name: np.minimum(values, WORST[name]) if name in WORST else values for name, values in errors.items()}

    def plain(self, solver: str, steps: int, *, whole: bool) -> Imagined:
        """The uncached twin, imagined once."""
        for extent in (True, whole):
            if (solver, steps, extent) in self._plain:
                return self._plain[solver, steps, extent]
        self._plain[solver, steps, whole] = self.imagine(
            Fidelity(steps, NoCache(), solver, self.config.context), whole=whole)
        return self._plain[solver, steps, whole]

    def compare(self, config: FidelityConfig, reference: Tensor | None, *, whole: bool) -> dict[str, Any]:
        """Distances of the first chunk from the plain twin of the same solver and steps, and from `reference`; of the
        whole rollout the losses against that twin and, as `official`, against the official setting, or None."""
        steps = config.steps or self.world.spec.default_steps
        twin = self.plain(config.solver, steps, whole=whole)
        official = self.plain(self.config.solver, self.config.steps[0], whole=True)
        alike = is_plain(config)
        mine = twin if alike else self.imagine(config.build(self.world.spec), whole=whole)
        first = mine.latents[:, : self.chunk]
        return {
            "latent_error": float(np.median(relative_error(first, twin.latents[:, : self.chunk]))),
            "reference_error": None if reference is None else float(np.median(relative_error(first, reference))),
            "psnr_to_uncached_db": None if alike else float(np.median(metrics.psnr_db(mine.first, twin.first))),
            "truth_loss": losses(mine, twin) if whole else None,
            "truth_loss_official": losses(mine, official) if whole else None,
            "shape_ok": float(mine.errors["shape_ok"].mean()) if whole else None,
            "sharpness": sharpness(mine.first) / sharpness(official.first),
            "hit_rate": mine.trace.hit_rate,
            "skipped": mine.trace.skipped,
            "memory_grids": mine.grids,
        }

    def time(
        self, everybody: Mapping[str, FidelityConfig], batch: int, number: int, progress: Progress
    ) -> dict[str, dict[str, Any]]:
        """One round: everybody imagines the same chunk in turn, after the first has warmed up.  Per name `ms`, its
        milliseconds, `shares` of them per span, and the share of blocks `skipped`."""
        fidelities = {name: replace(config.build(self.world.spec), chunk=self._pass)
                      for name, config in everybody.items()}
        lanes = (np.arange(batch) + number) % self.config.episodes
        state, actions = self.start(lanes), self.truth.actions[lanes, : self.chunk]
        self.world.advance(state, actions, next(iter(fidelities.values())))
        told = {}
        for place, (name, what) in enumerate(fidelities.items(), start=1):
            progress(f"timing {batch} lanes, round {number + 1}, {place} of {len(fidelities)}")
            spans = Spans(self.world.device)
            with spans("chunk"):
                _, _, trace = self.world.advance(state, actions, what)
            told[name] = {"ms": spans.ms()["chunk"], "shares": shares(trace), "skipped": trace.skipped}
        return told


class Weighed(CachePolicy):
    """A policy that notes how much its state ever held; for measurement only."""

    def __init__(self, policy: CachePolicy) -> None:
        self.policy, self.most = policy, 0.0

    def init(self, num_lanes: int, num_steps: int) -> Any:
        """As the policy."""
        return self.policy.init(num_lanes, num_steps)

    def forward(self, stack: BlockStack, step: int, state: Any) -> tuple[Tensor, Any, Decision]:
        """As the policy."""
        velocity, state, decision = self.policy.forward(stack, step, state)
        kept = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors_in(state)}
        self.most = max(self.most, sum(kept.values()) / stack.tokens.nbytes)
        return velocity, state, decision

    def static_schedule(self, sigmas: Sequence[float]) -> Sequence[int] | None:
        """As the policy."""
        return self.policy.static_schedule(sigmas)


def tensors_in(value: Any) -> Iterable[Tensor]:
    """All tensors of a policy's state."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Model):
        yield from held(value)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def shares(trace: Trace) -> dict[str, float]:
    """Share of the time per span, and of everything outside the blocks together."""
    total = sum(trace.spans_ms.values())
    spans = {name: value / total for name, value in trace.spans_ms.items()}
    return {**spans, "outside_blocks": 1.0 - spans.get("probe", 0.0) - spans.get("deep", 0.0)}


def relative_error(latents: Tensor, reference: Tensor) -> np.ndarray:
    """L2 distance over the reference's L2 norm, per lane `[N]`."""
    apart = (latents - reference).float().flatten(1).norm(dim=1)
    ratio: np.ndarray = (apart / reference.float().flatten(1).norm(dim=1)).cpu().numpy()
    return ratio


def losses(mine: Imagined, twin: Imagined) -> dict[str, Any]:
    """Accuracy against the truth that is lost, as a share of the twin's own figure, with a 95% interval over episodes.

    Above 0 is worse: larger pose errors, less PSNR.  Ratio of means over episodes and chunk ends.
    """
    table: dict[str, Any] = {}
    for name in LOSSES:
        ours, theirs = mine.errors[name].mean(1), twin.errors[name].mean(1)
        sign = -1.0 if name == "psnr_db" else 1.0
        rows = np.arange(len(ours))

        def change(sample: np.ndarray, axis: int, ours: np.ndarray = ours, theirs: np.ndarray = theirs,
                   sign: float = sign) -> Any:
            index = sample.astype(np.int64)
            return sign * (ours[index].mean(axis) / theirs[index].mean(axis) - 1.0)

        interval = bootstrap(rows, generator=np.random.default_rng(0), statistic=change)
        table[name.removesuffix("_db")] = interval.value
        table[f"{name.removesuffix('_db')}_interval"] = [interval.low, interval.high]
    return table


def sharpness(frames: np.ndarray) -> float:
    """Mean absolute difference of neighbouring pixels: what blur takes away."""
    values = frames.astype(np.float32)
    return float(np.abs(np.diff(values, axis=-2)).mean() + np.abs(np.diff(values, axis=-3)).mean())
