"""A tiny world of random weights for the second task: other frames, another dimension of action."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from wcsim.backbones.cosmos2.tiny import tiny_parts
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.envs.pendulum import Pendulum
from wcsim.world.checkpoints import save_world


def save_pendulum_world(folder: Path) -> str:
    """Write it; where it is."""
    spec, _, codec = tiny_parts()
    spec = replace(spec, name="tiny-pendulum", task="pendulum", frame_size=Pendulum.frame_size,
                   latent_shape=(4, 8, 8), fps=Pendulum.fps, action=Pendulum.action)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = ActionCosmosTransformer(
            in_channels=5, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=3, mlp_ratio=2.0,
            text_embed_dim=8, adaln_lora_dim=4, max_size=(16, 8, 8), patch_size=(1, 2, 2),
            action_features=spec.action.num_features,
        )
    save_world(folder, spec, transformer.eval(), codec)
    return str(folder)
