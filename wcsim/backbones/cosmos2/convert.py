"""NVIDIA's own checkpoint files to the keys and the configuration of `ActionCosmosTransformer`.

All that the configuration says is read off the tensors, so a checkpoint of another size needs no other code; what
cannot be placed is refused by its name.  Easy to get wrong: the two action forms have the same keys and differ only in
the width of fc1, which holds the actions of one latent frame or those of a whole chunk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UniPCMultistepScheduler
from safetensors import SafetensorError
from torch import Tensor

from wcsim.backbones.cosmos2.reading import own_names
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.errors import CheckpointError
from wcsim.world.checkpoints import load_strictly
from wcsim.world.codec import ClipCodec
from wcsim.world.sampler import make_scheduler

DROPPED = re.compile(r"(^|\.)(accum_\w+|_extra_state)$|^pos_embedder\.")
"""Counters of the training loop, and rotary tables, which are computed."""

RENAMED = (
    (r"^x_embedder\.proj\.1\.", "patch_embed.proj."),
    (r"^t_embedder\.1\.", "time_embed.t_embedder."),
    (r"^t_embedding_norm\.", "time_embed.norm."),
    (r"^blocks\.", "transformer_blocks."),
    # The modulations come first: their names hold those of the layers they modulate.
    (r"\.adaln_modulation_self_attn\.([12])\.", r".norm1.linear_\1."),
    (r"\.adaln_modulation_cross_attn\.([12])\.", r".norm2.linear_\1."),
    (r"\.adaln_modulation_mlp\.([12])\.", r".norm3.linear_\1."),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"\.([qkv])_proj\.", r".to_\1."),
    (r"\.output_proj\.", ".to_out.0."),
    (r"\.([qk])_norm\.", r".norm_\1."),
    (r"\.mlp\.layer1\.", ".ff.net.0.proj."),
    (r"\.mlp\.layer2\.", ".ff.net.2."),
    (r"^final_layer\.adaln_modulation\.([12])\.", r"norm_out.linear_\1."),
    (r"^final_layer\.linear\.", "proj_out."),
)
"""Official names to diffusers', applied in this order."""

OFFICIAL_ROPE_SCALE, OFFICIAL_QK_EPS = (1.0, 3.0, 3.0), 1e-6


def rename(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """An official state dict under the names of `ActionCosmosTransformer`."""
    renamed: dict[str, Tensor] = {}
    for official, value in own_names(state).items():
        name = official
        if DROPPED.search(name):
            continue
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{official} is a {type(value).__name__}, not a tensor")
        if name in renamed:
            raise CheckpointError(f"{official} is there twice: something else is called {name} as well")
        renamed[name] = value
    return renamed


def config_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration that renamed tensors ask for.  CheckpointError names the first that is missing or odd."""
    patch, out = shape_of(state, "patch_embed.proj.weight"), shape_of(state, "proj_out.weight")
    block = "transformer_blocks.0."
    head = shape_of(state, block + "attn1.norm_q.weight")[0]
    width, keys = shape_of(state, block + "attn2.to_k.weight")
    layers = {int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks.")}
    if layers != set(range(len(layers))):
        missing = min(set(range(max(layers))) - layers)
        raise CheckpointError(f"blocks.{missing} is missing; the last one is blocks.{max(layers)}")
    for name, size, unit in (("patch_embed.proj.weight", patch[1], 4), ("proj_out.weight", out[0], 4),
                             (block + "attn2.to_k.weight", width, head)):
        if size % unit:
            raise CheckpointError(f"{name} has {size} features; expected a multiple of {unit}")
    config: dict[str, Any] = {
        "in_channels": patch[1] // 4 - 1, "out_channels": out[0] // 4, "num_attention_heads": width // head,
        "attention_head_dim": head, "num_layers": len(layers), "text_embed_dim": keys,
        "mlp_ratio": shape_of(state, block + "ff.net.0.proj.weight")[0] / width,
        "adaln_lora_dim": shape_of(state, block + "norm1.linear_1.weight")[0], "rope_scale": OFFICIAL_ROPE_SCALE,
        "qk_eps": OFFICIAL_QK_EPS, "action_features": 0, "use_crossattn_projection": "crossattn_proj.0.weight" in state,
    }
    if config["use_crossattn_projection"]:
        to, of = shape_of(state, "crossattn_proj.0.weight")
        config |= {"crossattn_proj_in_channels": of, "encoder_hidden_states_channels": to}
    if any(name.startswith("action_embedder_") for name in state):
        config["action_features"] = shape_of(state, "action_embedder_B_D.fc1.weight")[1]
    return config


def shape_of(state: Mapping[str, Tensor], name: str) -> torch.Size:
    """The shape of a tensor that must be there."""
    if name not in state:
        raise CheckpointError(f"{name} is missing from the checkpoint, under its official name too")
    return state[name].shape


def action_form(features: int, action_dim: int, per_latent: int, chunk: int) -> Literal["frames", "chunk"]:
    """Which actions the embedders read, by the width of fc1: `per_latent` of them, or the whole `chunk`."""
    forms: dict[int, Literal["frames", "chunk"]] = {action_dim * chunk: "chunk", action_dim * per_latent: "frames"}
    if features not in forms:
        raise CheckpointError(
            f"action_embedder_B_D.fc1.weight reads {features} numbers; actions of {action_dim} give "
            f"{action_dim * per_latent} per latent frame or {action_dim * chunk} per chunk"
        )
    return forms[features]


def build(state: Mapping[str, Tensor]) -> ActionCosmosTransformer:
    """The transformer around renamed tensors, in their dtype; every key and shape must fit."""
    config = config_of(state)
    with torch.device("meta"):
        transformer = ActionCosmosTransformer(**config)
    wanted = {name: value.shape for name, value in transformer.state_dict().items()}
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state:
            raise CheckpointError(f"{name} is missing from the checkpoint")
        if name not in wanted:
            raise CheckpointError(f"{name} is in the checkpoint, and this model has no such weight")
        if state[name].shape != wanted[name]:
            raise CheckpointError(f"{name} has shape {list(state[name].shape)}; expected {list(wanted[name])}")
    transformer.load_state_dict(dict(state), strict=True, assign=True)
    built: ActionCosmosTransformer = transformer.eval()
    return built


def load_base(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[ActionCosmosTransformer, ClipCodec]:
    """A base model in diffusers' layout: its subfolders `transformer`, `vae` and `scheduler`, and no others.

    CheckpointError where weights do not fit their configuration, or the scheduler is not the one that `unipc-karras`
    stands for.
    """
    try:
        transformer = load_strictly(ActionCosmosTransformer, folder / "transformer", dtype, action_features=0)
        codec = ClipCodec(load_strictly(ClipCodec.autoencoder, folder / "vae"))
        found = UniPCMultistepScheduler.load_config(folder / "scheduler", local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} does not load: {error}") from error
    for name, value in make_scheduler("unipc-karras", 2, 1.0).config.items():
        if not name.startswith("_") and name != "flow_shift" and found.get(name, value) != value:
            raise CheckpointError(f"{folder / 'scheduler'}: {name} is {found[name]!r}; unipc-karras has {value!r}")
    return transformer.eval(), codec.eval()


def read_embedding(path: Path, width: int | None = None) -> Tensor:
    """A precomputed prompt embedding `[1, S, E]` from a `.pt` file, `width` features wide (None: however wide)."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as in `read_checkpoint`
        raise CheckpointError(f"{path} cannot be read as a plain tensor: {error}") from error
    fits = isinstance(loaded, Tensor) and loaded.ndim == 3 and loaded.shape[0] == 1
    if not fits or width not in (None, loaded.shape[2]):
        found = list(loaded.shape) if isinstance(loaded, Tensor) else type(loaded).__name__
        raise CheckpointError(f"{path} holds {found}; expected a tensor [1, S, {width or 'E'}]")
    embedding: Tensor = loaded
    return embedding
