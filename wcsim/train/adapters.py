"""Which weights of a backbone learn: all of them, or low-rank adapters beside frozen ones.

The adapters are those of the package peft, in the linear layers that a family names; the layers that read actions learn
whole, since another robot's actions are what a fine-tuning is for.  Easy to get wrong: a world on disk has no adapters,
so they are added to the weights when it is written, and never to those in memory.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from wcsim.backbones.backbone import Backbone
from wcsim.errors import ConfigError
from wcsim.train.finetune_recipe import FineTune
from wcsim.types import WorldSpec
from wcsim.world.checkpoints import actions_read

ADAPTER = "default"


def let_learn(backbone: Backbone, recipe: FineTune) -> None:
    """Prepare a backbone in place: adapters where the recipe wants them, and what learns requires gradients.  Random
    numbers come from torch's global generator."""
    backbone.requires_grad_(recipe.method == "full")
    if recipe.method == "full":
        return
    try:
        peft: Any = import_module("peft")
    except ImportError as error:
        raise ConfigError("method lora needs the package peft: pip install 'wcsim[lora]'; or say method: full"
                          ) from error
    module: Any = backbone
    config = peft.LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=adapted_layers(backbone))
    peft.inject_adapter_in_model(config, module, ADAPTER)
    for name, weight in module.named_parameters():
        weight.requires_grad_(".lora_" in name or name.split(".")[0] in backbone.action_layers)
        if weight.requires_grad:
            weight.data = weight.data.float()


def adapted_layers(backbone: Backbone) -> list[str]:
    """Full names of the linear layers that adapters go to."""
    module: Any = backbone
    blocks = {id(backbone.block(index)) for index in range(backbone.depth)}
    return [f"{name}.{layer}" for name, part in module.named_modules() if id(part) in blocks
            for layer in backbone.adapted_layers]


def for_actions(backbone: Backbone, spec: WorldSpec) -> Backbone:
    """A backbone that reads the actions of `spec`.  Actions that are tokens fit as they are; else the layers that read
    them are new, and end in zeros, so that at first no action changes anything.  ConfigError where there is no room."""
    if spec.reads == "tokens":
        if spec.action.num_features > backbone.geometry.action_features:
            raise ConfigError(f"{type(backbone).__name__} takes actions of at most {backbone.geometry.action_features} "
                              f"numbers; the recordings have {spec.action.num_features}")
        return backbone
    family: Any = type(backbone)
    module: Any = backbone
    made = family.from_config({**module.config, "action_features": actions_read(spec) * spec.action.num_features})
    made.load_state_dict({name: weight for name, weight in module.state_dict().items()
                          if name.split(".")[0] not in backbone.action_layers}, strict=False)
    for name in backbone.action_layers:
        last = [part for part in made.get_submodule(name).modules() if isinstance(part, nn.Linear)][-1]
        for weight in last.parameters():
            nn.init.zeros_(weight)
    found: Backbone = made
    return found


def merged(backbone: Backbone, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights under their names on disk, with every adapter's product added to those it stands beside."""
    module: Any = backbone
    state = {name.replace(".base_layer.", "."): weight for name, weight in module.state_dict().items()
             if ".lora_" not in name}
    for name, layer in module.named_modules():
        if hasattr(layer, "get_delta_weight"):
            weight = f"{name}.weight"
            state[weight] = state[weight].float() + layer.get_delta_weight(ADAPTER).float()
    return {name: weight.detach().to("cpu", dtype) if weight.is_floating_point() else weight.cpu()
            for name, weight in state.items()}


def plain(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """A backbone on the CPU of the merged weights, without adapters; that in memory stays as it is."""
    family: Any = type(backbone)
    module: Any = backbone
    with torch.device("meta"):
        found = family.from_config(module.config)
    found.load_state_dict(merged(backbone, dtype), assign=True)
    made: Backbone = found.eval()
    return made


def learning(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients."""
    return [weight for weight in module.parameters() if weight.requires_grad]
