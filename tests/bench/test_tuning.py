"""Which measured point the advice takes."""

import pytest
import yaml

from wcsim.cache.fidelity import FidelityConfig
from wcsim.config import validate
from wcsim.errors import ConfigError
from wcsim.experiments.bench import tuning
from wcsim.experiments.bench.cache_settings import CacheBenchConfig
from wcsim.experiments.bench.tuning import choose

ROWS = [{"ms": ms, "reference_error": error} for ms, error in ((10.0, 0.3), (20.0, 0.1), (40.0, 0.05))]


def test_a_deadline_buys_the_least_error_within_it():
    assert choose(ROWS, deadline_ms=25, max_error=None)["ms"] == 20


def test_an_error_bound_asks_for_the_fastest_within_it():
    assert choose(ROWS, deadline_ms=None, max_error=0.2)["ms"] == 20


def test_both_bounds_hold_together():
    assert choose(ROWS, deadline_ms=45, max_error=0.2)["ms"] == 40


def test_what_cannot_be_had_says_what_comes_nearest():
    with pytest.raises(ConfigError, match="the fastest 10 ms at error 0.3000; the most accurate 40 ms"):
        choose(ROWS, deadline_ms=5, max_error=None)
    with pytest.raises(ConfigError, match="--deadline-ms"):
        choose(ROWS, deadline_ms=None, max_error=None)


def test_the_advice_says_how_long_the_context_is_kept(folder, tmp_path, monkeypatch):
    sweep = {"policy": "wcsim", "name": "held", "context_refresh": 0.5, "knob": "threshold", "values": [0.3]}
    config = validate(CacheBenchConfig, {
        "name": "tune", "world": str(folder), "episodes": 2, "horizon": 1, "chunk": 1, "rounds": 1, "batches": [1],
        "sweeps": [], "steps": [4], "reference_steps": 5,
        "frontier": {"solvers": ["euler"], "steps": [4], "sweeps": [sweep]},
    })
    monkeypatch.setattr(tuning, "choose", lambda rows, **_: next(row for row in rows if row["policy"] == "held"))
    advice = tuning.tune_world(config, tmp_path, deadline_ms=1.0, max_error=None, progress=lambda _: None)
    told = validate(FidelityConfig, yaml.safe_load(advice)["fidelity"])
    assert (told.steps, told.context_refresh, told.cache.threshold) == (4, 0.5, 0.3)
