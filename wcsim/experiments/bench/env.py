"""What an environment's step costs, where the time goes, and what lanes and chunks change.

Lanes are timed in pairs: one step of N lanes, then N single steps from the same snapshots under the same actions, whose
frames must be equal bit for bit (on a CPU, where nothing is compiled).  Easy to get wrong: a context that is still
filling up is cheaper, so the lanes first take as many steps as the world looks back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.table import Table

from wcsim.cache import parse_cache
from wcsim.cache.fidelity import FidelityConfig
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.envs.wrappers import chunk_difference, noise_difference
from wcsim.errors import RunError
from wcsim.metrics.stats import bootstrap
from wcsim.runs import files
from wcsim.strict_yaml import parse_yaml
from wcsim.world.checkpoints import find_world, read_description
from wcsim.world.checks import check_device

INSIDE = ("state_model", "embed", "probe", "deep", "policy", "head", "solver", "decode", "estimate")
"""Spans of the transformer (with its cache), the codec and the estimator; all else is outside."""

DEADLINE_ROUNDS = 60
"""Steps of one lane compared with a deadline."""

REFRESH = "context_refresh"
"""The field of a fidelity that says how long the context's keys and values are reused."""

PEAK_SIZE, PEAK_ROUNDS = 1024, 20
"""Side of the square matrices whose product is taken for this machine's peak, and how many products."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Rounds of steps of the same lanes.  seconds: `[R]`.  spans_ms: per round.  blocks: `[R]` transformer blocks run,
    over all lanes.  hits: `[R]` mean hit rate."""

    seconds: list[float]
    spans_ms: list[dict[str, float]]
    blocks: list[float]
    hits: list[float]

    @property
    def outside(self) -> float:
        """Share of a step that is not spent in `INSIDE`, as a median over the rounds."""
        return float(np.median([1.0 - sum(self.shares(number).values()) for number in range(len(self.seconds))]))

    def shares(self, number: int) -> dict[str, float]:
        """Share of one round per span of `INSIDE`."""
        return {name: self.spans_ms[number].get(name, 0.0) / (1e3 * self.seconds[number]) for name in INSIDE}

    def gflops(self, operations: float) -> float:
        """Billions of operations per second within the blocks, each of which takes so many."""
        rates = [1e-6 * operations * blocks / (spans.get("probe", 0.0) + spans.get("deep", 0.0))
                 for blocks, spans in zip(self.blocks, self.spans_ms, strict=True)]
        return float(np.median(rates))


def bench_env(
    world: str, *, out: Path, lanes: int, rounds: int, fidelity: FidelityConfig, caches: Sequence[str], starts: int,
    ticks: int, fewer_steps: int, deadline_ms: float, device: str = "cpu", compiled: bool = False,
) -> dict[str, Any]:
    """Measure a world's environment and write `summary.json` under `out`; the summary.

    fidelity: all but the cache.  caches: what to time, presets' names or settings in YAML.  starts: episodes whose
    chunks of `ticks` are compared with single steps.  fewer_steps: denoise steps at which single steps are compared
    with `deadline_ms`, beside those of `fidelity`.  compiled: time lanes and chunks in a compiled world, and hold
    single steps against the deadline both with and without.  The same goes for a fidelity that keeps the context; how
    well the blocks use the machine is then not said, since how many tokens they run on differs from step to step.
    """
    check_device(device)
    spec, _ = read_description(find_world(world))
    parsed = {name: parse_yaml(name, what=f"cache {name!r}") for name in caches}
    known = {name: fidelity.model_copy(update={"cache": parse_cache(cache)}) for name, cache in parsed.items()}
    settings: dict[str, Any] = {"task": spec.task, "world": world, "device": device, "compiled": compiled}
    peak, steps = matrix_peak(device), fidelity.steps or spec.default_steps
    every = [(parsed[name],
              {**settings, "compiled": graphs, "fidelity": one.model_copy(update={"steps": number, REFRESH: hold})})
             for number in (steps, fewer_steps) for name, one in known.items() for graphs in sorted({False, compiled})
             for hold in sorted({0.0, getattr(fidelity, REFRESH)})]
    summary = {
        "world": spec.name, "device": device, "threads": torch.get_num_threads(), "lanes": lanes, "rounds": rounds,
        "compiled": compiled, "fidelity": fidelity.model_dump(mode="json", exclude={"cache"}),
        "solver": fidelity.solver, "denoise_steps": steps,
        "matrix_peak_gflops": peak,
        "caches": {name: bench_lanes({**settings, "fidelity": one}, lanes, rounds, peak)
                   for name, one in known.items()},
        "chunk": bench_chunks({**settings, "fidelity": known[caches[0]]}, starts, ticks),
        "deadline": {"ms": deadline_ms, "rows": bench_deadline(every, DEADLINE_ROUNDS, deadline_ms)},
    }
    out.mkdir(parents=True, exist_ok=True)
    files.replace(out / "summary.json", (files.encode(summary, indent=2) + "\n").encode())
    return dict(json.loads(files.encode(summary)))


def bench_lanes(settings: dict[str, Any], lanes: int, rounds: int, peak: float) -> dict[str, Any]:
    """Steps of many lanes against as many single ones; RunError where a frame differs."""
    vector = ImaginedVectorEnv(lanes, autoreset_mode="Disabled", max_episode_steps=10**6, **settings)
    vector.reset(seed=0)
    single = vector.envs[0].sibling()
    single.reset(seed=0)
    rng, box = np.random.default_rng(0), single.played.action_space
    many, one = Timing([], [], [], []), Timing([], [], [], [])
    for number in range(-vector.envs[0].world.spec.max_context, rounds):
        actions = rng.uniform(box.low, box.high, (lanes, *box.shape)).astype(np.float32)
        before = vector.snapshot()
        for env in vector.envs:  # a success ends no measurement
            env.over = False
        began = perf_counter()
        observation, *_ = vector.step(actions)
        seconds = perf_counter() - began
        if number < -1:  # the last of the steps that fill the context warms up both
            continue
        timing, frames = step_each(single, before, actions)
        exact = settings["device"] == "cpu" and not settings["compiled"]
        if exact and not np.array_equal(frames, observation["pixels"]):
            raise RunError("a lane of the vector environment differs from the single environment")
        if number >= 0:
            traces = [env.last_trace for env in vector.envs]
            add(many, seconds, vector.last_timing, traces)
            add(one, *timing)
    operations = operations_of(vector.envs[0])
    return {"single": report_of(one, lanes, operations, peak), "lanes": report_of(many, lanes, operations, peak),
            "ratio": ratio_of(one, many), "most_that_blocks_allow": peak / one.gflops(operations)}


def step_each(
    env: ImaginedEnv, snapshots: Sequence[Any], actions: np.ndarray
) -> tuple[tuple[float, dict[str, float], list[Any]], np.ndarray]:
    """One single step from each snapshot: seconds, spans and traces of all, and their frames."""
    seconds, spans, traces, frames = 0.0, dict[str, float](), [], []
    for snapshot, action in zip(snapshots, actions, strict=True):
        env.restore(snapshot)
        began = perf_counter()
        observation, *_ = env.step(action)
        seconds += perf_counter() - began
        frames.append(observation["pixels"])
        traces.append(env.last_trace)
        for name, took in env.last_timing.items():
            spans[name] = spans.get(name, 0.0) + took
    return (seconds, spans, traces), np.array(frames)


def add(timing: Timing, seconds: float, spans_ms: dict[str, float], traces: Sequence[Any]) -> None:
    """Append a round."""
    timing.seconds.append(seconds)
    timing.spans_ms.append(dict(spans_ms))
    timing.blocks.append(float(sum(trace.blocks.sum() for trace in traces)))
    timing.hits.append(float(np.mean([trace.hit_rate for trace in traces])))


def report_of(timing: Timing, lanes: int, operations: float, peak: float) -> dict[str, Any]:
    """Medians over the rounds: milliseconds per lane, shares of the step, and how well the blocks use the machine."""
    shares = [timing.shares(number) for number in range(len(timing.seconds))]
    return {
        "ms_per_lane": float(np.median(timing.seconds)) * 1e3 / lanes,
        "hit_rate": float(np.mean(timing.hits)),
        "shares": {name: float(np.median([share[name] for share in shares])) for name in INSIDE},
        "outside": timing.outside,
        "blocks_gflops": timing.gflops(operations),
        "share_of_peak": timing.gflops(operations) / peak,
    }


def ratio_of(one: Timing, many: Timing) -> dict[str, float]:
    """How many times the throughput of single steps the lanes have: median over pairs and its interval."""
    interval = bootstrap(np.array(one.seconds) / np.array(many.seconds), generator=np.random.default_rng(0))
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def operations_of(env: ImaginedEnv) -> float:
    """Operations of one block on one lane with a full context, a multiply-accumulate counting as two; NaN where the
    context is not always read.

    As `wcsim.backbones.cosmos2.cost` counts them, but for cross-attention, which costs nothing where the text is a
    single token.
    """
    if getattr(env.fidelity, REFRESH):
        return float("nan")
    geometry, spec = env.world.transformer.geometry, env.world.spec
    width, (patch_h, patch_w) = geometry.width, geometry.patch
    frames = (env.fidelity.context or spec.max_context) + 1
    tokens = frames * (spec.latent_shape[1] // patch_h) * (spec.latent_shape[2] // patch_w)
    return float(2 * tokens * ((4 + 2 * geometry.feed_forward) * width**2 + 2 * tokens * width))


def matrix_peak(device: str) -> float:
    """Billions of operations per second in the best of some large products of float32 matrices."""
    left, right = torch.ones(2, PEAK_SIZE, PEAK_SIZE, device=device).unbind(0)
    best = float("inf")
    for _ in range(PEAK_ROUNDS):
        began = perf_counter()
        _ = left @ right
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, perf_counter() - began)
    return 2e-9 * PEAK_SIZE**3 / best


def bench_chunks(settings: dict[str, Any], starts: int, ticks: int) -> dict[str, Any]:
    """Medians over starts, tick by tick: chunked against single steps, and single steps under two noises."""
    env, differences = ImaginedEnv(**settings), {"chunked": list[Any](), "other_noise": list[Any]()}
    rng, box = np.random.default_rng(1), env.played.action_space
    for seed in range(starts):
        env.reset(seed=seed)
        actions = rng.uniform(box.low, box.high, (ticks, *box.shape)).astype(np.float32)
        differences["chunked"].append(chunk_difference(env, actions))
        differences["other_noise"].append(noise_difference(env, actions))
    medians = {
        name: {key: np.median([np.nan_to_num(row[key], nan=np.inf) for row in rows], axis=0) for key in rows[0]}
        for name, rows in differences.items()
    }
    return {"starts": starts, "ticks": ticks, "chunk": env.world.spec.max_chunk, **medians}


def bench_deadline(
    every: Sequence[tuple[Any, dict[str, Any]]], rounds: int, deadline_ms: float
) -> list[dict[str, Any]]:
    """Whole steps of single environments, in turn under the same actions: percentiles, share within a deadline.

    every: the cache as it was asked for, and what makes the environment."""
    envs = [ImaginedEnv(**settings) for _, settings in every]
    for env in envs:
        env.reset(seed=0)
    rng, box = np.random.default_rng(2), envs[0].played.action_space
    took = np.empty((rounds, len(envs)))
    for number in range(-envs[0].world.spec.max_context, rounds):
        action = rng.uniform(box.low, box.high, box.shape).astype(np.float32)
        for index, env in enumerate(envs):
            env.over = False
            began = perf_counter()
            env.step(action)
            if number >= 0:
                took[number, index] = 1e3 * (perf_counter() - began)
    percentiles = np.percentile(took, [50, 95, 99], axis=0)
    return [{"steps": env.fidelity.steps, "cache": cache, "compiled": settings["compiled"],
             REFRESH: getattr(env.fidelity, REFRESH), "hit_rate": env.last_trace.hit_rate,
             **dict(zip(("p50_ms", "p95_ms", "p99_ms"), percentiles[:, index].tolist(), strict=True)),
             "within": float((took[:, index] <= deadline_ms).mean())}
            for index, ((cache, settings), env) in enumerate(zip(every, envs, strict=True))
            if env.last_trace is not None]


def tables_of(summary: dict[str, Any]) -> list[Table]:
    """The figures for a terminal."""
    lanes = summary["lanes"]
    steps = Table("cache", "", "ms a lane", "hits", *INSIDE, "outside", "of peak",
                  title=f"{summary['world']}, {summary['denoise_steps']} {summary['solver']} steps, "
                        f"{summary['threads']} threads")
    for cache, measured in summary["caches"].items():
        for name, label in (("single", "single"), ("lanes", f"{lanes} lanes")):
            row = measured[name]
            steps.add_row(cache, label, f"{row['ms_per_lane']:.1f}", f"{row['hit_rate']:.2f}",
                          *(f"{row['shares'][span]:.1%}" for span in INSIDE), f"{row['outside']:.1%}",
                          "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}")
    ratios = Table("cache", f"{lanes} lanes against {lanes} single steps", "most that the blocks allow")
    for cache, measured in summary["caches"].items():
        ratio = measured["ratio"]
        most = measured["most_that_blocks_allow"]
        ratios.add_row(cache, f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
                       "" if most is None else f"{most:.2f}")
    chunk = summary["chunk"]
    names = [name for name, values in chunk["chunked"].items() if isinstance(values, list)]
    apart = Table("tick", *names, *(f"other noise: {name}" for name in names),
                  title=f"chunks of {chunk['chunk']} against single steps, {chunk['starts']} starts")
    for tick in range(chunk["ticks"]):
        apart.add_row(str(tick + 1), *(
            "lost" if chunk[name][key][tick] is None else f"{chunk[name][key][tick]:.1f}"
            for name in ("chunked", "other_noise") for key in names))
    deadline = Table("denoise steps", "cache", "compiled", "context_refresh", "hits", "p50 ms", "p95 ms", "p99 ms",
                     "within", title=f"single steps against a deadline of {summary['deadline']['ms']:g} ms")
    for row in summary["deadline"]["rows"]:
        deadline.add_row(str(row["steps"]), str(row["cache"]), "yes" if row["compiled"] else "no",
                         f"{row[REFRESH]:g}", f"{row['hit_rate']:.2f}",
                         *(f"{row[name]:.0f}" for name in ("p50_ms", "p95_ms", "p99_ms")),
                         f"{row['within']:.0%}")
    return [steps, ratios, apart, deadline]
