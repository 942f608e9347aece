"""The race of caches on one world: everybody's time, distance from the uncached rollout, and what it costs in truth.

A speed-up is the median over rounds against the official setting.  Whole rollouts, which cost most, are judged for the
curves, and of the frontier for those that nobody beats.  Easy to get wrong: contestants that are the same fidelity
under two names are measured once, and both names get the figures.
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
from wcsim.experiments.kept import Kept
from wcsim.experiments.matched import conclude, lower_edge
from wcsim.experiments.race import Contestant, RaceConfig, absent, contestants, fidelity
from wcsim.experiments.racing import Progress, Race, losses, relative_error
from wcsim.track import files, metrics
from wcsim.track.stats import paired_speedup
from wcsim.types import Fidelity
from wcsim.world.checkpoints import find_world, hash_files

FLOOR = 1e-4
"""Standard deviation of what the context is shifted by for the floor below which no distance means anything."""
UNFINISHED = "unfinished.jsonl"
"""What a race that was stopped has measured."""

Rows = list[dict[str, Any]]


def measure(config: RaceConfig, out: Path, progress: Progress) -> dict[str, Any]:
    """Run the race; everything that was measured, ready for JSON.  A race that was stopped goes on from `out`."""
    everybody, gone = contestants(config), absent(config)
    for policy, why in gone.items():
        progress(f"without {policy}: {why}")
    race = Race(config)
    kept = Kept(out / UNFINISHED, f"{config.model_dump_json()} {hash_files(find_world(config.world))}")
    fine = Fidelity(config.reference_steps, NoCache(), "euler", config.context)
    reference = race.imagine(fine, whole=False).latents if config.frontier else None
    found: dict[str, dict[str, Any]] = {}
    for place, who in enumerate(everybody):
        progress(f"{place + 1}/{len(everybody)} {who.policy} {who.knob} {who.fidelity.solver} {who.fidelity.steps}")
        whole = who.group == "curves"
        name = name_of(who.fidelity)
        if name not in found or (whole and found[name]["truth_loss"] is None):
            found[name] = kept(f"compare {whole} {name}", partial(race.compare, who.fidelity, reference, whole=whole))
    rows, phases = _timed(config, race, kept, everybody, found, progress)
    if reference is not None:
        _measure_the_edge(race, kept, reference, everybody, rows, progress)
    official = race.plain(config.solver, config.steps[0], whole=True)
    return {
        "world": race.world.spec.name, "episodes": config.episodes, "first_seed": config.first_seed,
        "horizon": config.horizon, "solver": config.solver, "steps": config.steps,
        "labels": race.world.spec.labels,
        "losses": ["psnr", *race.task.state.metrics],
        "official_errors": {name: float(values.mean()) for name, values in official.errors.items()},
        "floor": floor(race), "absent": gone, "rows": rows, "phases": phases,
    }


def name_of(what: FidelityConfig) -> str:
    """What says that two contestants run the same."""
    return what.model_dump_json()


def plain_of(who: Contestant) -> FidelityConfig:
    """The uncached loop of the same solver and steps, which a speed-up is counted from."""
    return who.fidelity.model_copy(update={"cache": NoCache.Config(), "context_refresh": 0.0})


def _timed(
    config: RaceConfig, race: Race, kept: Kept, everybody: Sequence[Contestant], found: dict[str, dict[str, Any]],
    progress: Progress,
) -> tuple[Rows, dict[str, Any]]:
    """A row per contestant and batch size, and per batch size the phases of one contestant of every curve."""
    rows: Rows = []
    phases: dict[str, Any] = {}
    official = fidelity(config.solver, config.steps[0], "none", config.context)
    for batch in sorted({batch for who in everybody for batch in config.batches_of(who.group)}):
        here = [who for who in everybody if batch in config.batches_of(who.group)]
        runners = {name_of(what): what for what in [official, *map(plain_of, here), *(who.fidelity for who in here)]}
        rounds = [
            kept(f"time {batch} {number}", partial(race.time, runners, batch, number, progress))
            for number in range(rounds_of(config, batch))
        ]
        clock = {name: [told[name]["ms"] for told in rounds] for name in runners}
        skipped = {name: float(np.mean([told[name]["skipped"] for told in rounds])) for name in runners}
        shares = {name: told["shares"] for name, told in rounds[-1].items()}
        for who in here:
            mine = clock[name_of(who.fidelity)]
            rows.append({
                "group": who.group, "policy": who.policy, "origin": who.origin, "knob": who.knob,
                "solver": who.fidelity.solver, "steps": who.fidelity.steps, **found[name_of(who.fidelity)],
                "batch": batch, "ms": float(np.median(mine)), "skipped_when_timed": skipped[name_of(who.fidelity)],
                **speedups(mine, clock[name_of(plain_of(who))], clock[name_of(official)]),
            })
        first = {who.policy: who for who in reversed(here) if who.group == "curves"}
        phases[str(batch)] = {policy: shares[name_of(who.fidelity)] for policy, who in first.items()}
    return rows, phases


def rounds_of(config: RaceConfig, batch: int) -> int:
    """So many that every episode is timed, however few lanes a round has."""
    return max(config.rounds, -(-config.episodes // batch))


def _measure_the_edge(
    race: Race, kept: Kept, reference: Tensor, everybody: Sequence[Contestant], rows: Rows, progress: Progress
) -> None:
    """Whole rollouts for those rows of the frontier that no other beats in speed and distance."""
    for batch in {row["batch"] for row in rows}:
        there = [row for row in rows if row["batch"] == batch and row["group"] != "ablation"]
        edge = lower_edge([(row["speedup_official"], row["reference_error"]) for row in there])
        for row in there:
            if row["truth_loss"] is None and (row["speedup_official"], row["reference_error"]) in edge:
                progress(f"judging {row['policy']} {row['knob']} {row['solver']} {row['steps']}")
                what = who_is(everybody, row).fidelity
                row.update(kept(f"compare True {name_of(what)}", partial(race.compare, what, reference, whole=True)))


def who_is(everybody: Sequence[Contestant], row: Mapping[str, Any]) -> Contestant:
    """The contestant of a row."""
    return next(who for who in everybody if (who.group, who.policy, who.knob, who.fidelity.solver, who.fidelity.steps)
                == tuple(row[name] for name in ("group", "policy", "knob", "solver", "steps")))


def run_race(config: RaceConfig, out: Path, progress: Progress) -> dict[str, Any]:
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


def floor(race: Race) -> dict[str, Any]:
    """Distances of the official rollout from itself, its context shifted by next to nothing."""
    solver, steps = race.config.solver, race.config.steps[0]
    plain = race.plain(solver, steps, whole=True)
    shifted = race.imagine(Fidelity(steps, NoCache(), solver, race.config.context), whole=True, shift=FLOOR)
    head = slice(0, race.chunk)
    return {"shift": FLOOR, "latent_error": float(np.median(relative_error(shifted.latents[:, head],
                                                                           plain.latents[:, head]))),
            "psnr_to_uncached_db": float(np.median(metrics.psnr_db(shifted.first, plain.first))),
            "truth_loss": losses(shifted, plain)}
