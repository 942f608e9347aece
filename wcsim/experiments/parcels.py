"""A world on its way to workers that do not see the folder it is in: its files, as bytes, unpacked once per machine.

Easy to get wrong: a worker may have another world of the same name, so what counts is the hash of `world.json`, which
holds the hashes of all its files, and loading verifies those.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.errors import CheckpointError
from wcsim.runs.manifest import hash_file
from wcsim.world.checkpoints import find_world, place_world, read_description

DESCRIPTION = "world.json"


@dataclass(frozen=True, slots=True)
class Parcel:
    """name: as jobs call the world.  digest: of its description.  files: path inside the folder to what `put` made of
    the bytes."""

    name: str
    digest: str
    files: Mapping[str, Any]


def pack(name: str, put: Callable[[np.ndarray], Any]) -> Parcel:
    """The files of a world.  put: keeps bytes, as uint8, where workers find them."""
    folder = find_world(name)
    _, hashes = read_description(folder)
    contents = {path: put(np.fromfile(folder / path, np.uint8)) for path in (DESCRIPTION, *hashes)}
    return Parcel(name, hash_file(folder / DESCRIPTION), contents)


def unpack(parcel: Parcel, get: Callable[[Any], np.ndarray], cache: Path | None = None) -> Path:
    """Make `World.load(parcel.name)` work in this process; the folder.

    Where the world of that name is the same, nothing is fetched.  get: what `put` kept.  cache: folder for unpacked
    worlds, of this machine alone.
    """
    try:
        folder = find_world(parcel.name)
        if hash_file(folder / DESCRIPTION) == parcel.digest:
            return folder
    except (CheckpointError, OSError):
        pass
    folder = (cache or cache_folder()) / parcel.digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _write(parcel, get, folder)
    place_world(parcel.name, folder)
    return folder


def cache_folder() -> Path:
    """Where unpacked worlds are kept: `WCSIM_CACHE`, or `wcsim/worlds` in the user's cache."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("WCSIM_CACHE") or user / "wcsim/worlds")


def _write(parcel: Parcel, get: Callable[[Any], np.ndarray], folder: Path) -> None:
    """The folder appears when it is whole."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for path, kept in parcel.files.items():
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        get(kept).tofile(partial / path)
    partial.rename(folder)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """No other process of this machine is in here; what a killed one held is free."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
