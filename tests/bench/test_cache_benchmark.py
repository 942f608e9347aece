"""A whole cache benchmark on a tiny world: everything is measured, written, and drawn."""

import json

import numpy as np
import pytest
import torch

from wcsim.config import override, read_yaml, validate
from wcsim.errors import ConfigError
from wcsim.experiments.bench.cache import rounds_of, run_cache_benchmark
from wcsim.experiments.bench.cache_measurements import CacheBenchmark, tensors_in
from wcsim.experiments.bench.cache_settings import CacheBenchConfig, absent, settings_of
from wcsim.report.cache_benchmark import write_cache_benchmark
from wcsim.report.cache_benchmark_text import text_of

SMALL = {
    "name": "small", "world": "tiny", "episodes": 2, "horizon": 2, "rounds": 1, "batches": [1, 2], "steps": [6],
    "reference_steps": 8,
    "sweeps": [{"policy": "worldcache", "knob": "threshold", "values": [0.1, 100.0], "settings": {"force_last": False}},
               {"origin": "diffusers", "policy": "firstblock", "knob": "threshold", "values": [0.5], "steps": [6]},
               {"policy": "dicache", "knob": "threshold", "values": [0.1], "steps": [99]}],
    "ablation": {"sweep": {"policy": "worldcache", "knob": "threshold", "values": [100.0]}, "batches": [1],
                 "parts": {"SWD": {"beta_s": 0.0}}},
    "frontier": {"solvers": ["euler", "dpm"], "steps": [3],
                 "sweeps": [{"policy": "dicache", "knob": "threshold", "values": [100.0]}]},
}


def test_a_benchmark_measures_everybody_at_every_batch_size(folder, tmp_path):
    config = validate(CacheBenchConfig, {**SMALL, "world": str(folder)})
    summary = run_cache_benchmark(config, tmp_path / "bench", lambda _: None)
    assert json.loads((tmp_path / "bench/summary.json").read_text()) == summary
    assert len(summary["curves"]) == 2 * 4
    assert [row["policy"] for row in summary["ablation_rows"]] == ["whole", "without SWD"]
    foreign = next(row for row in summary["curves"] if row["origin"] == "diffusers")
    assert foreign["policy"] == "firstblock (diffusers)"
    assert foreign["memory_grids"] >= 1
    compared = [row for row in summary["frontier"] if row["truth_loss"] is not None]
    assert max(row["speedup_official"] for row in summary["frontier"]) in [row["speedup_official"] for row in compared]
    eager = next(row for row in summary["curves"] if row["knob"] == "threshold=100")
    assert eager["skipped"] > 0
    assert eager["latent_error"] > 0
    assert 2 < eager["memory_grids"] <= 5
    plain = next(row for row in summary["curves"] if row["policy"] == "none")
    assert plain["latent_error"] == 0
    assert plain["memory_grids"] == 0
    for row in summary["curves"]:  # what was timed is what was compared
        if row["origin"] == "ours":
            assert row["skipped_when_timed"] == pytest.approx(row["skipped"])
    assert set(summary["phases"]["1"]) == {"none", "worldcache", "firstblock (diffusers)"}
    page = write_cache_benchmark(summary, tmp_path / "bench").read_text()
    assert "Error at equal speed" in page
    assert "Not measured" not in page
    assert "Not measured: dbcache (gone)." in text_of({**summary, "absent": {"dbcache": "gone"}})
    assert "<svg" in page
    text = (tmp_path / "bench/cache_benchmark.md").read_text()
    assert "### Error at equal speed, one lane" in text
    assert "### Where the time goes, 2 lanes" in text
    assert all(line.count("|") == 7 for line in text.split("best of solver")[1].splitlines()[2:8] if line[:1] == "|")


def test_every_episode_is_timed():
    config = validate(CacheBenchConfig, {**SMALL, "episodes": 8, "rounds": 3})
    assert [rounds_of(config, batch) for batch in (1, 2, 32)] == [8, 4, 3]


def test_single_ticks_are_raced_as_single_ticks(folder):
    bench = CacheBenchmark(validate(CacheBenchConfig, {**SMALL, "world": str(folder), "chunk": 1}))
    who = settings_of(bench.config)[1].fidelity
    assert bench.imagine(who.build(bench.world.spec), whole=True).trace.hit.shape[0] == 2
    assert bench.imagine(who.build(bench.world.spec), whole=False).latents.shape[1] == 1


def test_how_long_the_context_is_kept_may_be_the_knob(folder, tmp_path):
    sweeps = [{"policy": "none", "name": "kept", "knob": "context_refresh", "values": [0.0, 1.0]},
              {"policy": "wcsim", "context_refresh": 0.5, "knob": "threshold", "values": [0.0]}]
    config = validate(CacheBenchConfig, {"name": "kept", "world": str(folder), "episodes": 2, "horizon": 2, "chunk": 1,
                                   "context": 2, "rounds": 1, "batches": [1], "steps": [4], "sweeps": sweeps})
    assert [(who.fidelity.context, who.fidelity.context_refresh) for who in settings_of(config)] == [
        (2, 0.0), (2, 0.0), (2, 1.0), (2, 0.5)]
    rows = run_cache_benchmark(config, tmp_path, lambda _: None)["curves"]
    errors = {(row["policy"], row["knob"]): row["latent_error"] for row in rows}
    assert errors["kept", "context_refresh=0"] == errors["none", ""] == 0
    assert errors["kept", "context_refresh=1"] > 0
    assert errors["wcsim", "threshold=0"] > 0
    assert all(row["hit_rate"] == 0 for row in rows)


def test_a_race_that_was_stopped_goes_on(folder, tmp_path, monkeypatch):
    config = validate(CacheBenchConfig, {**SMALL, "world": str(folder)})
    compare, measured = CacheBenchmark.compare, []

    def until_the_fourth(self, what, reference, *, whole):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(what.model_dump_json())
        return compare(self, what, reference, whole=whole)

    monkeypatch.setattr(CacheBenchmark, "compare", until_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run_cache_benchmark(config, tmp_path, lambda _: None)
    assert not (tmp_path / "summary.json").exists()

    def not_again(self, what, reference, *, whole):
        assert not whole or what.model_dump_json() not in measured
        return compare(self, what, reference, whole=whole)

    monkeypatch.setattr(CacheBenchmark, "compare", not_again)
    resumed = run_cache_benchmark(config, tmp_path, lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.json"]
    monkeypatch.undo()
    whole = run_cache_benchmark(config, tmp_path / "whole", lambda _: None)
    assert [untimed(row) for row in resumed["curves"]] == [untimed(row) for row in whole["curves"]]


def untimed(row):
    return {name: value for name, value in row.items() if "speedup" not in name and name != "ms"}


def test_who_is_not_installed_is_left_out_and_named(monkeypatch):
    monkeypatch.setattr("wcsim.experiments.bench.cache_settings.missing",
                        lambda origin: "gone" if origin == "diffusers" else None)
    config = validate(CacheBenchConfig, SMALL)
    assert absent(config) == {"firstblock (diffusers)": "gone"}
    assert {who.origin for who in settings_of(config)} == {"ours"}


def test_packaged_races_name_only_caches_and_settings_that_exist():
    for name in ("bench_cache", "bench_cache_quick", "bench_context", "tune"):
        assert settings_of(validate(CacheBenchConfig, read_yaml(name)))


def test_a_sweep_of_a_setting_that_no_cache_has_is_named():
    wrong = override(SMALL, ["sweeps=[{policy: worldcache, knob: treshold, values: [1]}]"])
    with pytest.raises((ConfigError, ValueError), match="treshold"):
        settings_of(validate(CacheBenchConfig, wrong))


def test_tensors_are_found_wherever_a_state_keeps_them():
    import torch

    one = torch.zeros(1)
    assert len(list(tensors_in((one, [one, None], {"no": 1})))) == 2


def test_a_policy_that_is_weighed_keeps_its_static_schedule(folder):
    """Whether it is decides at which steps the context is read."""
    sweep = {"policy": "wcsim", "context_refresh": 0.2, "knob": "threshold", "values": [0.2]}
    bench = CacheBenchmark(validate(CacheBenchConfig, {**SMALL, "world": str(folder), "sweeps": [sweep]}))
    what = next(who.fidelity for who in settings_of(bench.config) if who.policy == "wcsim").build(bench.world.spec)
    imagined = bench.imagine(what, whole=True)
    state = bench.start(np.arange(bench.config.episodes))
    _, latents, _ = bench.world.advance(state, bench.truth.actions, what)
    assert imagined.trace.hit.any()
    assert torch.equal(imagined.latents, latents)
