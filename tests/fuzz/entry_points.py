"""The doors of wcsim, each with what it takes: one function of a generator per door."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgpack
import numpy as np
import torch
import yaml
from safetensors.torch import load, save

from fuzzing import Act, damaged, mutated, pick, strange_array, unchanged  # type: ignore[import-not-found]  # beside this
from wcsim.agents.remote import RemoteSource
from wcsim.config import StrictConfig, override, read_yaml, validate
from wcsim.data.recordings import open_recordings
from wcsim.data.summary import summarise
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.snapshots import checksum, pack_snapshots, unpack_snapshots
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.experiments.bench.cache_settings import CacheBenchConfig
from wcsim.experiments.budget_config import BudgetConfig
from wcsim.experiments.budget_sweep import BudgetSweep
from wcsim.experiments.closed_loop import ClosedLoop, ClosedLoopConfig
from wcsim.experiments.evaluation import Evaluation, EvaluationConfig
from wcsim.experiments.goals import GoalRuns, GoalsConfig
from wcsim.messages import pack
from wcsim.report.conditions import conditions
from wcsim.runs.run import Run
from wcsim.serve.limits import Limits
from wcsim.serve.requests import Schema
from wcsim.strict_yaml import parse_yaml
from wcsim.world.checkpoints import hash_files, load_parts, load_state, load_texts
from wcsim.world.world import World

CONFIGS = Path(__file__).parents[2] / "configs"
TOKENS = ["a: ", "- ", "[", "]", "{", "}", "&a ", "*a", "<<: ", "\n", "  ", "\t", "'", '"', "|", ">",
          "!!int ", "!!map ", "? ", ": ", "#", "---\n", "...", "%YAML 1.1\n", "1e9", "0x", "~", "1:30", "9" * 400,
          "\ufeff", "\u2028", "\x00", "\x85", ","]
EXPERIMENTS: list[tuple[str, type[StrictConfig], Callable[[Any], object] | None]] = [
    ("pusht_mpc", ClosedLoopConfig, ClosedLoop), ("pusht_evaluate", EvaluationConfig, Evaluation),
    ("pusht_goals", GoalsConfig, GoalRuns), ("pusht_budget", BudgetConfig, BudgetSweep),
    ("bench_cache_quick", CacheBenchConfig, None)]


def some_yaml(rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        name = pick(rng, ["pusht_mpc", "pusht_goals", "train_pusht96", "cache_wcsim"])
        content = damaged(rng, (CONFIGS / f"{name}.yaml").read_bytes())
    else:
        content = "".join(pick(rng, TOKENS) for _ in range(int(rng.integers(1, 60)))).encode()
    parse_yaml(content, what="it")
    override({}, [f"a.b={content[:200].decode(errors='replace')}"])


def some_config(rng: np.random.Generator) -> None:
    name, model, make = EXPERIMENTS[int(rng.integers(len(EXPERIMENTS)))]
    config = validate(model, mutated(rng, read_yaml(name)))
    if make is not None:
        make(config)


def some_world(folder: Path, scratch: Path, rng: np.random.Generator) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(folder, scratch)
    file = pick(rng, sorted(path for path in scratch.rglob("*") if path.is_file()))
    if file.suffix == ".json" and rng.random() < 0.8:
        file.write_text(json.dumps(mutated(rng, json.loads(file.read_text()))))
    else:
        file.write_bytes(damaged(rng, file.read_bytes()))
    if rng.random() < 0.9 and file.name != "world.json":
        told = json.loads((scratch / "world.json").read_text())
        (scratch / "world.json").write_text(json.dumps(told | {"sha256": hash_files(scratch)}))
    spec, transformer, codec = load_parts(scratch)
    World(spec, transformer, codec, load_texts(scratch), state_model=load_state(scratch, spec, transformer))


def some_run(path: Path, scratch: Path, rng: np.random.Generator) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(path, scratch)
    file = pick(rng, sorted(path for path in scratch.rglob("*") if path.is_file()))
    if file.suffix in (".json", ".yaml") and rng.random() < 0.7:
        file.write_text(json.dumps(mutated(rng, yaml.safe_load(file.read_text()))))
    else:
        file.write_bytes(damaged(rng, file.read_bytes()))
    with unchanged(partial(content_of, scratch)):
        run = Run(scratch)
        conditions(run)
        run.load_arrays("start_0")
        run.read_summary()
        Run.resume(scratch, run.config, run.manifest).close()


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file but the lock, which says who asked."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != "run.lock"}


class Stepped:
    """Environments of a tiny world, alone and in lanes, that are fed actions."""

    def __init__(self, folder: str) -> None:
        settings: dict[str, Any] = {"task": "pusht", "world": folder,
                                    "fidelity": {"steps": 2, "cache": "none"}}
        self.env, self.lanes = ImaginedEnv(**settings), ImaginedVectorEnv(2, **settings)
        self.env.reset(seed=0)
        self.lanes.reset(seed=0)

    def act(self, rng: np.random.Generator) -> None:
        """One action, or several."""
        env: Any = pick(rng, [self.env, self.lanes])
        good = env.action_space.low if env is self.env else np.zeros((2, 2), np.float32)
        with unchanged(self.seen):
            env.step(strange_array(rng, np.asarray(good)))

    def reset(self, rng: np.random.Generator) -> None:
        """A seed and options."""
        env: Any = pick(rng, [self.env, self.lanes])
        start = self.env.start
        frames = strange_array(rng, start.frames)
        actions = strange_array(rng, start.actions) if rng.random() < 0.3 else start.actions
        options = pick(rng, [{"start": replace(start, frames=frames, actions=actions)}, {"start": frames}, {"x": 1},
                             mutated(rng, {"start": None, "options": {}}), frames])
        with unchanged(self.seen), suppress(gym.error.Error):  # Gymnasium's own word for a seed or an option
            env.reset(seed=pick(rng, [0, 1, -1, 2**63, "x", None, 0.5, [0, 1], [0], frames]), options=options)

    def seen(self) -> Any:
        """What a refusal must not move."""
        return [(id(env._lane), env.elapsed, env.over, str(env.np_random.bit_generator.state))
                for env in (self.env, *self.lanes.envs)]


class Restored:
    """Environments that are given snapshots, their checksums right as if somebody had made them so."""

    def __init__(self, folder: str) -> None:
        self.env = ImaginedEnv("pusht", folder, fidelity={"steps": 2, "cache": "none"})
        self.env.reset(seed=0)
        self.good = [self.env.snapshot()]
        self.env.expect(np.full((3, 2), 256.0))
        self.env.step(np.full(2, 256.0))
        self.good.append(self.env.snapshot())
        self.files = [pack_snapshots([one]) for one in self.good]

    def __call__(self, rng: np.random.Generator) -> None:
        tensors, text = pick(rng, self.files)
        change = int(rng.integers(4))
        if change == 0:
            tensors = damaged(rng, tensors)
        elif change == 1:
            text = damaged(rng, text.encode()).decode(errors="replace")
        elif change == 2:
            text = json.dumps(mutated(rng, json.loads(text)))
        else:
            parts = load(tensors)
            name = pick(rng, sorted(parts))
            parts[name] = torch.as_tensor(tensor_for(rng, parts[name]))
            tensors = save({key: value.contiguous() for key, value in parts.items()})
        with unchanged(self.seen):
            for snapshot in unpack_snapshots(tensors, resealed(tensors, text)):
                self.env.restore(snapshot)
        self.env.restore(self.good[1])

    def seen(self) -> Any:
        """What a refusal must not move."""
        return id(self.env._lane), self.env.elapsed, self.env.over, str(self.env.np_random.bit_generator.state)


def tensor_for(rng: np.random.Generator, like: torch.Tensor) -> Any:
    """Numbers that safetensors can hold, of the wrong shape, type or content."""
    while True:
        try:
            found = torch.as_tensor(np.asarray(strange_array(rng, like.numpy())))
        except (TypeError, ValueError, RuntimeError):
            continue
        if not found.is_complex():
            return found.clone()


def resealed(tensors: bytes, text: str) -> str:
    """The description with a checksum that is right, where it has one at all."""
    try:
        told = json.loads(text)
        told["sha256"] = checksum(tensors, told["snapshots"])
        return json.dumps(told)
    except (ValueError, TypeError, LookupError, RecursionError):
        return text


class Line:
    """A connection to a policy server that answers with what it was given."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers, self.closed = answers, False

    def send(self, message: bytes) -> None:
        """Nobody reads it."""

    def recv(self, timeout: float | None = None) -> Any:
        """The next answer."""
        return self.answers.pop(0)

    def close(self) -> None:
        """Hung up."""
        self.closed = True


def answer(rng: np.random.Generator, message: dict[Any, Any]) -> bytes | str:
    """What a server might send instead of a message."""
    change = int(rng.integers(6))
    packed = pack(message)
    if change == 0:
        return damaged(rng, packed)
    if change == 1:
        return bytes(rng.integers(0, 256, int(rng.integers(0, 60)), dtype=np.uint8))
    if change == 2:
        return "Traceback: \x1b[31m" + "x" * int(rng.integers(0, 3000))
    raw = msgpack.unpackb(packed, strict_map_key=False)
    if change == 5:
        return packed
    try:
        again: bytes = msgpack.packb(mutated(rng, raw))
    except (ValueError, TypeError, OverflowError):
        return packed
    return again


def some_answer(rng: np.random.Generator) -> None:
    """From a policy server, which must not be believed."""
    chunk = rng.uniform(0, 512, (4, 2)).astype(np.float32)
    first, second = answer(rng, {"name": "x"}), answer(rng, {"actions": chunk, "more": [1, {"a": chunk[0]}]})
    line = Line([first, second])
    policy = RemoteSource("ws://localhost:1", connect=lambda: line)
    try:
        found = policy({"pixels": np.zeros((8, 8, 3), np.uint8), "agent_pos": np.zeros(2), "task": "push"})
    except Exception:
        assert line.closed, "the connection stays open"
        raise
    assert np.isfinite(found).all()
    assert found.ndim in (1, 2)


def requests_of(env: ImaginedEnv) -> Act:
    """Requests of clients to a server of this environment's task."""
    schema, actions = Schema(env.played, Limits()), np.full((2, 2), 256.0, np.float32)
    start = {"frames": env.start.frames, "actions": env.start.actions}
    known = [{"id": 1, "op": "open", "seed": 3, "fidelity": {"steps": 2}},
             {"id": 2, "op": "reset", "session": 1, "seed": 4}, {"id": 7, "op": "reset", "session": 1, "start": start},
             {"id": 3, "op": "step", "session": 1, "actions": actions, "announced": actions, "shown": 1},
             {"id": 4, "op": "branch", "session": 1, "count": 2}, {"id": 5, "op": "snapshot", "session": 1},
             {"id": 6, "op": "film", "sessions": [1], "names": ["a"]}]

    def act(rng: np.random.Generator) -> None:
        message = answer(rng, pick(rng, known))
        schema.read(message if isinstance(message, bytes) else message.encode())

    return act


def some_recordings(sets: list[Path], scratch: Path, rng: np.random.Generator) -> None:
    """Folders of recordings in which a file was damaged, or an array replaced."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(pick(rng, sets), scratch)
    file = pick(rng, sorted(path for path in scratch.rglob("*") if path.is_file()))
    if file.suffix == ".json" and rng.random() < 0.8:
        file.write_text(json.dumps(mutated(rng, json.loads(file.read_text()))))
    elif file.suffix == ".npz" and rng.random() < 0.7:
        with np.load(file) as stored:
            arrays = dict(stored)
        name = pick(rng, sorted(arrays))
        like = arrays[name] if arrays[name].dtype.kind != "U" else np.zeros(arrays[name].shape)
        arrays[name] = np.array(strange_array(rng, like), dtype=object if rng.random() < 0.1 else None)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        file.write_bytes(buffer.getvalue())
    else:
        file.write_bytes(damaged(rng, file.read_bytes()))
    recordings = open_recordings(scratch)
    summarise(recordings)
    for number in range(len(recordings.episodes)):
        recordings.episode(number)
        recordings.frames(number, recordings.spec.cameras.cameras[0].name, [0])
