"""A world of the real classes with random weights, small enough to build in milliseconds.

It imagines nonsense, at the speed and with the contracts of a real one: for tests, dry runs and examples.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan

from wcsim.backbones.cosmos2.releases import BRIDGE
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.types import ActionSpec, WorldSpec
from wcsim.world.body_dynamics import BodyDynamics, BodyDynamicsConfig
from wcsim.world.checkpoints import actions_read
from wcsim.world.codec import ClipCodec, Codec
from wcsim.world.world import World

PLACE_ACTION = ActionSpec((0.0, 0.0), (512.0, 512.0), ("target_x", "target_y"), "simulator px", 1)
"""A place on a table to go to."""


def tiny_parts(
    seed: int = 0, *, task: str = "tiny", layers: int = 3, control_channels: int = 0
) -> tuple[WorldSpec, ActionCosmosTransformer, Codec]:
    """Spec, transformer (2 heads of 16) and codec (96x96 to 4x12x12) with weights drawn from `seed`.

    task: in whose name the spec is; it has frames and actions of its own, whatever the task.
    """
    spec = WorldSpec(
        name="tiny", task=task, frame_size=(96, 96), latent_shape=(4, 12, 12), fps=10.0, action=PLACE_ACTION,
        max_context=4, max_chunk=4, flow_shift=3.0, context_sigma=1e-4, default_steps=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = ActionCosmosTransformer(
            in_channels=5, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=layers,
            mlp_ratio=2.0, text_embed_dim=8, adaln_lora_dim=4, max_size=(16, 12, 12), patch_size=(1, 3, 3),
            action_features=spec.action.num_features, control_channels=control_channels,
        )
        codec = Codec.new({
            "base_dim": 4, "dim_mult": [1, 1, 1], "z_dim": 4, "num_res_blocks": 1,
            "temperal_downsample": [False, False], "is_residual": True, "in_channels": 12, "out_channels": 12,
            "patch_size": 2, "scale_factor_temporal": 1, "scale_factor_spatial": 8,
        })
    return spec, transformer.eval(), codec.eval()


def tiny_world(seed: int = 0, *, task: str = "tiny", layers: int = 3) -> World:
    """The same as a world."""
    return World(*tiny_parts(seed, task=task, layers=layers))


def tiny_state_model(seed: int = 0) -> BodyDynamics:
    """A state model of two bodies, `agent` and `block`, for `tiny_parts(control_channels=4)`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BodyDynamics(BodyDynamicsConfig(
            (False, True), (4, 12, 12), 2, ("agent", "block"), (512.0, 512.0), action_is_place=True, width=64)).eval()


def tiny_clip_world(seed: int = 0, **spec: Any) -> World:
    """A world of clips like those of the robot models: 12 Bridge actions to 3 latents behind 1.  spec: what differs."""
    whole = WorldSpec(**{
        "name": "tiny-clips", "task": "tiny", "frame_size": (32, 32), "latent_shape": (16, 4, 4), "fps": 4.0,
        "action": BRIDGE, "max_context": 1, "max_chunk": 12, "flow_shift": 5.0, "context_sigma": -1.0,
        "default_steps": 4, "frames_per_latent": 4, "carry": "pixels", **spec,
    })
    transformer, codec = tiny_cosmos(seed, action_features=actions_read(whole) * whole.action.num_features)
    return World(whole, transformer, codec)


def tiny_cosmos(seed: int = 0, *, action_features: int = 0) -> tuple[ActionCosmosTransformer, ClipCodec]:
    """Transformer and clip codec in the forms of Cosmos-Predict2.5: a text projection, 16 latent channels, time
    compressed by 4 and space by 8.  Frames of 32x32 and up; text features `[1 or N, S, 32]`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = ActionCosmosTransformer(
            in_channels=17, out_channels=16, num_attention_heads=2, attention_head_dim=16, num_layers=3, mlp_ratio=2.0,
            text_embed_dim=24, adaln_lora_dim=4, max_size=(8, 32, 32), patch_size=(1, 2, 2), rope_scale=(1.0, 3.0, 3.0),
            use_crossattn_projection=True, crossattn_proj_in_channels=32, encoder_hidden_states_channels=24,
            action_features=action_features,
        )
        vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return transformer.eval(), ClipCodec(vae.eval())
