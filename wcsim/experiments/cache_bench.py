"""The race of caches on one world: time, distance from the uncached twin, and what it costs in truth.

Three measurements per contestant.  Time: rounds in which everybody imagines the same chunk in turn, so that what slows
a round slows all of it; a speed-up is the median over rounds against the official setting.  Distance: the first chunk,
from real context and the same noise, against the twin that caches nothing.  Truth: a whole rollout, judged at the end
of each chunk.  Easy to get wrong: an error far from the truth hides a bad cache, since both twins are lost alike; read
losses together with the baseline's own errors, which the summary holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wcsim.cache.fidelity import FidelityConfig
from wcsim.cache.none import NoCache
from wcsim.envs.imagined import load_world
from wcsim.envs.tasks import make_task
from wcsim.experiments.matched import conclude
from wcsim.experiments.race import Contestant, RaceConfig, contestants, fidelity
from wcsim.experiments.world_bench import HeldOut, errors_of, record
from wcsim.spans import Spans
from wcsim.track import files, metrics
from wcsim.track.stats import bootstrap, paired_speedup
from wcsim.types import BlockStack, CachePolicy, Decision, Fidelity, Trace, WorldState
from wcsim.world.world import World

WORST = {"block_px": 128.0, "block_deg": 90.0, "agent_px": 128.0}
"""Where a pose error counts as lost: no rollout weighs more in a mean than this."""
LOSSES = ("psnr_db", "block_px", "block_deg", "agent_px")
FLOOR = 1e-4
"""Standard deviation of what the twin's noise is shifted by for the floor below which no distance means anything."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Imagined:
    """latents: `[N, H, C, h, w]`.  first: frames of the first chunk.  errors: metric to `[N, E]` at the chunk ends."""

    latents: Tensor
    first: np.ndarray
    errors: dict[str, np.ndarray]


class Race:
    """The world, the held-out episodes, and what the plain twins of each solver and step count made of them."""

    def __init__(self, config: RaceConfig) -> None:
        self.config = config
        self.world: World = load_world(config.world)
        self.task = make_task(self.world.spec.task)
        lead = self.world.spec.max_context - 1
        truth = record(self.task, config.first_seed, config.episodes, lead, config.horizon)
        self.context = truth.frames[:, : lead + 1], truth.actions[:, :lead]
        self.truth = HeldOut(truth.frames[:, lead:], truth.actions[:, lead:], truth.poses[:, lead:])
        self.chunk = self.world.spec.max_chunk
        self._plain: dict[tuple[str, int], Imagined] = {}

    def start(self, lanes: np.ndarray, first_seed: int = 0) -> WorldState:
        """The held-out starts `lanes`, each with its own noise."""
        frames, actions = self.context
        return self.world.init(frames[lanes], actions[lanes], first_seed + lanes)

    def roll(self, what: Fidelity, *, shift: float = 0.0) -> tuple[Tensor, Trace]:
        """Latents `[N, H, C, h, w]` of the whole rollout; `shift` perturbs the newest real frame."""
        state = self.start(np.arange(self.config.episodes))
        if shift:
            generator = torch.Generator().manual_seed(0)
            noise = shift * torch.randn(state.latents.shape, generator=generator)
            tensors = {**state.tensors(), "latents": state.latents + noise.to(state.latents)}
            state = WorldState(**tensors)
        _, latents, trace = self.world.advance(state, self.truth.actions[:, : self.config.horizon], what)
        return latents, trace

    def imagine(self, what: Fidelity, *, shift: float = 0.0) -> tuple[Imagined, Trace]:
        """A rollout, decoded and judged."""
        latents, trace = self.roll(what, shift=shift)
        ends = np.unique(np.append(np.arange(self.chunk, self.config.horizon + 1, self.chunk), self.config.horizon)) - 1
        seen = HeldOut(self.truth.frames[:, np.append(0, ends + 1)], self.truth.actions, self.truth.poses[:, np.append(
            0, ends + 1)])
        errors = errors_of(self.task, self.world.decode(latents[:, ends]), seen)
        for name, worst in WORST.items():
            errors[name] = np.minimum(errors[name], worst)
        return Imagined(latents, self.world.decode(latents[:, : self.chunk]), errors), trace

    def plain(self, solver: str, steps: int) -> Imagined:
        """The uncached twin, imagined once."""
        if (solver, steps) not in self._plain:
            self._plain[solver, steps], _ = self.imagine(Fidelity(steps, NoCache(), solver))
        return self._plain[solver, steps]

    def compare(self, who: Contestant) -> dict[str, Any]:
        """Distance and losses of a contestant against the plain twin of the same solver and steps, and, as `official`,
        against the official setting."""
        config = who.fidelity
        steps = config.steps or self.world.spec.default_steps
        twin, official = self.plain(config.solver, steps), self.plain(self.config.solver, self.config.steps[0])
        mine, trace = (twin, None) if who.is_plain else self.imagine(config.build(self.world.spec))
        head = slice(0, self.chunk)
        return {
            "latent_error": float(np.median(relative_error(mine.latents[:, head], twin.latents[:, head]))),
            "psnr_to_uncached_db": None if who.is_plain else float(np.median(metrics.psnr_db(mine.first, twin.first))),
            "truth_loss": losses(mine, twin),
            "truth_loss_official": losses(mine, official),
            "shape_ok": float(mine.errors["shape_ok"].mean()),
            "sharpness": sharpness(mine.first) / sharpness(official.first),
            "hit_rate": trace.hit_rate if trace else 0.0,
            "skipped": trace.skipped if trace else 0.0,
        }

    def reference_error(self, who: Contestant, reference: Tensor) -> float:
        """Median relative distance of the first chunk from the finely integrated one."""
        first, _ = self.first_chunk(who.fidelity)
        return float(np.median(relative_error(first, reference)))

    def first_chunk(self, config: FidelityConfig) -> tuple[Tensor, Trace]:
        """Latents `[N, k, C, h, w]` from real context."""
        state = self.start(np.arange(self.config.episodes))
        what = config.build(self.world.spec)
        _, latents, trace = self.world.advance(state, self.truth.actions[:, : self.chunk], what)
        return latents, trace

    def time(self, everybody: Iterable[Contestant], batch: int, progress: Progress) -> dict[int, list[float]]:
        """Milliseconds of one chunk per contestant (by position) and round, everybody in turn."""
        count = 1 if batch == 1 else self.chunk
        fidelities = [who.fidelity.build(self.world.spec) for who in everybody]
        times: dict[int, list[float]] = {place: [] for place in range(len(fidelities))}
        for number in range(self.config.rounds + 1):
            lanes = (np.arange(batch) + number) % self.config.episodes
            state, actions = self.start(lanes, number), self.truth.actions[lanes, :count]
            for place, what in enumerate(fidelities):
                spans = Spans(self.world.device)
                with spans("chunk"):
                    self.world.advance(state, actions, what)
                if number:  # the first round warms up
                    times[place].append(spans.ms()["chunk"])
            progress(f"timing {batch} lanes, round {number} of {self.config.rounds}")
        return times

    def phases(self, who: Contestant, batch: int) -> dict[str, float]:
        """Share of a chunk's time per span, and of everything outside the blocks together."""
        lanes = np.arange(batch) % self.config.episodes
        count = 1 if batch == 1 else self.chunk
        _, _, trace = self.world.advance(self.start(lanes), self.truth.actions[lanes, :count],
                                         who.fidelity.build(self.world.spec))
        total = sum(trace.spans_ms.values())
        shares = {name: value / total for name, value in trace.spans_ms.items()}
        return {**shares, "outside_blocks": 1.0 - shares.get("probe", 0.0) - shares.get("deep", 0.0)}

    def memory(self, who: Contestant) -> float:
        """Most that the cache holds, in token grids of one lane."""
        policy = Weighed(who.fidelity.build(self.world.spec).cache)
        what = Fidelity(who.fidelity.steps or self.world.spec.default_steps, policy, who.fidelity.solver)
        self.world.advance(self.start(np.arange(1)), self.truth.actions[:1, : self.chunk], what)
        return policy.most


class Weighed:
    """A policy that notes how much its state ever held; for measurement only."""

    def __init__(self, policy: CachePolicy) -> None:
        self.policy, self.most = policy, 0.0

    def init(self, num_lanes: int, num_steps: int) -> Any:
        """As the policy."""
        return self.policy.init(num_lanes, num_steps)

    def forward(self, stack: BlockStack, step: int, tokens: Tensor, state: Any) -> tuple[Tensor, Any, Decision]:
        """As the policy."""
        output, state, decision = self.policy.forward(stack, step, tokens, state)
        held = {tensor.data_ptr(): tensor.numel() for tensor in tensors_in(state)}
        self.most = max(self.most, sum(held.values()) / tokens.numel())
        return output, state, decision


def tensors_in(value: Any) -> Iterable[Tensor]:
    """All tensors of a policy's state."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


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


def measure(config: RaceConfig, progress: Progress) -> dict[str, Any]:
    """Run the race; everything that was measured, ready for JSON."""
    everybody = contestants(config)
    race = Race(config)
    official = Contestant("official", "none", "", fidelity(config.solver, config.steps[0], "none"))
    runners = [official, *everybody]
    reference = race.first_chunk(fidelity("euler", config.reference_steps, "none"))[0] if config.frontier else None
    rows: list[dict[str, Any]] = []
    for place, who in enumerate(everybody):
        progress(f"{place + 1}/{len(everybody)} {who.policy} {who.knob} {who.fidelity.solver} {who.fidelity.steps}")
        row = {"group": who.group, "policy": who.policy, "origin": "ours", "knob": who.knob,
               "solver": who.fidelity.solver, "steps": who.fidelity.steps, **race.compare(who),
               "memory_grids": race.memory(who)}
        if who.group == "frontier" and reference is not None:
            row["reference_error"] = race.reference_error(who, reference)
        rows.append(row)
    timed = []
    for batch in config.batches:
        times = race.time(runners, batch, progress)
        plain = {(who.fidelity.solver, who.fidelity.steps): times[place]
                 for place, who in enumerate(runners) if who.is_plain}
        for place, (who, row) in enumerate(zip(everybody, rows, strict=True), start=1):
            own = plain[who.fidelity.solver, who.fidelity.steps]
            timed.append({**row, "batch": batch, "ms": float(np.median(times[place])),
                          **speedups(times[place], own, times[0])})
    return {
        "world": race.world.spec.name, "episodes": config.episodes, "first_seed": config.first_seed,
        "horizon": config.horizon, "solver": config.solver, "steps": config.steps,
        "official_errors": {name: float(values.mean()) for name, values in
                            race.plain(config.solver, config.steps[0]).errors.items()},
        "floor": floor(race), "rows": timed,
        "phases": {str(batch): {who.policy: race.phases(who, batch) for who in shown(everybody)}
                   for batch in config.batches},
    }


def run_race(config: RaceConfig, out: Path, progress: Progress) -> dict[str, Any]:
    """Measure, conclude, and write `summary.json` under `out`; the summary as read back."""
    summary = {"ours": list(config.ours), **conclude(measure(config, progress), config.speeds, config.ours)}
    out.mkdir(parents=True, exist_ok=True)
    text = files.encode(summary, indent=2) + "\n"
    files.replace(out / "summary.json", text.encode())
    return dict(json.loads(text))


def speedups(mine: list[float], plain: list[float], official: list[float]) -> dict[str, Any]:
    """Against the uncached loop of the same solver and steps, and against the official setting; with intervals."""
    table: dict[str, Any] = {}
    for name, base in (("speedup", plain), ("speedup_official", official)):
        interval = paired_speedup(np.array(base), np.array(mine), generator=np.random.default_rng(0))
        table[name], table[f"{name}_interval"] = interval.value, [interval.low, interval.high]
    return table


def shown(everybody: list[Contestant]) -> list[Contestant]:
    """The first contestant of every policy among the curves."""
    return list({who.policy: who for who in reversed(everybody) if who.group == "curves"}.values())[::-1]


def floor(race: Race) -> dict[str, Any]:
    """Distances of the official twin from itself, its context shifted by next to nothing."""
    twin = race.plain(race.config.solver, race.config.steps[0])
    shifted, _ = race.imagine(Fidelity(race.config.steps[0], NoCache(), race.config.solver), shift=FLOOR)
    head = slice(0, race.chunk)
    return {"shift": FLOOR, "latent_error": float(np.median(relative_error(shifted.latents[:, head],
                                                                           twin.latents[:, head]))),
            "psnr_to_uncached_db": float(np.median(metrics.psnr_db(shifted.first, twin.first))),
            "truth_loss": losses(shifted, twin)}
