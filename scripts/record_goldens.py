"""Record what the shipped worlds do today, for `tests/test_goldens.py` to hold later versions against.

    python scripts/record_goldens.py                      all of tests/golden, in half a minute
    python scripts/record_goldens.py pusht-96.evaluation  one of them

Numbers go to `<world>.<run>.json`, frames to an `.npz` beside it, and `machine.json` says where bits must repeat.
Easy to get wrong: a restructuring leaves these files alone; a commit that records anew says why.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from golden_extract import SCENARIOS, SHIPPED, Played

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
NAMES = tuple(f"{world}.{run}" for world in SHIPPED for run in SCENARIOS)
COUNTED = ("torch", "numpy", "diffusers", "opencv-python", "shapely", "gym-pusht", "pymunk", "pygame")
"""Packages whose version may change bits."""


def play(name: str) -> Played:
    """One of `NAMES`, played now on one thread; values as plain JSON has them, None for what is not a number."""
    world, run = name.split(".")
    with TemporaryDirectory() as folder, one_thread():
        played = SCENARIOS[run](world, Path(folder))
    return Played(played.frames, plain(played.values))


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside, as many as before afterwards: sums over threads round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def plain(value: Any) -> Any:
    """Mappings, lists, numbers, booleans and None.  Floats keep every bit."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def read(name: str) -> Played:
    """One of `NAMES`, as it was recorded."""
    arrays = GOLDEN / f"{name}.npz"
    frames: dict[str, np.ndarray] = {}
    if arrays.is_file():
        with np.load(arrays, allow_pickle=False) as stored:
            frames = dict(stored)
    return Played(frames, json.loads((GOLDEN / f"{name}.json").read_text("utf-8")))


def write(name: str, played: Played) -> None:
    """Store a recording; a list of numbers takes one line."""
    text = json.dumps(played.values, indent=1, allow_nan=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)
    (GOLDEN / f"{name}.json").write_text(text + "\n", "utf-8")
    if played.frames:
        np.savez_compressed(GOLDEN / f"{name}.npz", allow_pickle=False, **played.frames)


def machine() -> dict[str, str]:
    """What bits depend on: the processor's kind and the versions of packages."""
    return {"machine": platform.machine(), "cpu": processor(), "vectors": torch.backends.cpu.get_cpu_capability(),
            **{name: version(name) for name in COUNTED}}


def recorded_on() -> dict[str, str]:
    """The `machine` of the recording."""
    return dict(json.loads((GOLDEN / "machine.json").read_text("utf-8")))


def processor() -> str:
    """Maker, family and model, from /proc/cpuinfo where there is one."""
    source = Path("/proc/cpuinfo")
    if not source.is_file():
        return platform.processor()
    facts = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", source.read_text("utf-8"), re.MULTILINE))
    return ", ".join(facts.get(name, "?") for name in ("model name", "cpu family", "model"))


def main() -> None:
    """Record the given ones, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(NAMES)}")
    names = parser.parse_args().names or NAMES
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        parser.error(f"{', '.join(unknown)} is unknown; known: {', '.join(NAMES)}")
    if set(names) != set(NAMES) and machine() != recorded_on():
        parser.error("the others were recorded on another kind of machine; record all of them here, or these there")
    GOLDEN.mkdir(exist_ok=True)
    for name in names:
        write(name, play(name))
        print(f"recorded {name}", flush=True)
    (GOLDEN / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
