"""`wcsim train`: recordings in, a world out.

    OUT/recipe.json          what is trained, on what; a folder goes on with nothing else
    OUT/{codec,state_model,transformer}.pt     checkpoints; each stage goes on from its own
    OUT/frames_*.npy  OUT/latents_*.npy        frames and latents, made once
    OUT/world/               the world, written anew at every checkpoint of the transformer
    OUT/scalars.jsonl  OUT/summary.json  OUT/train.html   curves, held-out figures, the page

Easy to get wrong: the same command goes on where it was stopped; another recipe needs another folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wcsim.actions import bounds
from wcsim.config import StrictConfig
from wcsim.data.recordings import Recordings
from wcsim.envs.recordings import action_spec
from wcsim.envs.tasks import Task, make_task
from wcsim.errors import ConfigError, RunError
from wcsim.progress import Shown
from wcsim.runs import files
from wcsim.runs.lock import RunLock
from wcsim.spec import StateSpec
from wcsim.train.bodies import Steps, explored, train_bodies
from wcsim.train.codec import check_frames, train_codec
from wcsim.train.disc import train_disc
from wcsim.train.footage import Footage, FramePool, LatentFootage, open_footage
from wcsim.train.judge import judge
from wcsim.train.losses import StateReader, TransformerLearner
from wcsim.train.machine import Machine
from wcsim.train.privileged import read_halfway, with_simulator
from wcsim.train.recipe import Recipe
from wcsim.train.scalars import Scalars
from wcsim.train.schedule import Schedule
from wcsim.train.stage import Stage
from wcsim.train.state import train_state
from wcsim.train.transformer import new_transformer, train_transformer
from wcsim.train.windows import Windows
from wcsim.types import ActionSpec, WorldSpec
from wcsim.world.checkpoints import save_world
from wcsim.world.codec import Codec
from wcsim.world.state_model import StateModel, load_state_model

PAGE = "train.html"
DEFAULT_STEPS = 4
"""Denoise steps of a world that nobody has judged yet."""


@dataclass(frozen=True)
class Training:
    """What all stages share."""

    recipe: Recipe
    out: Path
    machine: Machine
    minutes: float | None
    shown: Shown
    scalars: Scalars

    def stage(self, name: str, schedule: Schedule, muon_rate: float = 1.0) -> Stage:
        """A stage, with its share of the minutes."""
        self.shown.say(name)
        minutes = None if self.minutes is None else self.minutes * self.recipe.shares()[name]
        return Stage(name, self.out, schedule, self.machine, self.scalars, minutes, self.shown.count, muon_rate)


def train(recipe: Recipe, out: Path, *, data: tuple[str, ...] = (), minutes: float | None = None, device: str = "cpu",
          compiled: bool = False, shown: Shown, say: Callable[[str], None]) -> Path:
    """Train a world, or go on; returns the page.  data: recordings instead of the recipe's.  minutes: for all stages
    together; None: as many steps as the recipe says."""
    with begun(out, device, compiled, say) as (machine, scalars):
        return _train(Training(recipe, out, machine, minutes, shown, scalars), data)


@contextmanager
def begun(out: Path, device: str, compiled: bool, say: Callable[[str], None]) -> Iterator[tuple[Machine, Scalars]]:
    """A folder that is this training's alone: the first process holds its lock, and tells."""
    out.mkdir(parents=True, exist_ok=True)
    machine = Machine(device, compiled=compiled)
    lock = RunLock.take(out) if machine.first else None
    try:
        yield machine, Scalars(out, say if machine.first else lambda text: None, shown=machine.first)
    finally:
        if lock is not None:
            lock.release()


def _train(training: Training, data: tuple[str, ...]) -> Path:
    recipe, out = training.recipe, training.out
    paths = data or ((recipe.data.path,) if isinstance(recipe.data.path, str) else recipe.data.path)
    task = None if recipe.task == "recordings" else make_task(recipe.task)
    footage = open_footage(recipe.data, paths, lambda found: action_of(found, task, recipe))
    with training.machine.ahead():
        bind(out, recipe, footage[:2], training.minutes)
    known = simulated(training, footage[:2], task)
    codec = prepare_codec(training, known)
    spec = spec_of(recipe, codec, footage[0], footage[2], task)
    latents = encode(training, codec, known, spec.action)
    state_model = prepare_state(training, known, latents, task, spec)
    model = new_transformer(recipe.transformer, spec, 0 if state_model is None else state_model.control_channels)
    numbers = latents[0].state.shape[1] if recipe.transformer.state_weight else 0
    learner = TransformerLearner(model, StateReader(model.width, numbers) if numbers else None, recipe.transformer,
                                 state_model)
    stage = training.stage("transformer", recipe.transformer.schedule, recipe.transformer.muon_rate)

    def export() -> None:
        save_world(out / "world", spec, model, codec.cpu(), state_model=state_model)

    windows = Windows(latents[0], recipe.transformer), Windows(latents[1], recipe.transformer)
    train_transformer(stage, learner, windows, spec, export)
    if not training.machine.first:
        return out / PAGE
    training.shown.say("held-out episodes")
    return judge(recipe.judge, out, footage[1], training.scalars.rows(), str(training.machine.device))


def simulated(training: Training, footage: tuple[Footage, Footage], task: Task | None) -> tuple[Footage, Footage]:
    """Both footages with what the recipe takes from the task's simulator; as they are where it takes nothing."""
    if training.recipe.privileged is None:
        return footage
    assert task is not None  # the recipe has seen to it
    found = []
    for name, part in zip(("train", "held_out"), footage, strict=True):
        training.shown.say(f"play again, {name}")
        with training.machine.ahead():
            found.append(with_simulator(part, task, training.out / f"simulator_{name}.npy", training.shown.count))
    return found[0], found[1]


def prepare_codec(training: Training, footage: tuple[Footage, Footage]) -> Codec:
    """The codec of the recipe, trained where it is to be."""
    recipe, folder = training.recipe.codec, training.out / "codec"
    if recipe.folder is not None:
        return Codec.load(Path(recipe.folder), recipe.refine_steps).eval()
    assert recipe.schedule is not None  # the recipe has seen to it
    pools = []
    for name, part, most in (("train", footage[0], training.recipe.data.codec_frames), ("held_out", footage[1], 512)):
        training.shown.say(f"decode frames, {name}")
        with training.machine.ahead():
            pools.append(FramePool.of(part, training.out / f"frames_{name}.npy", most, training.shown.count))
    privileged = training.recipe.privileged
    train_codec(training.stage("codec", recipe.schedule), recipe, pools[0], pools[1], folder, privileged)
    if not (folder / "config.json").is_file():
        raise ConfigError("the codec's stage ended before its decoder had learnt alone; give more minutes, or steps")
    if privileged is not None and privileged.disc is not None:
        first, folder = folder, training.out / "codec_disc"
        stage = training.stage("disc", privileged.disc.schedule)
        train_disc(stage, privileged, pools[0], pools[1], first, folder, recipe.refine_steps)
    return Codec.load(folder, recipe.refine_steps).eval()


def encode(training: Training, codec: Codec, footage: tuple[Footage, Footage], action: ActionSpec
           ) -> tuple[LatentFootage, LatentFootage]:
    """Both footages as latents."""
    codec, privileged = codec.to(training.machine.device), training.recipe.privileged
    read = footage if privileged is None else tuple(read_halfway(part, privileged) for part in footage)
    found = []
    for name, part in zip(("train", "held_out"), read, strict=True):
        training.shown.say(f"encode frames, {name}")
        with training.machine.ahead():
            found.append(LatentFootage.of(
                part, codec, action, training.out / f"latents_{name}.npy", training.shown.count, read[0],
                training.recipe.data.robot_state or privileged is not None))
    return found[0], found[1]


def prepare_state(training: Training, footage: tuple[Footage, Footage], latents: tuple[LatentFootage, LatentFootage],
                  task: Task | None, spec: WorldSpec) -> StateModel | None:
    """The state model of the recipe, trained; None without one."""
    recipe, folder = training.recipe.state_model, training.out / "state_model"
    privileged = training.recipe.privileged
    if privileged is not None and privileged.bodies is not None and task is not None:
        bodies = privileged.bodies
        training.shown.say("play the simulator")
        with training.machine.ahead():
            played = explored(bodies, training.recipe.task, training.out / "explored.npy", training.shown.count)
        schedules = {"estimator": bodies.estimator, "forward_model": bodies.forward}
        train_bodies(lambda name: training.stage(name, schedules[name]), privileged, footage, latents, spec,
                     Steps.of(played, privileged, bodies, task), folder)
        return load_state_model(folder)
    if recipe is None:
        return None
    train_state(training.stage("state_model", recipe.schedule), recipe, footage, latents,
                StateSpec(()) if task is None else task.state, spec.action.dim, folder)
    return load_state_model(folder)


def action_of(recordings: Recordings, task: Task | None, recipe: Recipe) -> ActionSpec:
    """What the actions mean: as the task says, where there is one, else as the recordings say.  ConfigError where both
    say something else."""
    found = action_spec(recordings)
    if task is None:
        return ActionSpec(found.low, found.high, found.names, found.units, recipe.data.fourier_octaves,
                          absolute=found.absolute)
    spec, told = task.action, recordings.spec
    if len(found.low) != spec.dim or (told.action.told and told.action.names != spec.names):
        raise ConfigError(f"{recordings.path} has the actions {', '.join(found.names)}; task {task.name!r} has "
                          f"{', '.join(spec.names)}")
    if told.fps is not None and told.fps != task.fps:
        raise ConfigError(f"{recordings.path} has {told.fps:g} fps; task {task.name!r} has {task.fps:g}: say data.fps")
    if told.cameras.frame_size != task.frame_size:
        raise ConfigError(f"{recordings.path} has frames of {told.cameras.frame_size}; task {task.name!r} has "
                          f"{task.frame_size}: say data.frame_size")
    low, high = bounds(spec)
    if (low > found.low).any() or (high < found.high).any():
        raise ConfigError(f"{recordings.path} has actions from {found.low} to {found.high}; task {task.name!r} allows "
                          f"{spec.low} to {spec.high} {spec.units}")
    return spec


def spec_of(recipe: Recipe, codec: Codec, footage: Footage, action: ActionSpec, task: Task | None) -> WorldSpec:
    """The public description of the world."""
    told, training = footage.recordings.spec, recipe.transformer
    height, width = told.cameras.frame_size
    check_frames(codec, (height, width))
    used = recipe.data.robot_state and footage.state is not None and (recipe.state_model or training.state_weight)
    labels = "robot state" if used else "none"
    labels = labels if recipe.privileged is None else recipe.privileged.labels
    cameras = tuple((one.name, one.height, one.width) for one in told.cameras.cameras)
    return WorldSpec(
        name=recipe.world, task=recipe.task, frame_size=(height, width),
        latent_shape=(codec.latent_channels, height // codec.compression, width // codec.compression), fps=told.rate,
        action=action, max_context=training.max_context, max_chunk=training.max_chunk, flow_shift=training.shift,
        context_sigma=training.context_sigma, default_steps=DEFAULT_STEPS, refine_steps=codec.refine_steps,
        labels=labels, cameras=cameras if len(cameras) > 1 else ())


def bind(out: Path, recipe: StrictConfig, footage: tuple[Footage, Footage], minutes: float | None, **more: str) -> None:
    """Write down what a folder trains, or check that it is the same.  RunError names what differs.  more: what else it
    depends on, by name."""
    told: dict[str, Any] = {"recipe": json.loads(recipe.model_dump_json()), "minutes": minutes,
                            "recordings": [part.fingerprint() for part in footage], **more}
    path = out / "recipe.json"
    if not path.is_file():
        files.replace(path, (files.encode(told, indent=2) + "\n").encode())
        return
    before = files.read_object(path)
    for what in differences(before, json.loads(files.encode(told))):
        raise RunError(f"{out} was begun with another {what}; train into another folder (--out)")


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Names, as a.b.c, of what differs between two values of JSON."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [found for key in sorted(before.keys() | now.keys())
                for found in differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)]
    return [] if before == now else [f"{name} ({before!r}, now {now!r})"]
