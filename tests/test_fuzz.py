"""Bad input of four kinds, thousands of times: YAML, configurations, world folders and run directories.

Whatever comes in, what comes out is a result or one of wcsim's own errors, soon.  Every input follows from its number,
so a failure is repeated by that number alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from wcsim.config import StrictConfig, override, read_yaml, validate
from wcsim.errors import WcsimError
from wcsim.experiments.bench.cache_settings import CacheBenchConfig
from wcsim.experiments.budget_config import BudgetConfig
from wcsim.experiments.budget_sweep import BudgetSweep
from wcsim.experiments.closed_loop import ClosedLoop, ClosedLoopConfig
from wcsim.experiments.evaluation import Evaluation, EvaluationConfig
from wcsim.experiments.goals import GoalRuns, GoalsConfig
from wcsim.registry import only_allowed
from wcsim.report.conditions import conditions
from wcsim.runs.run import Run
from wcsim.strict_yaml import parse_yaml
from wcsim.world.checkpoints import hash_files, load_parts, load_state, load_texts
from wcsim.world.world import World

FAST, SLOW, SECONDS = 500, int(os.environ.get("WCSIM_FUZZ", "6000")), 20
"""Inputs of a kind in a quick round, inputs of all kinds in a slow one (more by `WCSIM_FUZZ`), and seconds for one."""

STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, -(2**63), 0.5, -1.5, 1e308,
    float("nan"), float("inf"), "", "x", "../../x",
    "os:system", "cpu", "cuda", "abacus", "a\nb", "\x00", "[red]", "1:30", "none", "x" * 5000, [], {}, [[]], [{}],
    {"kind": "hold"}, {"kind": None}, {"preset": "wcsim"}, {"": 1}, [1, 2, 3], ["a"], [None], {"a": {"b": {}}},
]
TOKENS = ["a: ", "- ", "[", "]", "{", "}", "&a ", "*a", "<<: ", "\n", "  ", "\t", "'", '"', "|", ">",
          "!!int ", "!!map ", "? ", ": ", "#", "---\n", "...", "%YAML 1.1\n", "1e9", "0x", "~", "1:30", "9" * 400,
          "\ufeff", "\u2028", "\x00", "\x85", ","]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after so long."""
    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(kind: str, act: Callable[[np.random.Generator], None], numbers: range) -> None:
    """Every input by its number: an own error or none, in time."""
    for number in numbers:
        try:
            with within(SECONDS), only_allowed([]):
                act(np.random.default_rng([7, number]))
        except WcsimError as error:
            if not 0 < len(str(error).strip()) < 50_000:
                raise AssertionError(f"{kind} {number}: a message of {len(str(error))} letters") from error
        except Exception as error:
            raise AssertionError(f"{kind} {number}: {type(error).__name__}: {error}") from error


def pick(rng: np.random.Generator, values: list[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """Bytes cut, overwritten, repeated or inserted."""
    for _ in range(int(rng.integers(1, 4))):
        at, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 40))
        new = bytes(rng.integers(0, 256, int(rng.integers(0, 8)), dtype=np.uint8))
        content = pick(rng, [content[:at], content[:at] + new + content[at + length :], content[:at] + content[at:] * 2,
                             content[:at] + content[at + length :]])[:100_000]
    return content


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in inner for found in [(value, key), *places(part)]]


def mutated(rng: np.random.Generator, value: Any) -> Any:
    """A copy with some of its parts replaced, removed, renamed or doubled."""
    value = deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        found = places(value)
        if not found:
            return value
        holder, key = pick(rng, found)
        change = int(rng.integers(5))
        if change < 3:
            holder[key] = deepcopy(pick(rng, STRANGE))
        elif change == 3:
            holder.pop(key)
        elif isinstance(holder, dict):
            holder[str(pick(rng, ["x", "kind", "steps", 3]))] = holder[key]
        else:
            holder.append(holder[key])
    return value


def some_yaml(rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        name = pick(rng, ["pusht_mpc", "pusht_goals", "train_pusht96", "cache_wcsim"])
        content = damaged(rng, (Path(__file__).parents[1] / "configs" / f"{name}.yaml").read_bytes())
    else:
        content = "".join(pick(rng, TOKENS) for _ in range(int(rng.integers(1, 60)))).encode()
    parse_yaml(content, what="it")
    override({}, [f"a.b={content[:200].decode(errors='replace')}"])


EXPERIMENTS: list[tuple[str, type[StrictConfig], Callable[[Any], object] | None]] = [
    ("pusht_mpc", ClosedLoopConfig, ClosedLoop), ("pusht_evaluate", EvaluationConfig, Evaluation),
    ("pusht_goals", GoalsConfig, GoalRuns), ("pusht_budget", BudgetConfig, BudgetSweep),
    ("bench_cache_quick", CacheBenchConfig, None)]


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
    run = Run(scratch)
    conditions(run)
    run.load_arrays("start_0")
    Run.resume(scratch, run.config, run.manifest).close()


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    manifest = {"versions": {"torch": "2"}, "device": "cpu", "inputs": {"a": "b"}, "labels": "none"}
    with Run.create(path, read_yaml("pusht_mpc"), manifest) as run:
        for start in range(2):
            run.save_arrays(f"start_{start}", frames=np.arange(6))
            run.record(f"start={start}", [{"step": 0, "error": 0.5}], {"success": True, "clipped": 0, "steps": 1})
    return path


@pytest.fixture
def kinds(predicting_folder: str, run_path: Path, tmp_path: Path) -> dict[str, Callable[[np.random.Generator], None]]:
    return {
        "yaml": some_yaml, "config": some_config,
        "world": lambda rng: some_world(Path(predicting_folder), tmp_path / "world", rng),
        "run": lambda rng: some_run(run_path, tmp_path / "run", rng),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("kind", "count"), [("yaml", FAST), ("config", FAST), ("world", 50), ("run", 100)])
def test_bad_input_is_one_clear_error(
    kind: str, count: int, kinds: dict[str, Callable[[np.random.Generator], None]]) -> None:
    check(kind, kinds[kind], range(count))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("kind", "share"), [("yaml", 0.4), ("config", 0.4), ("world", 0.05), ("run", 0.15)])
def test_much_bad_input_is_one_clear_error(
    kind: str, share: float, kinds: dict[str, Callable[[np.random.Generator], None]]) -> None:
    check(kind, kinds[kind], range(1000, 1000 + int(share * SLOW)))
