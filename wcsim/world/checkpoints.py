"""Worlds on disk: diffusers' `save_pretrained` folders beside a `world.json` that describes and hashes them.

    NAME/world.json  NAME/transformer/{config.json, *.safetensors}  NAME/vae/{config.json, *.safetensors}
    NAME/state_model/{config.json, *.safetensors}    where it predicts quantities beside the pixels
    NAME/text/embeddings.safetensors     where the world reads a prompt: `conditional`, and `unconditional` to guide by

Our own weights are stored in float16, converted ones as they came; they are computed with in float32 (or whatever the
caller asks for).  Only safetensors are read.  A folder that does not match its own description is refused with the
reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wcsim.backbones.backbone import BACKBONES, Backbone, releases
from wcsim.errors import CheckpointError
from wcsim.types import ActionSpec, WorldSpec
from wcsim.world.canvas import fitted_size
from wcsim.world.codec import ClipCodec, Codec, WanCodec
from wcsim.world.limits import check_ranges, check_sizes, read_json
from wcsim.world.state_model import StateModel, load_state_model

FORMAT = 1
"""Version of `world.json`; another one is refused."""

PARTS = ("transformer", "vae", "state_model", "text")
TEXTS = Path("text", "embeddings.safetensors")


def shipped_worlds() -> dict[str, Path]:
    """The worlds inside the package, by name."""
    root = Path(str(resources.files("wcsim.assets")))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/world.json"))}


_PLACED: dict[str, Path] = {}


def place_world(name: str, folder: Path) -> None:
    """From now on `name` means the world in `folder`, in this process: for workers that do not see the driver's."""
    _PLACED[name] = folder


def find_world(name: str | Path) -> Path:
    """The folder of a world.  A Path, or a text with a separator, is a folder; a bare name is a shipped world first.

    Where a folder here has the name of a shipped world, the shipped one is taken, and a warning says so.
    """
    if str(name) in _PLACED:
        return _PLACED[str(name)]
    folder, is_path = Path(name), isinstance(name, Path) or os.path.basename(name) != name
    name, worlds, found = str(name), shipped_worlds(), (folder / "world.json").is_file()
    if name in worlds and not is_path:
        if found:
            warnings.warn(f"world {name!r} is the shipped one; for the folder here write ./{name}", stacklevel=2)
        return worlds[name]
    if found:
        return folder
    released = releases()
    if name in released:
        return released[name].find(name)
    raise CheckpointError(f"world {name!r} is neither a folder with a world.json nor shipped; shipped: "
                          f"{', '.join(worlds) or 'none'}; released elsewhere: {', '.join(released)}")


def save_world(
    folder: Path,
    spec: WorldSpec,
    transformer: Backbone,
    codec: WanCodec,
    *,
    dtype: torch.dtype | None = torch.float16,
    texts: Mapping[str, Tensor] | None = None,
    state_model: StateModel | None = None,
    source: Mapping[str, str] | None = None,
) -> None:
    """Write a complete world; `world.json` comes last, so that a folder with one is whole.

    dtype: of the weights on disk; None keeps theirs; those of the state model, which are few, stay as they are.  texts:
    prompt features `[1, S, E]` by branch.  source: where the parts came from, part by part, for the record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "world.json").unlink(missing_ok=True)
    for left in folder.glob("*/.tmp*"):  # of a save that was killed: it would be hashed as a part of the world
        left.unlink()
    parts: dict[str, Any] = {"transformer": transformer, "vae": codec.vae}
    for part, module in parts.items():
        if dtype is not None:
            # A copy, because the caller may go on training in float32; torch's own to(), because diffusers' warns.
            module = torch.nn.Module.to(deepcopy(module), dtype)
        module.register_to_config(_name_or_path=spec.name)  # not where it once lay on somebody's disk
        module.save_pretrained(folder / part)
    if texts:
        (folder / TEXTS).parent.mkdir(exist_ok=True)
        save_file({name: text.contiguous() for name, text in texts.items()}, folder / TEXTS)
    if state_model is not None:
        state_model.save(folder / "state_model")
    description = {"format": FORMAT, "spec": asdict(spec), "sha256": hash_files(folder)}
    description |= {"source": dict(source)} if source else {}
    (folder / "world.json").write_text(json.dumps(description, indent=2) + "\n")


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a world's parts, by path inside the folder."""
    paths = sorted(path for part in PARTS for path in (folder / part).glob("*") if path.is_file())
    hashes = {}
    for path in paths:
        with path.open("rb") as file:
            hashes[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def read_description(folder: Path) -> tuple[WorldSpec, dict[str, str]]:
    """The spec and the recorded hashes of a world folder."""
    description = read_json(folder / "world.json")
    if description.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has world format {description.get('format')!r}; this wcsim reads {FORMAT}")
    try:
        spec = TypeAdapter(WorldSpec).validate_python(description.get("spec"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{folder / 'world.json'}: spec.{place}: {first['msg']}") from error
    known = {"": ("format", "spec", "sha256", "source"), "spec.": [field.name for field in fields(WorldSpec)],
             "spec.action.": [field.name for field in fields(ActionSpec)]}
    for place, part in (("", description), ("spec.", description["spec"]),
                        ("spec.action.", description["spec"]["action"])):
        if unknown := sorted(part.keys() - set(known[place])):
            raise CheckpointError(f"{folder / 'world.json'}: {place}{unknown[0]} is unknown; known: "
                                  f"{', '.join(known[place])}")
    hashes = description.get("sha256", {})
    if not isinstance(hashes, dict) or not all(isinstance(digest, str) for digest in hashes.values()):
        raise CheckpointError(f"{folder / 'world.json'}: sha256 must be an object of texts")
    try:
        check_ranges(spec)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / 'world.json'}: {error}") from None
    return spec, hashes


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


def load_parts(folder: Path) -> tuple[WorldSpec, Backbone, WanCodec]:
    """Verify a world and load it in float32 on the CPU."""
    verify_hashes(folder)
    spec, _ = read_description(folder)
    try:
        transformer = load_strictly(backbone_of(folder / "transformer"), folder / "transformer")
        vae = load_strictly(WanCodec.autoencoder, folder / "vae")
        clips = spec.frames_per_latent > 1
        codec = ClipCodec(vae, spec.canvas, spec.eight_bits) if clips else Codec(vae, spec.refine_steps)
    except (OSError, ValueError, RuntimeError, SafetensorError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{folder} does not load: {error}") from error
    check_spec(spec, transformer, codec)
    return spec, transformer.eval(), codec.eval()


def backbone_of(folder: Path) -> type[Backbone]:
    """The class that wrote the weights in a folder.  CheckpointError for an unknown one: a world may come from
    anywhere, so its files name no module to import."""
    name, known = read_json(folder / "config.json").get("_class_name"), BACKBONES.names()
    if name not in known:
        raise CheckpointError(f"{folder}: _class_name is {name!r}; known backbones: {', '.join(known)}")
    family: type[Backbone] = BACKBONES.load(name)
    return family


def load_texts(folder: Path) -> dict[str, Tensor]:
    """The prompt features of a world by branch; none where it reads no prompt."""
    if not (folder / TEXTS).is_file():
        return {}
    try:
        texts: dict[str, Tensor] = load_file(folder / TEXTS)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / TEXTS} does not load: {error}") from error
    return texts


def load_state(folder: Path, spec: WorldSpec, transformer: Backbone) -> StateModel | None:
    """The state model of a world, which its transformer must have been trained with; None where it has none."""
    model = None
    if (folder / "state_model").is_dir():
        try:
            model = load_state_model(folder / "state_model")
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{folder / 'state_model'} does not load: {error}") from error
    if model is not None and spec.frames_per_latent > 1:
        raise CheckpointError(f"world {spec.name!r}: a state model predicts frame by frame; here "
                              f"{spec.frames_per_latent} frames share a latent")
    drawn = 0 if model is None else model.control_channels
    if drawn != transformer.geometry.control_channels:
        raise CheckpointError(f"world {spec.name!r}: control channels: the transformer has "
                              f"{transformer.geometry.control_channels}, the state model draws {drawn}")
    if model is not None:
        model.check(spec.latent_shape, spec.action.dim)
    return model


def load_strictly(kind: Any, folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A diffusers model whose weights are exactly those that its config asks for.  config: what to set differently."""
    described = {**read_json(folder / "config.json"), **config}
    check_sizes(folder, lambda: kind.from_config(described))
    model, report = kind.from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True, **config
    )
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(fault):
            raise CheckpointError(f"{folder}: {fault.replace('_', ' ')}: {', '.join(map(str, report[fault]))}")
    return model


def actions_read(spec: WorldSpec) -> int:
    """Actions that the embedders read at once: those of a latent frame, those of a chunk, or one."""
    return {"frames": spec.frames_per_latent, "chunk": spec.max_chunk, "tokens": 1}[spec.reads]


def check_spec(spec: WorldSpec, transformer: Backbone, codec: WanCodec) -> None:
    """Raise CheckpointError where the weights cannot do what the spec says."""
    check_cameras(spec)
    channels, height, width = spec.latent_shape
    try:
        geometry, clips = transformer.geometry, spec.frames_per_latent > 1
    except (TypeError, ValueError, LookupError) as error:
        raise CheckpointError(f"world {spec.name!r}: the transformer's config has no geometry: {error}") from error
    features, rows, columns = actions_read(spec) * spec.action.num_features, *(
        (1, 1) if geometry.pads else geometry.patch)
    if spec.reads == "tokens":  # narrower ones are filled up with zeros
        features = max(features, geometry.action_features)
    expected = {
        "latent channels of the codec": (codec.latent_channels, channels),
        "latent channels of the transformer": (geometry.latent_channels, channels),
        "action features": (geometry.action_features, features),
        "actions as tokens": (geometry.action_tokens, spec.reads == "tokens"),
        "canvas": (getattr(codec, "canvas", None), spec.canvas),
        "actions of a chunk left over by groups": (spec.max_chunk % spec.action.summed if clips else 0, 0),
        "actions summed up, in a world of single frames": (1 if clips else spec.action.summed, 1),
        "frame on its canvas": (fitted_size(spec.frame_size, spec.canvas or spec.frame_size), spec.frame_size),
        "frames per latent": (codec.frames_per_latent, spec.frames_per_latent),
        "frames of a chunk left over by latents": (spec.max_chunk % spec.frames_per_latent, 0),
        "refinements by an encoder of clips": (spec.refine_steps if clips else 0, 0),
        "octaves of an action, in a world of clips": (spec.action.fourier_octaves if clips else 0, 0),
        "frame height": (height * codec.compression, spec.frame_size[0]),
        "frame width": (width * codec.compression, spec.frame_size[1]),
        "latent height left over by patches": (height % rows, 0),
        "latent width left over by patches": (width % columns, 0),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise CheckpointError(f"world {spec.name!r}: {what}: the weights have {found}, the spec says {wanted}")


def check_cameras(spec: WorldSpec) -> None:
    """Raise CheckpointError unless the cameras have names of their own, and their mosaic is the frame."""
    names, heights, widths = zip(*spec.cameras, strict=True) if spec.cameras else ((), (), ())
    if len(set(names)) < len(names):
        raise CheckpointError(f"world {spec.name!r}: cameras {list(names)} need a name each")
    if names and (max(heights), sum(widths)) != spec.frame_size:
        raise CheckpointError(f"world {spec.name!r}: its cameras, side by side, fill {max(heights)}x{sum(widths)} "
                              f"pixels; its frame has {spec.frame_size[0]}x{spec.frame_size[1]}")
