"""The memory of a fine-tuning, estimated: what is counted is what is kept, and what does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from test_finetune import FAMILIES, SETTINGS  # type: ignore[import-not-found]  # beside this file
from tiny_recipe import Silent
from wcsim.backbones.cosmos2.releases import PREDICT_2B, RELEASES
from wcsim.config import override, validate
from wcsim.errors import ConfigError
from wcsim.train.finetune import Tuning, estimate_memory, learner_of
from wcsim.train.finetune_recipe import FineTune
from wcsim.train.machine import Machine
from wcsim.train.room import Room, fitting, free_memory, kept_bytes
from wcsim.train.velocity import noised
from wcsim.train.windows import Window
from wcsim.world.checkpoints import actions_read, load_parts, load_texts, read_description

CPU = torch.device("cpu")
ROOM = Room(weights=1000, learning=2000, ends=100, block=500, tokens=50, depth=10)


def tuning(base: Path, *changes: str) -> Tuning:
    spec = read_description(base)[0] if (base / "world.json").is_file() else RELEASES[
        "nvidia/Cosmos-Predict2.5-2B/robot/action-cond"].spec
    return Tuning(validate(FineTune, override(SETTINGS, changes)), base, spec, base, Machine(), Silent())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_counted_is_what_is_kept(family, method, checkpointing, tmp_path):
    FAMILIES[family](tmp_path / "base")
    given = tuning(tmp_path / "base", f"method={method}")
    room = replace(estimate_memory(given), checkpointing=checkpointing)
    spec, backbone, _ = load_parts(tmp_path / "base")
    learner = learner_of(given, backbone, load_texts(tmp_path / "base").get("conditional"), None, CPU,
                         checkpointing=checkpointing)
    frames = spec.max_context + spec.max_chunk // spec.frames_per_latent
    tokens = spec.reads == "tokens"
    window = Window(torch.randn(4, frames, *spec.latent_shape),
                    torch.randn(4, spec.max_chunk if tokens else frames, backbone.geometry.action_features),
                    torch.ones(4, spec.max_chunk if tokens else frames, dtype=torch.bool), torch.zeros(4, 0),
                    torch.zeros(4, 0), spec.max_context)
    own = {weight.untyped_storage()._cdata for weight in learner.parameters()}
    batch = noised(window, given.recipe, 5.0, torch.Generator().manual_seed(0))
    kept = kept_bytes(lambda: learner(**batch), besides=lambda tensor: tensor.untyped_storage()._cdata in own)
    if checkpointing:  # what goes from block to block is not among what is counted here
        assert kept <= room.ends + room.block
    else:
        assert kept == pytest.approx(room.ends + room.depth * room.block, rel=0.1)
    assert sum(weight.numel() for weight in learner.parameters()) * 4 == pytest.approx(room.weights, rel=0.01)


def test_the_model_of_two_billion_weights_is_estimated_without_any(tmp_path):
    spec = RELEASES["nvidia/Cosmos-Predict2.5-2B/robot/action-cond"].spec
    folder = tmp_path / "transformer"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        **PREDICT_2B, "_class_name": "ActionCosmosTransformer",
        "action_features": actions_read(spec) * spec.action.num_features}))
    shared = "schedule.batch=1", "rank=16", "schedule.ema=0"
    adapters, whole = (estimate_memory(tuning(tmp_path, f"method={method}", *shared))
                       for method in ("lora", "full"))
    assert whole.weights == pytest.approx(4 * 2.13e9, rel=0.01)
    assert whole.learning == 3 * whole.weights
    assert adapters.learning < whole.learning / 20
    assert replace(whole, checkpointing=True).activations < whole.activations / 5
    with pytest.raises(ConfigError, match=r"fine-tuning needs about .* GB.*; 8 GB are free on cpu"):
        within("8", whole)


def within(limit: str, room: Room, wanted: bool | None = None) -> Room:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WCSIM_MEMORY_GB", limit)
        return fitting(room, wanted, CPU)


@pytest.mark.parametrize(("limit", "wanted", "checkpointing"), [
    (9500, None, False), (5500, None, True), (9500, True, True), (9500, False, False)])
def test_checkpointing_is_chosen_where_it_would_not_fit_without(limit: int, wanted: Any, checkpointing: bool):
    found = within(str(limit / 1e9), ROOM, wanted)
    assert found.checkpointing is checkpointing
    assert found.total == 1000 + 2000 + 100 + 10 * (50 if checkpointing else 500) + 2 * 500


@pytest.mark.parametrize(("limit", "wanted"), [(4000, None), (5500, False)])
def test_what_does_not_fit_is_refused_with_what_to_do(limit: int, wanted: bool | None):
    with pytest.raises(ConfigError, match="use a smaller schedule.batch with accumulate, method lora"):
        within(str(limit / 1e9), ROOM, wanted)


def test_free_memory_is_what_the_system_says(tmp_path):
    assert free_memory(tmp_path / "nothing") is None
    (tmp_path / "meminfo").write_text("MemTotal:  100 kB\nMemAvailable:  50 kB\n")
    assert free_memory(tmp_path / "meminfo") == int(0.9 * 50 * 1024)
