"""What a world needs, from its folder alone: for whoever decides where it will be loaded.

Easy to get wrong: the weights are counted as they will be computed with, whatever precision they are stored in.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from wcsim.types import Fidelity
from wcsim.world.checkpoints import PARTS, backbone_of, load_texts, read_description
from wcsim.world.limits import read_json
from wcsim.world.memory import Need, rollout_memory


def footprint(folder: Path, fidelity: Fidelity, dtype: torch.dtype = torch.float32) -> tuple[int, Need]:
    """Bytes of the weights in `dtype`, and what `World.memory` says of the loaded world; no weight is read."""
    spec, _ = read_description(folder)
    family: Any = backbone_of(folder / "transformer")
    with torch.device("meta"):
        transformer = family.from_config(read_json(folder / "transformer/config.json"))
    texts = load_texts(folder)
    clips = spec.frames_per_latent > 1
    need = rollout_memory(
        transformer.geometry, spec, fidelity, text_tokens=max([1, *(text.shape[1] for text in texts.values())]),
        size=dtype.itemsize, codec_width=read_json(folder / "vae/config.json").get("base_dim", 0) if clips else 0)
    return dtype.itemsize * sum(map(numbers_in, _weights(folder))), need


def numbers_in(path: Path) -> int:
    """How many numbers a safetensors file holds, by its header."""
    with safe_open(path, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _weights(folder: Path) -> list[Path]:
    return sorted(path for part in PARTS for path in (folder / part).glob("*.safetensors"))
