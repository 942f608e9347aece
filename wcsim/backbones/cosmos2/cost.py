"""Sizes of a transformer and what a pass costs, from its configuration alone, before anything runs.

One multiply-accumulate counts as two operations.  Easy to get wrong: text is projected, and made keys and values, once
per rollout, so it stands apart from the passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wcsim.backbones.backbone import Geometry
from wcsim.backbones.cosmos2.modulation import ROWS


def geometry_of(config: Mapping[str, Any]) -> Geometry:
    """The sizes that a configuration asks for; what it leaves out has none."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    _, patch_h, patch_w = config["patch_size"]
    three_norms = 2 * ROWS * 9 * config["num_layers"] * width * 4  # three vectors each; made, then put together
    return Geometry(
        depth=config["num_layers"], width=width, patch=(patch_h, patch_w), latent_channels=config["out_channels"],
        action_features=config.get("action_features", 0), control_channels=config.get("control_channels", 0),
        feed_forward=config["mlp_ratio"], step_bytes=three_norms,
    )


@dataclass(frozen=True, slots=True)
class PassCost:
    """block: operations of one block.  ends: those of embedding and unembedding.  text: those of one text, once."""

    block: float
    ends: float
    text: float

    def total(self, blocks: int, passes: int) -> float:
        """Operations of a rollout that runs so many blocks in so many passes."""
        return self.text + passes * self.ends + blocks * self.block


def pass_cost(config: Mapping[str, Any], latent: tuple[int, int, int], text_tokens: int) -> PassCost:
    """The cost of one lane.  config: the transformer's.  latent: frames, height, width in latent pixels."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    _, patch_h, patch_w = config["patch_size"]
    frames, lora, text_width = latent[0], config["adaln_lora_dim"], config["text_embed_dim"]
    tokens = frames * (latent[1] // patch_h) * (latent[2] // patch_w)
    linear = (4 + 2 + 2 * config["mlp_ratio"]) * width**2
    attention = 2 * width * (tokens + text_tokens)
    modulation = frames * 3 * (width * lora + lora * 3 * width)
    patch = patch_h * patch_w * width
    ends = tokens * patch * (config["in_channels"] + 1 + config["out_channels"]) + frames * 4 * width**2
    text = config["num_layers"] * 2 * text_tokens * text_width * width
    if config["use_crossattn_projection"]:
        text += text_tokens * config["crossattn_proj_in_channels"] * config["encoder_hidden_states_channels"]
    return PassCost(block=2.0 * (tokens * (linear + attention) + modulation), ends=2.0 * ends, text=2.0 * text)
