"""NVIDIA's checkpoint files as mappings of names to tensors, under whatever names training code left on them.

A `.pt` file or a folder of torch's distributed format; nothing in either is executed, since only names of plain values
are understood in what they pickle.  Easy to get wrong: a training run keeps averaged weights beside the last ones, and
the averaged ones (`net_ema.`, `ema`) are those that were released.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from wcsim.errors import CheckpointError

NESTS = ("ema", "model", "module", "state_dict")
"""Entries under which training code nests its weights; the averaged ones first."""
AROUND = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Names that wrappers put among others."""
BEFORE = ("module.", "model.")
NETS = ("net_ema.", "net.")
"""Names of the network in its training code; the averaged one wins."""
FIRST = "x_embedder.proj.1.weight"
"""A weight that every network of the family has."""
METADATA = ".metadata"
DESCRIBING = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
"""Modules whose own classes a distributed checkpoint's description is made of."""
BESIDE = {("torch", "Size"), ("torch.serialization", "_get_layout"), ("collections", "OrderedDict"),
          ("pathlib", "PosixPath"), ("pathlib", "PurePosixPath")}
STUDENT = re.compile(r"distill|dmd2?\b|self_forcing|causal|student|few_?step", re.IGNORECASE)
"""What a configuration says of networks with these names and another sampler."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pt` file, or of a folder of torch's distributed format, under the network's own names.

    CheckpointError for what is no such thing, what lies under an unknown prefix, and what a configuration beside it
    calls a distilled or causal student, whose names are the same.
    """
    refuse_students(path)
    loaded = _read_folder(path) if path.is_dir() else _read_file(path)
    while isinstance(loaded, Mapping) and (inner := next((loaded[key] for key in NESTS if isinstance(
            loaded.get(key), Mapping)), None)):
        loaded = inner
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{path} holds {type(loaded).__name__}, not a mapping of names to tensors")
    return own_names(loaded)


def own_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the prefixes of wrappers; of two networks in it the averaged one."""
    named = {AROUND.sub("", str(name)): value for name, value in state.items()}
    for prefix in BEFORE * 2:
        if all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): value for name, value in named.items()}
    for prefix in NETS:
        if f"{prefix}{FIRST}" in named:
            own = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
            rest = {name: value for name, value in named.items() if not name.startswith(NETS)}
            if twice := sorted(own.keys() & rest.keys()):
                raise CheckpointError(f"{twice[0]} is there twice, also under {prefix}")
            return own | rest
    if FIRST not in named and (found := next((name for name in named if name.endswith(FIRST)), None)):
        raise CheckpointError(f"the weights are named {found.removesuffix(FIRST)}..; understood are "
                              f"{', '.join((*NETS, *BEFORE, '_orig_mod.', '_fsdp_wrapped_module.'))}, and none")
    return named


def refuse_students(path: Path) -> None:
    """CheckpointError where a configuration beside weights, or one folder up, tells of a student."""
    for folder in (path if path.is_dir() else path.parent, path.parent):
        for name in ("config.yaml", "config.yml", "config.json"):
            found = folder / name
            if found.is_file() and (word := STUDENT.search(found.read_text("utf-8", errors="replace"))):
                raise CheckpointError(f"{found} says {word[0]!r}: weights of a distilled or causal network have the "
                                      "same names, and make nonsense under this sampler")


def _read_file(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch names no common base for what a bad file raises
        raise CheckpointError(f"{path} cannot be read as plain tensors: {error}") from error


class _Plain(pickle.Unpickler):
    """Reads the description of a distributed checkpoint and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = module in (*DESCRIBING, "torch") or (module, name) in BESIDE
        found = super().find_class(module, name) if known else None
        own = isinstance(found, type) and module in DESCRIBING and found.__module__ == module
        if own or isinstance(found, torch.dtype | torch.layout | torch.memory_format) or (module, name) in BESIDE:
            return found
        raise CheckpointError(f"the checkpoint's description names {module}.{name}, which is no part of one")


class _Reader(FileSystemReader):
    """Torch's own reader, which unpickles whatever a description names, given one that was read with care."""

    def __init__(self, folder: Path, described: Metadata) -> None:
        super().__init__(folder)
        self.described = described

    def read_metadata(self, *arguments: Any, **options: Any) -> Metadata:
        return self.described


def _describe(folder: Path) -> Metadata:
    """What a folder holds, but for what is no tensor, which torch would unpickle, too."""
    try:
        with (folder / METADATA).open("rb") as file:
            found = _Plain(file).load()
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder} holds no {METADATA} that can be read: {error}") from error
    if not isinstance(found, Metadata):
        raise CheckpointError(f"{folder} is described by a {type(found).__name__}")
    found.storage_meta = found.storage_meta or StorageMeta()
    found.state_dict_metadata = {name: entry for name, entry in found.state_dict_metadata.items()
                                 if isinstance(entry, TensorStorageMetadata)}
    return found


def _read_folder(folder: Path) -> Any:
    described, state = _describe(folder), dict[str, Any]()
    try:
        _load_state_dict(state, storage_reader=_Reader(folder, described), planner=_EmptyStateDictLoadPlanner(),
                         no_dist=True)
    except Exception as error:  # as above
        raise CheckpointError(f"{folder} cannot be read as a distributed checkpoint: {error}") from error
    return state
