"""Which fidelity to use on this machine: the frontier of a world measured, and one point of it as a configuration.

Easy to get wrong: the tuning episodes are validation seeds.  The cache benchmark checks on test seeds
what it promises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wcsim.cache import parse_cache
from wcsim.errors import ConfigError
from wcsim.experiments.bench.cache import run_cache_benchmark, setting_of
from wcsim.experiments.bench.cache_measurements import Progress
from wcsim.experiments.bench.cache_settings import CacheBenchConfig, settings_of
from wcsim.strict_yaml import dump_yaml

Row = Mapping[str, Any]


def choose(rows: Sequence[Row], *, deadline_ms: float | None, max_error: float | None) -> Row:
    """The least error within the deadline, or the fastest within the error; with both, the least error within both.

    Raises ConfigError where nothing measured meets the bounds, and says what comes nearest.
    """
    if deadline_ms is None and max_error is None:
        raise ConfigError("tune needs --deadline-ms, --max-error or both")
    good = [row for row in rows if (deadline_ms is None or row["ms"] <= deadline_ms)
            and (max_error is None or row["reference_error"] <= max_error)]
    if not good:
        fastest, best = min(rows, key=lambda row: row["ms"]), min(rows, key=lambda row: row["reference_error"])
        nearest = "; ".join(f"{name} {row['ms']:.0f} ms at error {row['reference_error']:.4f}"
                            for name, row in (("the fastest", fastest), ("the most accurate", best)))
        raise ConfigError(f"nothing that was measured meets the bounds; {nearest}")
    return min(good, key=lambda row: row["ms"] if deadline_ms is None else row["reference_error"])


def tune_world(
    config: CacheBenchConfig, out: Path, *, deadline_ms: float | None, max_error: float | None, progress: Progress
) -> str:
    """Measure the frontier, write `summary.json` under `out`, and return the advice as YAML with a comment on top."""
    if deadline_ms is None and max_error is None:
        raise ConfigError("tune needs --deadline-ms, --max-error or both")
    summary = run_cache_benchmark(config, out, progress)
    row = choose([row for row in summary["frontier"] if row["batch"] == config.batches[0]],
                 deadline_ms=deadline_ms, max_error=max_error)
    setting = setting_of(settings_of(config), row)
    cache = parse_cache(setting.fidelity.cache).model_dump()
    refresh = {"context_refresh": setting.fidelity.context_refresh} if setting.fidelity.context_refresh else {}
    settings = {"fidelity": {"solver": row["solver"], "steps": row["steps"], "cache": cache, **refresh}}
    low, high = row["speedup_official_interval"]
    return (f"# {row['ms']:.0f} ms per step of {row['batch']} lane(s) here, {row['speedup_official']:.2f}x "
            f"(95% interval {low:.2f} to {high:.2f}) the official setting.\n"
            f"# Distance from the finely integrated frame {row['reference_error']:.4f}; from the uncached rollout "
            f"{row['latent_error']:.4f}.\n"
            + dump_yaml(settings))
