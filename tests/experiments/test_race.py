"""A whole race on a tiny world: everything is measured, written, and drawn."""

import json

import pytest

from wcsim.config import override, read_yaml, validate
from wcsim.errors import ConfigError
from wcsim.experiments.cache_bench import run_race, tensors_in
from wcsim.experiments.race import RaceConfig, contestants
from wcsim.report.race import write_race

SMALL = {
    "name": "small", "episodes": 2, "horizon": 2, "rounds": 1, "batches": [1, 2], "steps": [6], "reference_steps": 8,
    "sweeps": [{"policy": "wcsim", "knob": "threshold", "values": [0.1, 100.0], "settings": {"force_last": False}}],
    "ablation": {"sweep": {"policy": "wcsim", "knob": "threshold", "values": [100.0]},
                 "parts": {"SWD": {"beta_s": 0.0}}},
    "frontier": {"solvers": ["euler", "dpm"], "steps": [3],
                 "sweeps": [{"policy": "dicache", "knob": "threshold", "values": [100.0]}]},
}


def test_a_race_measures_everybody_at_every_batch_size(folder, tmp_path):
    summary = run_race(validate(RaceConfig, {**SMALL, "world": str(folder)}), tmp_path / "race", lambda _: None)
    assert json.loads((tmp_path / "race/summary.json").read_text()) == summary
    assert len(summary["curves"]) == 2 * 3
    assert {row["policy"] for row in summary["ablation_rows"]} == {"whole", "without SWD"}
    eager = next(row for row in summary["curves"] if row["knob"] == "threshold=100")
    assert eager["skipped"] > 0
    assert eager["latent_error"] > 0
    assert eager["memory_grids"] >= 4
    plain = next(row for row in summary["curves"] if row["policy"] == "none")
    assert plain["latent_error"] == 0
    assert plain["memory_grids"] == 0
    assert set(summary["phases"]["1"]) == {"none", "wcsim"}
    page = write_race(summary, tmp_path / "race").read_text()
    assert "Error at equal speed" in page
    assert "<svg" in page


def test_packaged_races_name_only_caches_and_settings_that_exist():
    for name in ("bench_cache", "bench_cache_quick", "tune"):
        assert contestants(validate(RaceConfig, read_yaml(name)))


def test_a_sweep_of_a_setting_that_no_cache_has_is_named():
    wrong = override(SMALL, ["sweeps=[{policy: wcsim, knob: treshold, values: [1]}]"])
    with pytest.raises((ConfigError, ValueError), match="treshold"):
        contestants(validate(RaceConfig, wrong))


def test_tensors_are_found_wherever_a_state_keeps_them():
    import torch

    one = torch.zeros(1)
    assert len(list(tensors_in((one, [one, None], {"no": 1})))) == 2
