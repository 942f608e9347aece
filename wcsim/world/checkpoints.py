"""Worlds on disk: diffusers' `save_pretrained` folders beside a `world.json` that describes and hashes them.

    NAME/world.json  NAME/transformer/{config.json, *.safetensors}  NAME/vae/{config.json, *.safetensors}

Weights are stored in float16 and computed with in float32 (or whatever the caller asks for).  Only safetensors are
read.  A folder that does not match its own description is refused with the reason.
"""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from wcsim.errors import CheckpointError
from wcsim.types import WorldSpec
from wcsim.world.codec import Codec
from wcsim.world.transformer import ActionCosmosTransformer

FORMAT = 1
"""Version of `world.json`; another one is refused."""

PARTS = ("transformer", "vae")


def shipped_worlds() -> dict[str, Path]:
    """The worlds inside the package, by name."""
    root = Path(str(resources.files("wcsim.assets")))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/world.json"))}


def find_world(name: str) -> Path:
    """The folder of a world given by name or by path."""
    if (Path(name) / "world.json").is_file():
        return Path(name)
    worlds = shipped_worlds()
    if name not in worlds:
        known = ", ".join(worlds) or "none"
        raise CheckpointError(f"world {name!r} is neither a folder with a world.json nor shipped; shipped: {known}")
    return worlds[name]


def save_world(folder: Path, spec: WorldSpec, transformer: ActionCosmosTransformer, codec: Codec) -> None:
    """Write a complete world; `world.json` comes last, so that a folder with one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "world.json").unlink(missing_ok=True)
    for part, module in zip(PARTS, (transformer, codec.vae), strict=True):
        # A copy, because the caller may go on training in float32; torch's own half(), because diffusers' warns.
        torch.nn.Module.half(deepcopy(module)).save_pretrained(folder / part)
    description = {"format": FORMAT, "spec": asdict(spec), "sha256": hash_files(folder)}
    (folder / "world.json").write_text(json.dumps(description, indent=2) + "\n")


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a world's parts, by path inside the folder."""
    paths = sorted(path for part in PARTS for path in (folder / part).glob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def read_description(folder: Path) -> tuple[WorldSpec, dict[str, str]]:
    """The spec and the recorded hashes of a world folder."""
    try:
        description: dict[str, Any] = json.loads((folder / "world.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder / 'world.json'} cannot be read: {error}") from error
    if description.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has world format {description.get('format')!r}; this wcsim reads {FORMAT}")
    try:
        spec = TypeAdapter(WorldSpec).validate_python(description.get("spec"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{folder / 'world.json'}: spec.{place}: {first['msg']}") from error
    return spec, dict(description.get("sha256", {}))


def verify_hashes(folder: Path) -> None:
    """Raise CheckpointError unless every recorded file is there with the recorded content."""
    _, recorded = read_description(folder)
    present = hash_files(folder)
    for path in sorted(recorded.keys() | present.keys()):
        if path not in present:
            raise CheckpointError(f"{folder} lacks {path}, which its world.json records")
        if path not in recorded:
            raise CheckpointError(f"{folder / path} is not recorded in world.json")
        if present[path] != recorded[path]:
            raise CheckpointError(f"{folder / path} has sha256 {present[path]}, recorded is {recorded[path]}")


def load_parts(folder: Path) -> tuple[WorldSpec, ActionCosmosTransformer, Codec]:
    """Verify a world and load it in float32 on the CPU."""
    verify_hashes(folder)
    spec, _ = read_description(folder)
    try:
        transformer = load_strictly(ActionCosmosTransformer, folder / "transformer")
        codec = Codec(load_strictly(Codec.autoencoder, folder / "vae"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} does not load: {error}") from error
    check_spec(spec, transformer, codec)
    return spec, transformer.eval(), codec.eval()


def load_strictly(kind: Any, folder: Path) -> Any:
    """A diffusers model whose weights are exactly those that its config asks for."""
    model, report = kind.from_pretrained(
        folder, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True, local_files_only=True
    )
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(fault):
            raise CheckpointError(f"{folder}: {fault.replace('_', ' ')}: {', '.join(map(str, report[fault]))}")
    return model


def check_spec(spec: WorldSpec, transformer: ActionCosmosTransformer, codec: Codec) -> None:
    """Raise CheckpointError where the weights cannot do what the spec says."""
    channels, height, width = spec.latent_shape
    _, patch_h, patch_w = transformer.config.patch_size
    expected = {
        "latent channels of the codec": (codec.latent_channels, channels),
        "latent channels out of the transformer": (transformer.config.out_channels, channels),
        "transformer in_channels (latents and condition mask)": (transformer.config.in_channels, channels + 1),
        "action features": (transformer.config.action_features, spec.action.num_features),
        "frame height": (height * codec.compression, spec.frame_size[0]),
        "frame width": (width * codec.compression, spec.frame_size[1]),
        "latent height left over by patches": (height % patch_h, 0),
        "latent width left over by patches": (width % patch_w, 0),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise CheckpointError(f"world {spec.name!r}: {what}: the weights have {found}, the spec says {wanted}")
