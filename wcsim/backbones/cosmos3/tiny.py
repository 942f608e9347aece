"""A tiny Cosmos 3 of diffusers' real classes with random weights, whole or as a world of its generator.

It imagines nonsense, at the speed and with the contracts of a real one.  Easy to get wrong: fresh norms are 1 and the
action embedding 0, so that mistakes with them would not show; they are shaken.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan, Cosmos3OmniTransformer
from torch import Tensor

from wcsim.backbones.cosmos3.convert import generator_of, prompt_features
from wcsim.backbones.cosmos3.transformer import Cosmos3Generator
from wcsim.types import ActionSpec, WorldSpec
from wcsim.world.codec import ClipCodec
from wcsim.world.guidance import CONDITIONAL, UNCONDITIONAL
from wcsim.world.world import World

VOCABULARY, DOMAIN = 64, 4
PROMPTS = {CONDITIONAL: (5, 17, 3, 60, 22, 9, 41), UNCONDITIONAL: (8, 30, 9, 41)}
"""Token numbers of unequal length, which end alike, as prompts do."""

NANO_LIKE: dict[str, Any] = {
    "head_dim": 16, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "latent_channel": 4, "latent_patch_size": 2, "patch_latent_dim": 16, "vocab_size": VOCABULARY, "action_dim": 8,
    "action_gen": True, "num_embodiment_domains": 32, "rope_axes_dim": [4, 2, 2],
}
EDGE_LIKE: dict[str, Any] = {
    **NANO_LIKE, "hidden_act": "relu2", "qk_norm_for_text": False, "use_und_k_norm_for_gen": True,
    "rms_norm_eps": 1e-5, "rope_theta": 1e8,
}
FORMS = {"nano": NANO_LIKE, "edge": EDGE_LIKE}

PLANE = ActionSpec((0.0, 0.0), (512.0, 512.0), ("target_x", "target_y"), "simulator px", absolute=("target_x",
                                                                                                  "target_y"))
"""A place on a table to go to."""


def tiny_omni(seed: int = 0, *, form: str = "nano", layers: int = 3) -> Any:
    """The whole `Cosmos3OmniTransformer`, in the form of Nano or of Edge."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        omni = Cosmos3OmniTransformer(num_hidden_layers=layers, **FORMS[form]).eval().requires_grad_(False)
        for name, weight in omni.named_parameters():
            if "norm" in name or "embed" in name.split(".")[0]:
                weight.add_(0.3 * torch.randn_like(weight))
    return omni


def tiny_vae(seed: int = 0) -> AutoencoderKLWan:
    """An autoencoder in the form of Wan 2.2's: space by 16, time by 4, 4 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKLWan(
            base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, is_residual=True,
            patch_size=2, temperal_downsample=[False, True, True], in_channels=12, out_channels=12,
            scale_factor_spatial=16, scale_factor_temporal=4, latents_mean=[0.1, -0.2, 0.0, 0.3],
            latents_std=[0.9, 1.1, 1.0, 1.3],
        ).eval().requires_grad_(False)


def tiny_parts(
    omni: Any, *, domain: int = DOMAIN, fps: float = 10.0
) -> tuple[Cosmos3Generator, dict[str, Tensor]]:
    """The generator of one domain of a whole transformer, and the prompts as it reads them."""
    tensors, config = omni.state_dict(), {**omni.config}
    texts = {name: prompt_features(config, tensors, ids) for name, ids in PROMPTS.items()}
    return generator_of(config, tensors, domain=domain, fps=fps), texts


def tiny_generator(seed: int = 0, *, form: str = "nano", layers: int = 3) -> Cosmos3Generator:
    """The generator alone."""
    return tiny_parts(tiny_omni(seed, form=form, layers=layers))[0]


def tiny_cosmos3_world(seed: int = 0, *, form: str = "nano", layers: int = 3, **spec: Any) -> World:
    """A world of clips: 8 actions to 2 latents behind 1.  spec: what differs."""
    whole = WorldSpec(**{
        "name": "tiny-cosmos3", "task": "tiny", "frame_size": (32, 64), "latent_shape": (4, 2, 4), "fps": 10.0,
        "action": PLANE, "max_context": 1, "max_chunk": 8, "flow_shift": 10.0, "context_sigma": 0.0,
        "default_steps": 4, "frames_per_latent": 4, "carry": "pixels", "reads": "tokens", "walk": False,
        "timesteps": "whole", **spec,
    })
    generator, texts = tiny_parts(tiny_omni(seed, form=form, layers=layers), fps=whole.fps)
    return World(whole, generator, ClipCodec(tiny_vae(seed), whole.canvas), texts)
