"""A world of the real classes with random weights, small enough to build in milliseconds.

It imagines nonsense, at the speed and with the contracts of a real one: for tests, dry runs and examples.
"""

from __future__ import annotations

import torch

from wcsim.types import ActionSpec, WorldSpec
from wcsim.world.codec import Codec
from wcsim.world.transformer import ActionCosmosTransformer
from wcsim.world.world import World

PUSHT_ACTION = ActionSpec((0.0, 0.0), (512.0, 512.0), ("target_x", "target_y"), "simulator px", 1)


def tiny_parts(seed: int = 0, *, layers: int = 3) -> tuple[WorldSpec, ActionCosmosTransformer, Codec]:
    """Spec, transformer (2 heads of 16) and codec (96x96 to 4x12x12) with weights drawn from `seed`."""
    spec = WorldSpec(
        name="tiny", task="pusht", frame_size=(96, 96), latent_shape=(4, 12, 12), fps=10.0, action=PUSHT_ACTION,
        max_context=4, max_chunk=4, flow_shift=3.0, context_sigma=1e-4, default_steps=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = ActionCosmosTransformer(
            in_channels=5, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=layers,
            mlp_ratio=2.0, text_embed_dim=8, adaln_lora_dim=4, max_size=(16, 12, 12), patch_size=(1, 3, 3),
            action_features=spec.action.num_features,
        )
        codec = Codec.new({
            "base_dim": 4, "dim_mult": [1, 1, 1], "z_dim": 4, "num_res_blocks": 1,
            "temperal_downsample": [False, False], "is_residual": True, "in_channels": 12, "out_channels": 12,
            "patch_size": 2, "scale_factor_temporal": 1, "scale_factor_spatial": 8,
        })
    return spec, transformer.eval(), codec.eval()


def tiny_world(seed: int = 0, *, layers: int = 3) -> World:
    """The same as a world."""
    return World(*tiny_parts(seed, layers=layers))
