"""`wcsim train --from WORLD`: recordings and a world in, a world out.

    OUT/recipe.json      what is trained, on what, from which world; a folder goes on with nothing else
    OUT/finetune.pt      checkpoint, of what learns alone
    OUT/latents_*.npy    frames or clips as latents, made once
    OUT/world/           the world, written anew at every checkpoint; adapters are merged into its weights
    OUT/scalars.jsonl  OUT/summary.json  OUT/train.html   as of a training from nothing

Easy to get wrong: recordings must mean by their actions what the base means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from wcsim.data.recordings import Recordings
from wcsim.envs.recordings import action_spec
from wcsim.errors import ConfigError
from wcsim.progress import Shown
from wcsim.train.adapters import for_actions, learning, let_learn, plain
from wcsim.train.clip_footage import Clips
from wcsim.train.finetune_recipe import FineTune
from wcsim.train.footage import Footage, LatentFootage, open_footage
from wcsim.train.judge import judge
from wcsim.train.machine import Machine
from wcsim.train.recipe import DataRecipe
from wcsim.train.room import Room, fitting, room_of
from wcsim.train.run import PAGE, begun, bind
from wcsim.train.scalars import Scalars
from wcsim.train.stage import Stage
from wcsim.train.velocity import VelocityLearner, noised
from wcsim.train.windows import Window, Windows
from wcsim.types import ActionSpec, WorldSpec
from wcsim.world.checkpoints import (
    actions_read,
    backbone_of,
    find_world,
    load_parts,
    load_state,
    load_texts,
    read_description,
)
from wcsim.world.derived import derive_world, stored_dtype
from wcsim.world.guidance import CONDITIONAL
from wcsim.world.limits import read_json
from wcsim.world.rollout import Parts
from wcsim.world.state_model import StateModel, load_state_model

VALIDATION = 4
"""Batches of held-out windows."""

Progress = Callable[[str], None]


class Source(Protocol):
    """What windows come from."""

    def draw(self, count: int, rng: np.random.Generator) -> Window: ...


@dataclass(frozen=True)
class Tuning:
    """What all parts share.  base: the folder of the world to begin with."""

    recipe: FineTune
    base: Path
    spec: WorldSpec
    out: Path
    machine: Machine
    shown: Shown

    @property
    def dtype(self) -> torch.dtype:
        """Of weights that do not learn; those that do are float32."""
        quick = self.recipe.method == "lora" and self.machine.device.type == "cuda"
        name = self.recipe.weights or ("bfloat16" if quick else "float32")
        return torch.bfloat16 if name == "bfloat16" else torch.float32

    def action_of(self, recordings: Recordings) -> ActionSpec:
        """The actions of the result.  ConfigError where recordings have other frames or actions than it takes."""
        agree(recordings, self.spec)
        if self.recipe.actions == "world":
            return same_action(recordings, self.spec)
        if (self.base / "state_model").is_dir():
            raise ConfigError(f"world {self.spec.name!r} has a state model, which knows its own actions alone; say "
                              "actions: world")
        return action_spec(recordings)


def finetune(recipe: FineTune, out: Path, *, data: tuple[str, ...] = (), minutes: float | None = None,
             device: str = "cpu", compiled: bool = False, shown: Shown, say: Progress) -> Path:
    """Fine-tune a world, or go on; returns the page.  data: recordings instead of the recipe's."""
    if not recipe.base:
        raise ConfigError("there is no world to begin with; say base in the recipe, or --from")
    base = find_world(recipe.base)
    spec, _ = read_description(base)
    with begun(out, device, compiled, say) as (machine, scalars):
        return _finetune(Tuning(recipe, base, spec, out, machine, shown), data, minutes, scalars, say)


def _finetune(tuning: Tuning, data: tuple[str, ...], minutes: float | None, scalars: Scalars, say: Progress) -> Path:
    recipe, out, machine, other = tuning.recipe, tuning.out, tuning.machine, tuning.recipe.actions == "recordings"
    paths = data or ((recipe.data.path,) if isinstance(recipe.data.path, str) else recipe.data.path)
    *footage, action = open_footage(as_seen(recipe.data, tuning.spec), paths, tuning.action_of)
    with machine.ahead():
        bind(out, recipe, (footage[0], footage[1]), minutes,
             base=sha256((tuning.base / "world.json").read_bytes()).hexdigest())
    tuning = replace(tuning, spec=replace(tuning.spec, name=recipe.world, action=action,
                                          task="recordings" if other else tuning.spec.task))
    spec = tuning.spec
    room = fitting(estimate_memory(tuning), recipe.checkpointing, machine.device)
    if machine.first:
        say(f"memory on {machine.device}, about {room}")
    _, backbone, codec = load_parts(tuning.base)
    state_model = load_state(tuning.base, spec, backbone)
    with machine.ahead():
        sources = encoded(tuning, Parts(spec, backbone, codec.to(machine.device), state_model, {}, torch.device("cpu")),
                          (footage[0], footage[1]))
    del codec
    learner = learner_of(tuning, backbone, load_texts(tuning.base).get(CONDITIONAL), state_model, machine.device,
                         checkpointing=room.checkpointing)
    stored = stored_dtype(tuning.base)
    told = f"fine-tuned ({recipe.method}) from {recipe.base}, {len(footage[0].lengths)} episodes"

    def export() -> None:
        derive_world(out / "world", tuning.base, spec, plain(learner.backbone, stored), {"transformer": told})

    shown = tuning.shown
    shown.say("finetune")
    stage = Stage("finetune", out, recipe.schedule, machine, scalars, minutes, shown.count)
    run(stage, learner, sources, recipe.shift or spec.flow_shift, export)
    if not machine.first:
        return out / PAGE
    shown.say("held-out episodes")
    return judge(recipe.judge, out, footage[1], scalars.rows(), str(machine.device), tuning.dtype)


def run(stage: Stage, learner: VelocityLearner, sources: tuple[Source, Source], shift: float,
        export: Callable[[], None]) -> None:
    """Train on windows of the first source, hold out the second."""
    recipe, device = learner.recipe, stage.machine.device

    def draw(rng: np.random.Generator, generator: torch.Generator, done: float) -> Mapping[str, Any]:
        del done
        return noised(sources[0].draw(stage.schedule.batch, rng).to(device), recipe, shift, generator)

    @torch.no_grad()
    def validate() -> Mapping[str, float]:
        losses = []
        for number in range(VALIDATION):
            window = sources[1].draw(stage.schedule.batch, np.random.default_rng([7, number])).to(device)
            with stage.machine.autocast():
                losses.append(learner(**noised(window, recipe, shift, torch.Generator().manual_seed(number))))
        return {name: float(np.mean([float(loss[name]) for loss in losses])) for name in losses[0]}

    optimizer = torch.optim.AdamW(learning(learner), lr=0.0, betas=(0.9, 0.99), weight_decay=0.01,
                                  fused=device.type == "cuda")
    stage.run(learner, [optimizer], draw, validate, export)


def learner_of(tuning: Tuning, backbone: Any, text: torch.Tensor | None, state_model: StateModel | None,
               device: torch.device | str, *, checkpointing: bool) -> VelocityLearner:
    """The learner on a device, whose adapters follow from the schedule's seed."""
    torch.manual_seed(tuning.recipe.schedule.seed)
    if tuning.recipe.actions == "recordings":
        backbone = for_actions(backbone, tuning.spec)
    backbone.set_precision(tuning.dtype)
    let_learn(backbone, tuning.recipe)
    backbone.to(device)
    with torch.no_grad():
        features = torch.zeros(1, 1, backbone.text_width) if text is None else text
        read = backbone.read_text(features.to(device))
    return VelocityLearner(backbone, read, tuning.spec, tuning.recipe, checkpointing=checkpointing,
                           state_model=None if state_model is None else state_model.to(device)).train()


def encoded(tuning: Tuning, parts: Parts, footage: tuple[Footage, Footage]) -> tuple[Source, Source]:
    """Both footages as windows of latents."""
    found = list[Source]()
    draws = tuning.recipe.draws(tuning.spec)
    for name, part in zip(("train", "held_out"), footage, strict=True):
        tuning.shown.say(f"encode frames, {name}")
        path = tuning.out / f"latents_{name}"
        if tuning.spec.frames_per_latent > 1:
            found.append(Clips(part, parts, draws, path, tuning.recipe.clips, tuning.shown.count))
            continue
        latents = LatentFootage.of(part, parts.codec, tuning.spec.action, path.with_suffix(".npy"), tuning.shown.count,
                                   footage[0], robot_state=False)
        found.append(Windows(latents, draws))
    return found[0], found[1]


def estimate_memory(tuning: Tuning) -> Room:
    """What the fine-tuning will need, from the base's description alone."""
    spec, recipe, folder = tuning.spec, tuning.recipe, tuning.base / "transformer"
    family: Any = backbone_of(folder)
    state_model = load_state_model(tuning.base / "state_model") if (tuning.base / "state_model").is_dir() else None
    with torch.device("meta"):
        backbone = family.from_config(read_json(folder / "config.json"))
        text = load_texts(tuning.base).get(CONDITIONAL)
        learner = learner_of(tuning, backbone, text, state_model, "meta", checkpointing=False)
        batch, clips, tokens = recipe.schedule.batch, spec.frames_per_latent > 1, spec.reads == "tokens"
        frames = spec.max_context + spec.max_chunk // spec.frames_per_latent
        count = spec.max_chunk if tokens else frames
        width = (actions_read(spec) if clips and not tokens else 1) * spec.action.num_features
        window = Window(torch.zeros(batch, frames, *spec.latent_shape), torch.zeros(batch, count, width),
                        torch.ones(batch, count, dtype=torch.bool), torch.zeros(batch, 0), torch.zeros(batch, 0),
                        spec.max_context)
        noise, level = torch.zeros_like(window.latents), torch.zeros(batch)
        size, (rows, columns) = backbone.compute_dtype.itemsize, backbone.geometry.patch
        places = frames * -(-spec.latent_shape[1] // rows) * -(-spec.latent_shape[2] // columns)
        passed = batch * (places + (count if tokens else 0)) * backbone.geometry.width * size
        return room_of(lambda blocks: learner(window, level, noise, level, blocks), learner, backbone.depth, passed,
                       mean=recipe.schedule.ema > 0)


def as_seen(recipe: DataRecipe, spec: WorldSpec) -> DataRecipe:
    """The recipe of the data, with what the base says where it says nothing: frame size and fps."""
    height, width = spec.frame_size
    size = recipe.frame_size or (None if spec.cameras else (height, width))
    return recipe.model_copy(update={"frame_size": size, "fps": recipe.fps or spec.fps, "robot_state": False})


def agree(recordings: Recordings, spec: WorldSpec) -> None:
    """ConfigError where recordings have other frames than a world, or another fps."""
    told = recordings.spec
    if told.fps != spec.fps:
        raise ConfigError(f"{recordings.path} has {told.fps} fps; world {spec.name!r} has {spec.fps:g}")
    if told.cameras.frame_size != spec.frame_size:
        raise ConfigError(f"{recordings.path} has frames of {told.cameras.frame_size}; world {spec.name!r} has "
                          f"{spec.frame_size}: say data.frame_size and data.cameras")


def same_action(recordings: Recordings, spec: WorldSpec) -> ActionSpec:
    """The actions of a world.  ConfigError where recordings have others."""
    told, action = recordings.spec.action, spec.action
    if told.dim != action.dim or (told.told and told.names != action.names):
        raise ConfigError(f"{recordings.path} has the actions {', '.join(told.names)}; world {spec.name!r} has "
                          f"{', '.join(action.names)}; for another robot say actions: recordings")
    if told.told and told.units and told.units != action.units:
        raise ConfigError(f"{recordings.path} has actions in {told.units!r}; those of world {spec.name!r} are in "
                          f"{action.units!r}")
    return action
