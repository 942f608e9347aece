"""Tiny worlds of random weights for any task: its frames, its rate and its actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from wcsim.backbones.cosmos2.tiny import tiny_parts
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.envs.tasks import Task
from wcsim.types import WorldSpec
from wcsim.world.checkpoints import save_world
from wcsim.world.codec import Codec


def parts_of(task: Task) -> tuple[WorldSpec, ActionCosmosTransformer, Codec]:
    """Spec, transformer and codec; sides of a frame are multiples of 16."""
    spec, _, codec = tiny_parts()
    height, width = (side // 8 for side in task.frame_size)
    spec = replace(spec, name=f"tiny-{task.name}", task=task.name, frame_size=task.frame_size,
                   latent_shape=(4, height, width), fps=task.fps, action=task.action)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = ActionCosmosTransformer(
            in_channels=5, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=3, mlp_ratio=2.0,
            text_embed_dim=8, adaln_lora_dim=4, max_size=(16, height, width), patch_size=(1, 2, 2),
            action_features=spec.action.num_features,
        )
    return spec, transformer.eval(), codec


def save_world_of(task: Task, folder: Path) -> str:
    """Write it; where it is."""
    save_world(folder, *parts_of(task))
    return str(folder)
