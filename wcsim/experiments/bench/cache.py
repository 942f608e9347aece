"""The cache benchmark on one world: the time, distance from the uncached rollout and loss of every setting.

A speed-up is the median over rounds against the official setting.  Whole rollouts, which cost most, are compared with
the truth for the curves, and for those of the frontier that no other setting beats.  Easy to get wrong: settings that
are the same fidelity under two names are measured once, and both names get the figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wcsim.cache.fidelity import FidelityConfig
from wcsim.cache.none import NoCache
from wcsim.experiments.bench.cache_conclusions import conclude, lower_edge
from wcsim.experiments.bench.cache_measurements import CacheBenchmark, Progress, losses, relative_error
from wcsim.experiments.bench.cache_settings import CacheBenchConfig, Setting, absent, fidelity, settings_of
from wcsim.experiments.bench.saved import Saved
from wcsim.metrics import images
from wcsim.metrics.stats import paired_speedup
from wcsim.runs import files
from wcsim.types import Fidelity
from wcsim.world.checkpoints import find_world, hash_files

FLOOR = 1e-4
"""Standard deviation of what the context is shifted by for the floor below which no distance means anything."""
UNFINISHED = "unfinished.jsonl"
"""What a benchmark that was stopped has measured."""

Rows = list[dict[str, Any]]


def measure(config: CacheBenchConfig, out: Path, progress: Progress) -> dict[str, Any]:
    """Run the benchmark; everything that was measured, ready for JSON.  One that was stopped goes on from `out`."""
    settings, gone = settings_of(config), absent(config)
    for policy, why in gone.items():
        progress(f"without {policy}: {why}")
    bench = CacheBenchmark(config)
    saved = Saved(out / UNFINISHED, f"{config.model_dump_json()} {hash_files(find_world(config.world))}")
    fine = Fidelity(config.reference_steps, NoCache(), "euler", **config.shared)
    reference = bench.imagine(fine, whole=False).latents if config.frontier else None
    found: dict[str, dict[str, Any]] = {}
    for place, setting in enumerate(settings):
        what, whole = setting.fidelity, setting.group == "curves"
        progress(f"{place + 1}/{len(settings)} {setting.policy} {setting.knob} {what.solver} {what.steps}")
        name = name_of(what)
        if name not in found or (whole and found[name]["truth_loss"] is None):
            found[name] = saved(f"compare {whole} {name}", partial(bench.compare, what, reference, whole=whole))
    rows, phases = _timed(config, bench, saved, settings, found, progress)
    if reference is not None:
        _measure_the_edge(bench, saved, reference, settings, rows, progress)
    official = bench.plain(config.solver, config.steps[0], whole=True)
    return {
        "world": bench.world.spec.name, "episodes": config.episodes, "first_seed": config.first_seed,
        "horizon": config.horizon, "solver": config.solver, "steps": config.steps,
        "labels": bench.world.spec.labels,
        "losses": ["psnr", *bench.task.state.metrics],
        "official_errors": {name: float(values.mean()) for name, values in official.errors.items()},
        "floor": floor(bench), "absent": gone, "rows": rows, "phases": phases,
    }


def name_of(what: FidelityConfig) -> str:
    """A text that is equal for settings that run the same."""
    return what.model_dump_json()


def plain_of(setting: Setting) -> FidelityConfig:
    """The uncached loop of the same solver and steps, which a speed-up is counted from."""
    return setting.fidelity.model_copy(update={"cache": NoCache.Config(), "context_refresh": 0.0})


def _timed(
    config: CacheBenchConfig, bench: CacheBenchmark, saved: Saved, settings: Sequence[Setting],
    found: dict[str, dict[str, Any]], progress: Progress,
) -> tuple[Rows, dict[str, Any]]:
    """A row per setting and batch size, and per batch size the phases of one setting of every curve."""
    rows: Rows = []
    phases: dict[str, Any] = {}
    official = fidelity(config.solver, config.steps[0], "none", config.shared)
    for batch in sorted({batch for setting in settings for batch in config.batches_of(setting.group)}):
        here = [setting for setting in settings if batch in config.batches_of(setting.group)]
        runners = {name_of(what): what for what in [official, *map(plain_of, here), *(one.fidelity for one in here)]}
        rounds = [
            saved(f"time {batch} {number}", partial(bench.time, runners, batch, number, progress))
            for number in range(rounds_of(config, batch))
        ]
        clock = {name: [measured[name]["ms"] for measured in rounds] for name in runners}
        skipped = {name: float(np.mean([measured[name]["skipped"] for measured in rounds])) for name in runners}
        shares = {name: measured["shares"] for name, measured in rounds[-1].items()}
        for setting in here:
            mine = clock[name_of(setting.fidelity)]
            rows.append({
                "group": setting.group, "policy": setting.policy, "origin": setting.origin, "knob": setting.knob,
                "solver": setting.fidelity.solver, "steps": setting.fidelity.steps, **found[name_of(setting.fidelity)],
                "batch": batch, "ms": float(np.median(mine)), "skipped_when_timed": skipped[name_of(setting.fidelity)],
                **speedups(mine, clock[name_of(plain_of(setting))], clock[name_of(official)]),
            })
        first = {setting.policy: setting for setting in reversed(here) if setting.group == "curves"}
        phases[str(batch)] = {policy: shares[name_of(setting.fidelity)] for policy, setting in first.items()}
    return rows, phases


def rounds_of(config: CacheBenchConfig, batch: int) -> int:
    """So many that every episode is timed, however few lanes a round has."""
    return max(config.rounds, -(-config.episodes // batch))


def _measure_the_edge(
    bench: CacheBenchmark, saved: Saved, reference: Tensor, settings: Sequence[Setting], rows: Rows, progress: Progress
) -> None:
    """Whole rollouts for those rows of the frontier that no other beats in speed and distance."""
    for batch in {row["batch"] for row in rows}:
        there = [row for row in rows if row["batch"] == batch and row["group"] != "ablation"]
        edge = lower_edge([(row["speedup_official"], row["reference_error"]) for row in there])
        for row in there:
            if row["truth_loss"] is None and (row["speedup_official"], row["reference_error"]) in edge:
                progress(f"comparing {row['policy']} {row['knob']} {row['solver']} {row['steps']}")
                what = setting_of(settings, row).fidelity
                row.update(saved(f"compare True {name_of(what)}", partial(bench.compare, what, reference, whole=True)))


def setting_of(settings: Sequence[Setting], row: Mapping[str, Any]) -> Setting:
    """The setting that a row measured."""
    wanted = tuple(row[name] for name in ("group", "policy", "knob", "solver", "steps"))
    return next(one for one in settings
                if (one.group, one.policy, one.knob, one.fidelity.solver, one.fidelity.steps) == wanted)


def run_cache_benchmark(config: CacheBenchConfig, out: Path, progress: Progress) -> dict[str, Any]:
    """Measure, conclude, and write `summary.json` under `out`; the summary as read back."""
    summary = {"ours": list(config.ours), **conclude(measure(config, out, progress), config.speeds, config.ours)}
    text = files.encode(summary, indent=2) + "\n"
    files.replace(out / "summary.json", text.encode())
    (out / UNFINISHED).unlink()
    return dict(json.loads(text))


def speedups(mine: list[float], plain: list[float], official: list[float]) -> dict[str, Any]:
    """Against the uncached loop of the same solver and steps, and against the official setting; with intervals."""
    table: dict[str, Any] = {}
    for name, base in (("speedup", plain), ("speedup_official", official)):
        interval = paired_speedup(np.array(base), np.array(mine), generator=np.random.default_rng(0))
        table[name], table[f"{name}_interval"] = interval.value, [interval.low, interval.high]
    return table


def floor(bench: CacheBenchmark) -> dict[str, Any]:
    """Distances of the official rollout from itself, its context shifted by next to nothing."""
    solver, steps = bench.config.solver, bench.config.steps[0]
    plain = bench.plain(solver, steps, whole=True)
    shifted = bench.imagine(Fidelity(steps, NoCache(), solver, **bench.config.shared), whole=True, shift=FLOOR)
    head = slice(0, bench.chunk)
    return {"shift": FLOOR, "latent_error": float(np.median(relative_error(shifted.latents[:, head],
                                                                           plain.latents[:, head]))),
            "psnr_to_uncached_db": float(np.median(images.psnr_db(shifted.first, plain.first))),
            "truth_loss": losses(shifted, plain)}
