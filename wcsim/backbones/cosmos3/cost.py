"""Sizes of Cosmos 3 and what a pass costs, from its configuration alone.

One multiply-accumulate counts as two operations.  Easy to get wrong: text is read once per world by its own half of the
weights, and stands apart; and its keys are looked up by every token of the other half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wcsim.backbones.backbone import Geometry

GATED = {"silu": 3, "relu2": 2}
"""Matrices of a feed-forward net by its activation."""


def geometry_of(config: Mapping[str, Any]) -> Geometry:
    """The sizes that a configuration asks for."""
    side = config["latent_patch_size"]
    return Geometry(
        depth=config["num_hidden_layers"], width=config["hidden_size"], patch=(side, side),
        latent_channels=config["latent_channel"], action_features=config["action_dim"], control_channels=0,
        feed_forward=GATED[config["hidden_act"]] / 2 * config["intermediate_size"] / config["hidden_size"],
        action_tokens=True, pads=True,
    )


@dataclass(frozen=True, slots=True)
class PassCost:
    """layer: operations of one generator layer.  ends: of projecting in and out.  text: of one text, once."""

    layer: float
    ends: float
    text: float

    def total(self, layers: int, passes: int) -> float:
        """Operations of a rollout that runs so many layers in so many passes."""
        return self.text + passes * self.ends + layers * self.layer


def pass_cost(config: Mapping[str, Any], latent: tuple[int, int, int], actions: int, text_tokens: int) -> PassCost:
    """The cost of one lane.  config: the transformer's.  latent: frames, height, width in latent pixels."""
    side, width = config["latent_patch_size"], config["hidden_size"]
    frames, rows, columns = latent[0], -(-latent[1] // side), -(-latent[2] // side)
    places = frames * rows * columns
    tokens = places + actions
    heads = config["num_attention_heads"] * config["head_dim"]
    attending = (2 * heads + 2 * config["num_key_value_heads"] * config["head_dim"]) * width
    linear = attending + GATED[config["hidden_act"]] * width * config["intermediate_size"]
    layer = tokens * (linear + 2 * heads * (tokens + text_tokens))
    ends = places * 2 * side**2 * config["latent_channel"] * width + actions * config["action_dim"] * width
    text = config["num_hidden_layers"] * text_tokens * (linear + heads * (text_tokens + 1))
    return PassCost(layer=2.0 * layer, ends=2.0 * ends, text=2.0 * text)
