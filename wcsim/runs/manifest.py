"""What a run depends on: versions, device and the hash of every file that it reads.

A run may go on only where all of this is as it was.  Easy to get wrong: `COMPARED` names what is identity; everything
else in a manifest (seeds, threads, platform, measurements) is for the reader and never compared.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from wcsim.errors import ConfigError

FORMAT = 2
"""Version of the run directory; another one is refused."""

PACKAGES = ("torch", "diffusers", "numpy", "gymnasium", "wcsim")
COMPARED = ("versions", "device", "guardrail", "inputs")
SHOWN = 4
"""Differences that a message names; it counts the others."""


def make_manifest(
    *, device: torch.device | str, seeds: Mapping[str, object], inputs: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a run depends on.  seeds: name to seed or seeds.  inputs: name of a file to its sha256.

    Holds no host name and no path.
    """
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "device": device_name(device),
        "torch_threads": torch.get_num_threads(),
        "seeds": dict(seeds),
        "inputs": dict(inputs or {}),
    }


def device_name(device: torch.device | str) -> str:
    """What a device is; of several, as `cuda:0,cuda:1`, each kind once: how many there are changes no result."""
    kinds = [torch.cuda.get_device_name(one) if one.startswith("cuda") else one for one in str(device).split(",")]
    return ",".join(dict.fromkeys(kinds))


def hash_inputs(paths: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of files by name; of a folder, of every file in it as `name/path`, but for hidden ones and bytecode.

    Raises ConfigError for what is not there.
    """
    hashes: dict[str, str] = {}
    for name, path in paths.items():
        if path.is_dir():
            inside = {file.relative_to(path): file for file in sorted(path.rglob("*")) if file.is_file()}
            hashes |= {f"{name}/{inner.as_posix()}": hash_file(file) for inner, file in inside.items()
                       if not any(part.startswith(".") or part == "__pycache__" for part in inner.parts)}
        elif path.is_file():
            hashes[name] = hash_file(path)
        else:
            raise ConfigError(f"{name} reads {path}, which does not exist")
    return hashes


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_change(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words, how two manifests differ in what is compared; empty where they do not."""
    changes = list(_changes(stored, now))
    more = [f"and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
    return "; ".join(changes[:SHOWN] + more)


def _changes(stored: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    then, present = (_flat(manifest) for manifest in (stored, now))
    for kind, name in dict.fromkeys([*then, *present]):
        was, now_is = then.get((kind, name), "nothing"), present.get((kind, name), "nothing")
        if was == now_is:
            continue
        yield (f"{name} differs (stored {str(was)[:12]}, now {str(now_is)[:12]})" if kind == "inputs"
               else f"{name} {was} then, {now_is} now")


def _flat(manifest: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Kind and name to value, of all that is compared; of Python's version its first two numbers."""
    found = {}
    for kind in COMPARED:
        values = manifest.get(kind, {})
        for name, value in (values if isinstance(values, Mapping) else {kind: values}).items():
            found[kind, name] = ".".join(str(value).split(".")[:2]) if (kind, name) == ("versions", "python") else value
    return found
