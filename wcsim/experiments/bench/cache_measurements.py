"""What one setting of the cache benchmark costs and gets wrong, on one world.

Three measurements.  Time: rounds in which every setting imagines the same chunk in turn, so that what slows a round
slows all of it.  Distance: the first chunk, from real context and the same noise, against the rollout that caches
nothing. Truth: a whole rollout, estimated at the end of each chunk.  Easy to get wrong: a cache that looks at its input
skips more where that is easier, so time and distance must be of the same chunks of the same episodes; and an error far
from the truth hides a bad cache, since both rollouts are lost alike: read losses together with the baseline's own
errors.
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
from wcsim.envs.lanes import load_world
from wcsim.envs.tasks import make_task
from wcsim.experiments.bench.adapter import Model, cached_tensors
from wcsim.experiments.bench.cache_settings import CacheBenchConfig, is_plain
from wcsim.experiments.bench.world import HeldOut, errors_of, record
from wcsim.metrics import images
from wcsim.metrics.stats import bootstrap
from wcsim.spans import Spans
from wcsim.types import BlockStack, CachePolicy, Decision, Fidelity, Trace, WorldState
from wcsim.world.world import World

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


class CacheBenchmark:
    """The world, the held-out episodes, and what the plain rollouts of each solver and step count made of them."""

    def __init__(self, config: CacheBenchConfig) -> None:
        self.config = config
        self.world: World = load_world(config.world)
        self.task = make_task(self.world.spec.task)
        spec = self.world.spec
        self.lead, self.chunk = spec.max_context - 1, min(config.chunk or spec.max_chunk, config.horizon)
        self._pass = self.chunk if spec.frames_per_latent == 1 else None  # worlds of clips know but one length
        begin = self.chunk + self.lead  # a chunk after the start, when things move
        self.seen = record(self.task, config.first_seed, config.episodes, begin, config.horizon)
        future = self.seen.part(slice(begin, None))
        self.truth = HeldOut(future.frames, self.seen.actions[:, begin:], future.values)
        self._plain: dict[tuple[str, int, bool], Imagined] = {}

    def start(self, lanes: np.ndarray) -> WorldState:
        """The held-out starts `lanes`, each with its own noise."""
        frames, actions = self.seen.frames[lanes, self.chunk :], self.seen.actions[lanes, self.chunk :]
        return self.world.init(frames[:, : self.lead + 1], actions[:, : self.lead], lanes)

    def imagine(self, what: Fidelity, *, whole: bool, shift: float = 0.0) -> Imagined:
        """All episodes from their starts: the rollout, decoded and estimated, or its first chunk alone; `shift`
        perturbs the newest real frames."""
        state = self.start(np.arange(self.config.episodes))
        if shift:
            noise = shift * torch.randn(state.latents.shape, generator=torch.Generator().manual_seed(0))
            state = replace(state, latents=state.latents + noise.to(state.latents))
        scales = Weighed(what.cache)
        length = self.config.horizon if whole else self.chunk
        what = replace(what, cache=scales, chunk=self._pass)
        _, latents, trace = self.world.advance(state, self.truth.actions[:, :length], what)
        errors = self._errors(latents) if whole else {}
        return Imagined(latents, self.world.decode(latents[:, : self.chunk]), errors, trace, scales.most)

    def _errors(self, latents: Tensor) -> dict[str, np.ndarray]:
        """Errors against the truth at the chunk ends."""
        horizon = self.config.horizon
        ends = np.unique(np.append(np.arange(self.chunk, horizon + 1, self.chunk), horizon)) - 1
        seen = self.truth.part(np.append(0, ends + 1))
        errors = errors_of(self.task, self.world.decode(latents[:, ends]), seen)
        most = {quantity.metric: quantity.most for quantity in self.task.state}
        return {name: np.minimum(values, most[name]) if name in most else values for name, values in errors.items()}

    def plain(self, solver: str, steps: int, *, whole: bool) -> Imagined:
        """The uncached rollout, imagined once."""
        for extent in (True, whole):
            if (solver, steps, extent) in self._plain:
                return self._plain[solver, steps, extent]
        self._plain[solver, steps, whole] = self.imagine(
            Fidelity(steps, NoCache(), solver, **self.config.shared), whole=whole)
        return self._plain[solver, steps, whole]

    def compare(self, config: FidelityConfig, reference: Tensor | None, *, whole: bool) -> dict[str, Any]:
        """Distances of the first chunk from the plain rollout of the same solver and steps, and from `reference`; of
        the whole rollout the losses against that one and, as `official`, against the official setting, or None."""
        steps = config.steps or self.world.spec.default_steps
        plain = self.plain(config.solver or self.world.spec.default_solver, steps, whole=whole)
        official = self.plain(self.config.solver, self.config.steps[0], whole=True)
        alike = is_plain(config)
        mine = plain if alike else self.imagine(config.build(self.world.spec), whole=whole)
        first = mine.latents[:, : self.chunk]
        return {
            "latent_error": float(np.median(relative_error(first, plain.latents[:, : self.chunk]))),
            "reference_error": None if reference is None else float(np.median(relative_error(first, reference))),
            "psnr_to_uncached_db": None if alike else float(np.median(images.psnr_db(mine.first, plain.first))),
            "truth_loss": losses(mine, plain) if whole else None,
            "truth_loss_official": losses(mine, official) if whole else None,
            "shape_ok": float(mine.errors["shape_ok"].mean()) if whole else None,
            "sharpness": sharpness(mine.first) / sharpness(official.first),
            "hit_rate": mine.trace.hit_rate,
            "skipped": mine.trace.skipped,
            "memory_grids": mine.grids,
        }

    def time(
        self, settings: Mapping[str, FidelityConfig], batch: int, number: int, progress: Progress
    ) -> dict[str, dict[str, Any]]:
        """One round: every setting imagines the same chunk in turn, after the first has warmed up.  Per name `ms`, its
        milliseconds, `shares` of them per span, and the share of blocks `skipped`."""
        fidelities = {name: replace(config.build(self.world.spec), chunk=self._pass)
                      for name, config in settings.items()}
        lanes = (np.arange(batch) + number) % self.config.episodes
        state, actions = self.start(lanes), self.truth.actions[lanes, : self.chunk]
        self.world.advance(state, actions, next(iter(fidelities.values())))
        measured = {}
        for place, (name, what) in enumerate(fidelities.items(), start=1):
            progress(f"timing {batch} lanes, round {number + 1}, {place} of {len(fidelities)}")
            spans = Spans(self.world.device)
            with spans("chunk"):
                _, _, trace = self.world.advance(state, actions, what)
            measured[name] = {"ms": spans.ms()["chunk"], "shares": shares(trace), "skipped": trace.skipped}
        return measured


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
        yield from cached_tensors(value)
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


def losses(mine: Imagined, plain: Imagined) -> dict[str, Any]:
    """Accuracy against the truth that is lost, as a share of the plain rollout's figure, with a 95% interval.

    Above 0 is worse: larger errors, less PSNR.  Ratio of means over episodes and chunk ends.
    """
    table: dict[str, Any] = {}
    for name in (name for name in mine.errors if name != "shape_ok"):
        ours, theirs = bounded(mine.errors[name], plain.errors[name])
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


def bounded(mine: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means `[N]` over chunk ends of errors `[N, E]`; what was lost counts as the largest error that either has."""
    both = np.concatenate([mine, theirs])
    most = both[np.isfinite(both)].max(initial=0.0)
    return np.minimum(mine, most).mean(1), np.minimum(theirs, most).mean(1)


def sharpness(frames: np.ndarray) -> float:
    """Mean absolute difference of neighbouring pixels: what blur takes away."""
    values = frames.astype(np.float32)
    return float(np.abs(np.diff(values, axis=-2)).mean() + np.abs(np.diff(values, axis=-3)).mean())
