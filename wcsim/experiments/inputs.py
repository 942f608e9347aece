"""The files that an experiment's result depends on, by name, with their hashes.

The world is asked here; every other part of a configuration names its own files (`StrictConfig.files`).  Easy to get
wrong: a part is found only inside models, mappings, lists and tuples of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from wcsim.config import StrictConfig
from wcsim.runs.manifest import hash_file, hash_inputs
from wcsim.world.checkpoints import find_world, hash_files, read_description


class Experiment(Protocol):
    """A configuration with a world."""

    @property
    def world(self) -> str: ...


def inputs_of(config: Experiment) -> dict[str, str]:
    """Name to sha256 of every file that an experiment reads: its world, policies, recordings."""
    return _world(config.world) | hash_inputs(dict(_files(config)))


def _world(name: str) -> dict[str, str]:
    """The fingerprint of a world: its description, and the weights as they are now."""
    folder = find_world(name)
    spec, _ = read_description(folder)
    hashes = {"world.json": hash_file(folder / "world.json"), **hash_files(folder)}
    return {f"world {spec.name} {path}": digest for path, digest in hashes.items()}


def _files(part: object, place: str = "") -> Iterator[tuple[str, Path]]:
    """`place.setting` and path of every file that a part of a configuration, or a part of it, reads."""
    if isinstance(part, StrictConfig):
        yield from ((_inside(place, name), path) for name, path in part.files().items())
    if isinstance(part, BaseModel):
        part = {name: getattr(part, name) for name in type(part).model_fields}
    if isinstance(part, Mapping):
        for name, inner in part.items():
            yield from _files(inner, _inside(place, str(name)))
    elif isinstance(part, list | tuple):
        for number, inner in enumerate(part):
            yield from _files(inner, _inside(place, str(getattr(inner, "name", number))))


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
