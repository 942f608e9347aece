"""Cosmos 3 in diffusers' layout to the parts of a world: the generator of one domain, and prompts as it reads them.

Tensors are read by name, one at a time, so the half that is not needed is never in memory.  Every tensor must be one
that the configuration asks for, with its shape; a loader that fills gaps with random numbers has been seen.  Easy to
get wrong: a domain's projections are rows of a table, and stand there transposed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import Cosmos3OmniTransformer
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wcsim.backbones.cosmos3.positions import Clock
from wcsim.backbones.cosmos3.text_tower import features_of
from wcsim.backbones.cosmos3.transformer import Cosmos3Generator
from wcsim.errors import CheckpointError
from wcsim.world.limits import read_json

HEADS = ("action_proj_in", "action_proj_out")
TAKEN = ("norm_moe_gen", "proj_in", "proj_out", "time_embedder", "action_modality_embed")
"""Parts of the generator outside its layers, but for the action heads."""
OF_LAYER = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q", "norm_added_k", "mlp_moe_gen",
            "input_layernorm_moe_gen", "post_attention_layernorm_moe_gen")


class Shards(Mapping[str, Tensor]):
    """The tensors of a folder's safetensors files, each read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    self._places |= dict.fromkeys(file.keys(), path)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from error
        if not self._places:
            raise CheckpointError(f"{folder} holds no safetensors files")

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._places[name], "pt") as file:
            found: Tensor = file.get_tensor(name)
            return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of diffusers' transformer in a folder; CheckpointError where another class wrote it."""
    config = read_json(folder / "config.json")
    if config.get("_class_name") != Cosmos3OmniTransformer.__name__:
        raise CheckpointError(f"{folder}: _class_name is {config.get('_class_name')!r}; expected "
                              f"{Cosmos3OmniTransformer.__name__}")
    return config


def check_tensors(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """CheckpointError, which names the first, where tensors are not those that the configuration asks for."""
    with torch.device("meta"):
        wanted = Cosmos3OmniTransformer.from_config(dict(config)).state_dict()
    for name in sorted(wanted.keys() | set(tensors)):
        if name not in tensors:
            raise CheckpointError(f"{name} is missing from the checkpoint")
        if name not in wanted:
            raise CheckpointError(f"{name} is in the checkpoint, and its configuration has no such weight")
    for name in (name for name in wanted if _taken(name)):
        if tensors[name].shape != wanted[name].shape:
            raise CheckpointError(f"{name} has shape {list(tensors[name].shape)}; expected {list(wanted[name].shape)}")


def generator_of(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, domain: int, fps: float
) -> Cosmos3Generator:
    """The generator with the action heads of a domain, in the dtype of its tensors.  config: of diffusers' class."""
    if not config.get("action_gen"):
        raise CheckpointError("the checkpoint has no action heads (action_gen); it cannot be stepped")
    if not 0 <= domain < config["num_embodiment_domains"]:
        raise CheckpointError(f"domain is {domain}; the checkpoint has 0 to {config['num_embodiment_domains'] - 1}")
    own = set(signature(Cosmos3Generator.__init__).parameters)
    with torch.device("meta"):
        generator = Cosmos3Generator(**{name: value for name, value in config.items() if name in own}, fps=fps)
    weights = {name: tensors[name] for name in tensors if _taken(name)}
    for head, (size_in, size_out) in zip(HEADS, ((config["action_dim"], config["hidden_size"]),
                                                 (config["hidden_size"], config["action_dim"])), strict=True):
        weights[f"{head}.weight"] = tensors[f"{head}.fc.weight"][domain].view(size_in, size_out).T.contiguous()
        weights[f"{head}.bias"] = tensors[f"{head}.bias.weight"][domain].clone()
    generator.load_state_dict(weights, strict=True, assign=True)
    generator.time_embedder.float()
    built: Cosmos3Generator = generator.eval()
    return built


def prompt_features(config: Mapping[str, Any], tensors: Mapping[str, Tensor], ids: Sequence[int]) -> Tensor:
    """A prompt, given as token numbers, as a world stores it: `[1, S, E]`."""
    clock = Clock.of({**config, "fps": 1.0})  # text has no time
    return features_of(tensors["embed_tokens.weight"][torch.tensor(ids)], _text_layers(config, tensors), clock)


def _text_layers(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[torch.nn.Module]:
    """The layers of the text tower, one at a time; their other half has no memory."""
    with torch.device("meta"):
        layers = Cosmos3OmniTransformer.from_config(dict(config)).layers
    for number, layer in enumerate(layers):
        names = [name for name in layer.state_dict() if not _of_generator(name)]
        layer.load_state_dict({name: tensors[f"layers.{number}.{name}"] for name in names}, strict=False, assign=True)
        yield layer.eval()
        layer.to("meta")


def _taken(name: str) -> bool:
    """Whether the generator has a weight of this name, its action heads aside."""
    return name.split(".")[0] in TAKEN or (name.startswith("layers.") and _of_generator(name))


def _of_generator(name: str) -> bool:
    """Whether a layer's weight belongs to the generator's half."""
    return bool(set(name.split(".")) & set(OF_LAYER))
