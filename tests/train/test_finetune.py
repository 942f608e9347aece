"""`wcsim train --from WORLD`: any world learns from recordings, whole or by adapters, and stays a world."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from arm_recordings import SPEC, write
from tiny_recipe import Silent
from wcsim.backbones.backbone import Backbone
from wcsim.backbones.cosmos2.tiny import tiny_clip_world, tiny_parts, tiny_state_model
from wcsim.backbones.cosmos3.tiny import tiny_cosmos3_world, tiny_generator
from wcsim.cli import app
from wcsim.config import override, validate
from wcsim.errors import ConfigError, DataError
from wcsim.train.adapters import adapted_layers, for_actions, let_learn, plain
from wcsim.train.finetune import Tuning, finetune, learner_of
from wcsim.train.finetune_recipe import FineTune
from wcsim.train.machine import Machine
from wcsim.train.stage import Stage
from wcsim.train.velocity import noised
from wcsim.train.windows import Window
from wcsim.types import ActionSpec
from wcsim.world.checkpoints import load_parts, load_texts, read_description, save_world
from wcsim.world.world import World

pytest.importorskip("peft")
ACTION = ActionSpec((-0.2, -0.2, 0.0), (0.2, 0.2, 1.0), SPEC.action.names, SPEC.action.units, absolute=("gripper",))
CLIPS: dict[str, Any] = {"action": ACTION, "fps": 10.0, "default_steps": 1, "max_chunk": 4}
SLOW = pytest.mark.slow
SETTINGS: dict[str, Any] = {
    "world": "mine", "data": {"cameras": ["top"], "fit": "squash", "validation": 0.34}, "clips": 12, "rank": 4,
    "schedule": {"steps": 6, "batch": 4, "learning_rate": 0.01, "save_every": 3, "warmup_steps": 1, "ema": 0.5},
    "judge": {"episodes": 2, "horizon": 4, "steps": []}}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings") / "dot"
    write(folder, episodes=3)
    return folder


def cosmos2(folder: Path) -> None:
    world = tiny_clip_world(**CLIPS)
    save_world(folder, world.spec, world.transformer, world.codec, dtype=torch.bfloat16,
               texts={"conditional": torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))})


def cosmos3(folder: Path) -> None:
    world = tiny_cosmos3_world(**CLIPS)
    save_world(folder, world.spec, world.transformer, world.codec, dtype=None)


FAMILIES: dict[str, Callable[[Path], None]] = {"cosmos2": cosmos2, "cosmos3": cosmos3}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bases")
    for name, make in FAMILIES.items():
        make(root / name)
    return root


def tune(base: Path, recordings: Path, out: Path, *changes: str) -> Path:
    recipe = validate(FineTune, override({**SETTINGS, "base": str(base)}, changes))
    return finetune(recipe, out, data=(str(recordings),), shown=Silent(), say=lambda text: None)


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "scalars.jsonl").read_text().splitlines()]
    return [row["held_out"]["velocity"] for row in rows]


@pytest.mark.parametrize(("family", "method"), [("cosmos3", "lora"), pytest.param("cosmos2", "lora", marks=SLOW),
                                                pytest.param("cosmos2", "full", marks=SLOW),
                                                pytest.param("cosmos3", "full", marks=SLOW)])
def test_a_world_of_clips_learns_and_stays_a_world(family, method, bases, recordings, tmp_path):
    out, base = tmp_path / "out", bases / family
    tune(base, recordings, out, f"method={method}", "schedule.steps=40", "schedule.save_every=20")
    assert losses(out)[-1] < losses(out)[0]
    spec, hashes = read_description(out / "world")
    before, old = read_description(base)
    assert spec.name == "mine"
    assert (spec.action, spec.latent_shape, spec.default_steps) == (before.action, before.latent_shape, 1)
    kept = {path for path in old if not path.startswith("transformer/")}
    assert {path: hashes[path] for path in kept} == {path: old[path] for path in kept}
    assert hashes.keys() == old.keys()
    assert "fine-tuned" in json.loads((out / "world/world.json").read_text())["source"]["transformer"]
    assert World.load(out / "world").spec == spec
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["horizon"]) == {"1", "2", "4"}
    assert np.isfinite(summary["codec_psnr_db"])


@SLOW
@pytest.mark.parametrize("family", FAMILIES)
def test_killed_at_a_checkpoint_and_resumed_equals_unbroken(family, bases, recordings, tmp_path, monkeypatch):
    tune(bases / family, recordings, tmp_path / "whole")
    saves = Stage._save

    def save_and_die(self: Stage, *given: Any) -> None:
        saves(self, *given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "_save", save_and_die)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune(bases / family, recordings, tmp_path / "broken")
    monkeypatch.undo()
    tune(bases / family, recordings, tmp_path / "broken")
    assert read_description(tmp_path / "broken/world") == read_description(tmp_path / "whole/world")
    saved = torch.load(tmp_path / "broken/finetune.pt", weights_only=True)
    assert all(".lora_" in name or name.startswith(("backbone.action",)) for name in saved["learner"])


@pytest.mark.parametrize("make", [lambda: tiny_parts()[1], lambda: tiny_clip_world().transformer, tiny_generator])
def test_adapters_begin_as_nothing_and_merge_within_rounding(make):
    backbone: Any = make()
    before = said(backbone)
    torch.manual_seed(0)
    let_learn(backbone, validate(FineTune, SETTINGS))
    assert torch.equal(said(backbone), before)
    for name, weight in backbone.named_parameters():
        assert weight.requires_grad == (".lora_" in name or name.split(".")[0] in backbone.action_layers)
        if ".lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    adapted = said(backbone)
    assert (adapted - before).abs().max() > 1e-3
    assert torch.allclose(said(plain(backbone, torch.float32)), adapted, atol=1e-5)
    assert torch.equal(said(backbone), adapted)


def gradients(base: Path, checkpointing: bool = False, **settings: Any) -> dict[str, torch.Tensor]:
    """Of one batch, by weight."""
    spec, backbone, _ = load_parts(base)
    recipe = validate(FineTune, {**SETTINGS, **settings})
    tuning = Tuning(recipe, base, spec, base, Machine(), Silent())
    learner = learner_of(tuning, backbone, None, None, "cpu", checkpointing=checkpointing)
    count = spec.max_chunk if spec.reads == "tokens" else 2
    generator = torch.Generator().manual_seed(0)
    window = Window(torch.randn(2, 2, *spec.latent_shape, generator=generator),
                    torch.randn(2, count, backbone.geometry.action_features, generator=generator),
                    torch.ones(2, count, dtype=torch.bool), torch.zeros(2, 0), torch.zeros(2, 0), 1)
    learner(**noised(window, recipe, 5.0, generator))["loss"].backward()
    return {name: weight.grad for name, weight in learner.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_that_run_again_have_the_same_gradients(family, bases):
    once, again = (gradients(bases / family, checkpointing, method="full") for checkpointing in (False, True))
    assert once.keys() == again.keys()
    for name, gradient in once.items():
        assert torch.equal(gradient, again[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_weights_may_be_rounded_while_adapters_are_not(family, bases):
    exact, rounded = (gradients(bases / family, weights=name) for name in ("float32", "bfloat16"))
    assert exact.keys() == rounded.keys()
    for name, gradient in rounded.items():
        assert gradient.dtype == torch.float32
        assert torch.allclose(gradient, exact[name], atol=0.05 * float(exact[name].abs().max()) + 1e-4)


@torch.no_grad()
def said(backbone: Any) -> torch.Tensor:
    """What a backbone says of some latents."""
    size, generator = backbone.geometry, torch.Generator().manual_seed(3)
    latents = torch.randn(2, size.latent_channels, 3, 6, 6, generator=generator)
    actions = torch.randn(2, 5 if size.action_tokens else 3, size.action_features, generator=generator)
    text = torch.randn(1, 2, backbone.text_width, generator=generator)
    constants = backbone.prepare(latents, actions, torch.ones(actions.shape[:2]), text)
    levels = torch.full((1, 3), 0.5)
    tokens, given = backbone.embed_step(latents, backbone.modulations(levels.unsqueeze(0), constants)[0],
                                        torch.tensor([1.0, 0.0, 0.0]), constants)
    found: torch.Tensor = backbone.head(backbone.run_blocks(tokens, 0, backbone.depth, given), given, latents, levels)
    return found


@pytest.mark.parametrize("backbone", [tiny_clip_world().transformer, tiny_generator()])
def test_a_family_names_linear_layers_for_adapters_and_what_reads_actions(backbone: Backbone):
    module: Any = backbone
    for name in adapted_layers(backbone):
        assert isinstance(module.get_submodule(name), torch.nn.Linear)
    assert len(adapted_layers(backbone)) == backbone.depth * len(backbone.adapted_layers)
    assert all(hasattr(module, name) for name in backbone.action_layers)


@SLOW
def test_a_world_of_frames_with_a_state_model_learns_too(tmp_path):
    spec, transformer, codec = tiny_parts(task="pusht", control_channels=4)
    save_world(tmp_path / "base", spec, transformer, codec, state_model=tiny_state_model())
    rng = np.random.default_rng(0)
    (tmp_path / "table").mkdir()
    for number in range(3):
        actions = rng.uniform(0, 512, (12, 2)).astype(np.float32)
        frames = np.repeat(np.repeat(rng.integers(0, 255, (13, 12, 12, 3), np.uint8), 8, axis=1), 8, axis=2)
        np.savez(tmp_path / f"table/{number}.npz", frames=frames, actions=actions, fps=10.0,
                 action_names=np.array(spec.action.names))
    tune(tmp_path / "base", tmp_path / "table", tmp_path / "out", "data.cameras=null", "schedule.steps=30",
         "schedule.save_every=10", "change_weight=4.0")
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0]
    _, after, _ = load_parts(tmp_path / "out/world")
    assert after.geometry.control_channels == 4
    assert (tmp_path / "out/world/state_model").is_dir()


@pytest.mark.parametrize(("changes", "error", "said"), [
    (["method=full", "weights=bfloat16"], ConfigError, "method full learns weights in float32"),
    (["base=''"], ConfigError, "there is no world to begin with"),
    (["context_shares=[.5, .5]"], ConfigError, "needs 1 shares that sum to 1"),
    (["data.fps=5"], ConfigError, "has 5.0 fps; world 'tiny-clips' has 10"),
    (["data.cameras=[top, wrist]"], ConfigError, "has frames of"),
])
def test_what_cannot_be_tuned_is_refused_in_one_line(changes, error, said, bases, recordings, tmp_path):
    with pytest.raises(error, match=said):
        tune(bases / "cosmos2", recordings, tmp_path / "out", *changes)


def test_recordings_of_other_actions_or_too_short_are_refused_by_name(recordings, tmp_path):
    world = tiny_clip_world(fps=10.0)
    save_world(tmp_path / "bridge", world.spec, world.transformer, world.codec, dtype=None)
    with pytest.raises(ConfigError, match="has the actions dx, dy, gripper; world 'tiny-clips' has dx, dy, dz"):
        tune(tmp_path / "bridge", recordings, tmp_path / "out")
    long = tiny_clip_world(**{**CLIPS, "max_chunk": 48})
    save_world(tmp_path / "long", long.spec, long.transformer, long.codec, dtype=None)
    with pytest.raises(DataError, match="has 49 frames, which a clip of world 'mine' needs; the longest has 41"):
        tune(tmp_path / "long", recordings, tmp_path / "long-out")


@pytest.mark.parametrize(("make", "narrow"), [(tiny_clip_world, False), (tiny_cosmos3_world, True)])
def test_a_world_may_take_another_robots_actions(make, narrow, recordings, tmp_path):
    world = make(fps=10.0, default_steps=1)
    save_world(tmp_path / "base", world.spec, world.transformer, world.codec, dtype=None)
    run = tune(tmp_path / "base", recordings, tmp_path / "out", "actions=recordings")
    spec, transformer, _ = load_parts(tmp_path / "out/world")
    assert (spec.action.names, spec.task) == (SPEC.action.names, "recordings")
    assert transformer.geometry.action_features == (8 if narrow else 4 * 3)
    assert run.is_file()


def test_another_robots_actions_change_nothing_before_they_are_learnt():
    world = tiny_clip_world(**CLIPS)
    transformer: Any = for_actions(world.transformer, world.spec)
    actions = torch.randn(1, 3, transformer.geometry.action_features)
    for name in transformer.action_layers:
        assert not transformer.get_submodule(name)(actions).any()
    for name, weight in transformer.named_parameters():
        if not name.startswith("action"):
            assert torch.equal(weight, world.transformer.get_parameter(name))
    with pytest.raises(ConfigError, match="takes actions of at most 8 numbers; the recordings have 9"):
        for_actions(tiny_generator(), replace(world.spec, reads="tokens", action=ActionSpec(
            (0.0,) * 9, (1.0,) * 9, tuple("abcdefghi"), "m")))


def test_the_command_fine_tunes_by_the_packaged_recipe(bases, recordings, tmp_path):
    command = ["train", "--from", str(bases / "cosmos3"), "--data", str(recordings), "--out", str(tmp_path / "out"),
               "-s", "data.cameras=[top]", "-s", "data.validation=0.5", "-s", "schedule.steps=2", "-s", "clips=8",
               "-s", "judge={episodes: 1, horizon: 2, steps: []}"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "memory on cpu, about" in result.stdout
    assert read_description(tmp_path / "out/world")[0].name == "finetuned"
    nothing = CliRunner().invoke(app, ["train"])
    assert nothing.exit_code == 2
    assert "which world to fine-tune (--from)" in nothing.stderr
    assert load_texts(tmp_path / "out/world").keys() == load_texts(bases / "cosmos3").keys()
