"""What a world folder may say of itself: ranges of its description, and sizes that its weights bear out.

A world may come from anybody, so all of this is checked before anything is made of it.  Easy to get wrong: a loop over
`num_layers` hangs long before any weight is read, so counts are held against the files' headers first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from wcsim.errors import CheckpointError
from wcsim.types import WorldSpec

MAX_JSON = 2**24
"""Bytes of a description."""
MAX_COUNT, MAX_ITEMS = 64, 1024
"""Layers, and items of a list, that a config may ask for however few tensors there are."""

SIZE, COUNT = (1, 8192), (1, 4096)
RANGES: dict[str, tuple[float, float]] = {
    "frame_size": SIZE, "latent_shape": SIZE, "fps": (1e-3, 1e4), "max_context": COUNT, "max_chunk": COUNT,
    "flow_shift": (1e-3, 1e3), "context_sigma": (-1e3, 1e3), "default_steps": (1, 10_000), "frames_per_latent": (1, 64),
    "refine_steps": (0, 100), "action.low": (-1e9, 1e9), "action.high": (-1e9, 1e9), "action.scale": (-1e9, 1e9),
    "action.fourier_octaves": (0, 32), "cameras": SIZE, "canvas": SIZE,
    "action.summed": (1, 64), "action.slots": (0, 8192), "action.offset": (-1e9, 1e9), "action.rest": (-1e9, 1e9),
}
"""Least and most of every number in a description."""
MAX_ACTION, MAX_TEXT = 1024, 200


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError in one line where there is none."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON + 1)
        if len(content) > MAX_JSON:
            raise CheckpointError(f"{path} has more than {MAX_JSON} bytes")
        found = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} cannot be read: it holds {type(found).__name__}, not an object")
    return found


def check_ranges(spec: WorldSpec) -> None:
    """Raise CheckpointError, which names the setting, where a description says what no world can be."""
    for name, (least, most) in RANGES.items():
        holder: Any = spec.action if name.startswith("action.") else spec
        for value in _numbers(getattr(holder, name.removeprefix("action."))):
            if not least <= value <= most:
                raise CheckpointError(f"spec.{name} has {value:g}; allowed is {least:g} to {most:g}")
    action = spec.action
    for name in ("high", "names", "scale", "offset", "rest"):
        found = len(getattr(action, name))
        if found != action.dim and (name in ("high", "names") or found):
            raise CheckpointError(f"spec.action.{name} has {found} items; spec.action.low has {action.dim}")
    if not 1 <= action.dim <= MAX_ACTION:
        raise CheckpointError(f"spec.action.low has {action.dim} items; allowed is 1 to {MAX_ACTION}")
    if action.slots and not 0 <= action.slots[0] <= action.slots[1] - action.dim * (1 + 2 * action.fourier_octaves):
        raise CheckpointError(f"spec.action.slots is {list(action.slots)}; {action.dim} numbers do not fit there")
    for low, high in zip(action.low, action.high, strict=True):
        if not low < high:
            raise CheckpointError(f"spec.action.low has {low:g} where spec.action.high has {high:g}; it must be less")
    if unknown := sorted({*action.absolute} - {*action.names}):
        raise CheckpointError(f"spec.action.absolute has {unknown[0]!r}; spec.action.names are {list(action.names)}")
    for name in ("name", "task", "default_solver"):
        if not 1 <= len(getattr(spec, name)) <= MAX_TEXT:
            raise CheckpointError(f"spec.{name} has {len(getattr(spec, name))} letters; allowed is 1 to {MAX_TEXT}")


def _numbers(value: Any) -> Iterator[float]:
    """Every number in a value, whatever tuples it lies in."""
    if isinstance(value, tuple):
        for item in value:
            yield from _numbers(item)
    elif not isinstance(value, str | None):
        yield value


def check_sizes(folder: Path, make: Callable[[], torch.nn.Module]) -> None:
    """Raise CheckpointError where the `config.json` of a part asks for much more than its safetensors files hold.

    make: the module that the config asks for, which is made without memory for its weights.
    """
    tensors, held = _headers(folder)
    for key, value in read_json(folder / "config.json").items():
        several = isinstance(value, list | dict)
        asked = len(value) if several else value
        if isinstance(asked, int) and (several or key.startswith("num_") or key == "depth") and (
                asked > max(MAX_ITEMS if several else MAX_COUNT, tensors)):
            told = f"has {asked} items" if several else f"is {str(asked)[:20]}"
            raise CheckpointError(f"{folder / 'config.json'}: {key} {told}; the files hold {tensors} tensors")
    try:
        with torch.device("meta"):
            wanted = sum(weight.numel() for weight in make().state_dict().values())
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} describes no module: {_first_line(error)}") from error
    if wanted > 2 * held + 2**20:
        raise CheckpointError(f"{folder / 'config.json'} asks for {wanted} weights; the files hold {held}")


def _headers(folder: Path) -> tuple[int, int]:
    """How many tensors, and how many numbers in all, the safetensors files of a folder hold."""
    sizes: list[int] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                sizes += [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} does not load: {_first_line(error)}") from error
    return len(sizes), sum(sizes)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
