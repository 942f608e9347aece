"""Worlds made of another one: its parts as they lie on disk, and a transformer that was trained further."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from wcsim.backbones.backbone import Backbone
from wcsim.types import WorldSpec
from wcsim.world.checkpoints import FORMAT, PARTS, hash_files
from wcsim.world.limits import read_json


def derive_world(folder: Path, base: Path, spec: WorldSpec, transformer: Backbone, source: Mapping[str, str]) -> None:
    """Write a complete world: the parts of `base`, but this transformer, whose weights keep their type.  `world.json`
    comes last, so that a folder with one is whole.  source: where parts came from, beside what the base says."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "world.json").unlink(missing_ok=True)
    for part in PARTS:
        if part != "transformer" and (base / part).is_dir():
            shutil.copytree(base / part, folder / part, dirs_exist_ok=True)
    module: Any = transformer
    module.register_to_config(_name_or_path=spec.name)
    transformer.save_pretrained(folder / "transformer")
    told = {**read_json(base / "world.json").get("source", {}), **source}
    description = {"format": FORMAT, "spec": asdict(spec), "sha256": hash_files(folder), "source": told}
    (folder / "world.json").write_text(json.dumps(description, indent=2) + "\n")


def stored_dtype(base: Path) -> torch.dtype:
    """Of a world's transformer on disk: that of its first weight."""
    path = sorted((base / "transformer").glob("*.safetensors"))[0]
    with safe_open(path, "pt") as file:
        found: torch.dtype = file.get_tensor(next(iter(file.keys()))).dtype
    return found
