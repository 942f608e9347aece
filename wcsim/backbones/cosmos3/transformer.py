"""The half of Cosmos 3 that generates: diffusers' `Cosmos3OmniTransformer` without its text tower, opened for caches.

The text tower is causal and reads nothing but the prompt, so its keys and values are constants of a world and come in
as the text.  What is left are the generator's layers, under diffusers' names, and the heads of one robot's domain.
Frames are noisy but for the given ones; a noise level is added to the tokens of noisy frames at the input and nowhere
else.  Actions are tokens behind the frames: clean, and yet they change from layer to layer.  Easy to get wrong: the
network is told whole thousandths of a noise level (`WorldSpec.timesteps`), and its norms have no modulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from wcsim.backbones.backbone import Geometry, Read, Recipe
from wcsim.backbones.cosmos3.attention import Text, attend, read_text
from wcsim.backbones.cosmos3.conditioning import Conditioning, Constants
from wcsim.backbones.cosmos3.cost import geometry_of
from wcsim.backbones.cosmos3.layers import GeneratorLayer, rms_norm
from wcsim.backbones.cosmos3.positions import Clock

TIMESTEPS = 1000
WAVES = 256
"""Channels of the sinusoid that a noise level is read from."""


class Cosmos3Generator(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """Predicts the rectified-flow velocity of latent frames, given clean ones and an action token per frame.

    Arguments are those of `Cosmos3OmniTransformer` that the generator has a use for, and `fps`, of frames and actions,
    which positions depend on.  Its action heads are those of one domain.
    """

    config_name = "config.json"
    _keep_in_fp32_modules = ("time_embedder",)
    compiled_parts: Sequence[str] = ()
    adapted_layers = ("self_attn.add_q_proj", "self_attn.add_k_proj", "self_attn.add_v_proj", "self_attn.to_add_out",
                      "mlp_moe_gen.up_proj", "mlp_moe_gen.down_proj")
    action_layers = ("action_proj_in", "action_modality_embed")

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        head_dim: int = 128,
        hidden_size: int = 4096,
        intermediate_size: int = 12288,
        num_attention_heads: int = 32,
        num_key_value_heads: int = 8,
        num_hidden_layers: int = 36,
        hidden_act: str = "silu",
        attention_bias: bool = False,
        rms_norm_eps: float = 1e-6,
        rope_theta: float = 5_000_000.0,
        rope_axes_dim: tuple[int, int, int] = (24, 20, 20),
        base_fps: int = 24,
        enable_fps_modulation: bool = True,
        unified_3d_mrope_reset_spatial_ids: bool = True,
        unified_3d_mrope_temporal_modality_margin: int = 15_000,
        latent_channel: int = 48,
        latent_patch_size: int = 2,
        timestep_scale: float = 0.001,
        action_dim: int = 64,
        fps: float = 24.0,
    ) -> None:
        super().__init__()
        if not unified_3d_mrope_reset_spatial_ids:
            raise ValueError("unified_3d_mrope_reset_spatial_ids is False; places count from 0 in every frame here")
        if 2 * sum(rope_axes_dim) != head_dim:
            raise ValueError(f"rope_axes_dim is {list(rope_axes_dim)}; it must add up to {head_dim // 2}, half of "
                             "head_dim")
        patch = latent_patch_size**2 * latent_channel
        self.layers = nn.ModuleList([GeneratorLayer(self.config) for _ in range(num_hidden_layers)])
        self.norm_moe_gen = rms_norm(hidden_act, hidden_size, rms_norm_eps)
        self.proj_in, self.proj_out = nn.Linear(patch, hidden_size), nn.Linear(hidden_size, patch)
        self.time_proj = Timesteps(num_channels=WAVES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(in_channels=WAVES, time_embed_dim=hidden_size)
        self.action_proj_in = nn.Linear(action_dim, hidden_size)
        self.action_proj_out = nn.Linear(hidden_size, action_dim)
        self.action_modality_embed = nn.Parameter(torch.zeros(hidden_size))

    @property
    def geometry(self) -> Geometry:
        """See `wcsim.backbones.backbone`."""
        return geometry_of(self.config)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def text_width(self) -> int:
        """Numbers per text token: keys and values of every layer."""
        config = self.config
        return int(2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim)

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the layers compute in."""
        dtype: torch.dtype = self.proj_in.weight.dtype
        return dtype

    def set_precision(self, dtype: torch.dtype, recipe: Recipe = "wcsim") -> None:
        """Compute in `dtype`, but what a noise level is made of in float32, as the authors do."""
        del recipe
        for name, weight in self.named_parameters():
            if not name.startswith("time_embedder."):
                weight.data = weight.data.to(dtype)

    def read_text(self, text: Tensor | Text) -> Text:
        """Keys and values of features `[G, S, E]` (`wcsim.backbones.cosmos3.text_tower`)."""
        if isinstance(text, Text):
            return text
        return read_text(text, self.depth, self.config.num_key_value_heads, self.compute_dtype)

    def prepare(
        self, latents_NCThw: Tensor, actions_NAF: Tensor | None, known_NA: Tensor | None, text: Tensor | Text,
        control_NKThw: Tensor | None = None,
    ) -> Constants:
        """The constants of a denoise loop.  actions: a token each, narrower than the heads where those of the domain
        are; all of them are `known`."""
        del known_NA, control_NKThw
        actions = latents_NCThw.new_zeros(len(latents_NCThw), 0, 1) if actions_NAF is None else actions_NAF
        padded = F.pad(actions, (0, self.config.action_dim - actions.shape[2])).to(self.action_proj_in.weight.dtype)
        tokens = self.action_proj_in(padded) + self.action_modality_embed
        return Constants(self.read_text(text), tokens.to(self.compute_dtype), self._grid(latents_NCThw))

    def modulations(
        self, sigma_SNT: Tensor, constants: Constants, schedule: Sequence[int] | None = None
    ) -> Sequence[Tensor]:
        """Of every denoise step what is added to the tokens of noisy frames, `[1 or N, T, D]`."""
        del constants, schedule
        alike = sigma_SNT.stride(1) == 0
        return list(self.embed_levels(sigma_SNT[:, :1] if alike else sigma_SNT).to(self.compute_dtype))

    def embed_levels(self, sigma: Tensor) -> Tensor:
        """`[..., D]` of noise levels `[...]`."""
        told = sigma.float().flatten() * TIMESTEPS * self.config.timestep_scale
        waves = self.time_proj(told).to(self.time_embedder.linear_1.weight.dtype)
        embedded: Tensor = self.time_embedder(waves).view(*sigma.shape, -1)
        return embedded

    def embed_step(
        self, latents_NCThw: Tensor, modulation: Tensor, clean_T: Tensor, constants: Constants
    ) -> tuple[Tensor, Conditioning]:
        """Tokens `[N, T h w + A, D]` and what every layer reads beside them."""
        frames = self.proj_in(self.patchify(latents_NCThw).to(self.compute_dtype))  # [N, T, P, D]
        noisy = torch.where(clean_T[:, None, None] > 0, 0.0, modulation.unsqueeze(2)).to(frames.dtype)
        tokens = torch.cat([(frames + noisy).flatten(1, 2), constants.actions], dim=1)
        given = Conditioning(Clock.of(self.config), constants.text, constants.grid, constants.tail, len(tokens),
                             tokens.device, tokens.dtype)
        return tokens, given

    def patchify(self, latents_NCThw: Tensor) -> Tensor:
        """`[N, T, P, p p C]`; what a patch has beyond the edge is zero."""
        _, rows, columns = self._grid(latents_NCThw)
        side = self.config.latent_patch_size
        height, width = latents_NCThw.shape[-2:]
        padded = F.pad(latents_NCThw, (0, columns * side - width, 0, rows * side - height))
        places = padded.unflatten(4, (columns, side)).unflatten(3, (rows, side))
        patches: Tensor = places.permute(0, 2, 3, 5, 4, 6, 1).flatten(4).flatten(2, 3)
        return patches

    def run_blocks(
        self, tokens_BLD: Tensor, first: int, last: int, given: Conditioning, past: Sequence[Read] | None = None,
        notes: dict[int, Read] | None = None,
    ) -> Tensor:
        """Layers `first` up to but not including `last`.  past, notes: see `wcsim.backbones.backbone.Backbone`."""
        x, ropes = tokens_BLD, given.ropes()
        for index in range(first, last):
            layer: Any = self.layers[index]
            x = x + attend(layer.self_attn, layer.input_layernorm_moe_gen(x), given.text, ropes, layer=index,
                           past=None if past is None else past[index - first], notes=notes)
            x = x + layer.mlp_moe_gen(layer.post_attention_layernorm_moe_gen(x))
        return x

    def modulated(self, tokens_NLD: Tensor, given: Conditioning) -> Tensor:
        """What the first layer's attention reads; no noise level changes it, since the tokens have theirs."""
        del given
        first: Any = self.layers[0]
        normed: Tensor = first.input_layernorm_moe_gen(tokens_NLD)
        return normed

    def head(self, tokens_NLD: Tensor, given: Conditioning, latents_NCThw: Tensor, sigma_1T: Tensor) -> Tensor:
        """The velocity `[N, C, T, h, w]` that the tokens of the frames say."""
        del sigma_1T
        frames, rows, columns = given.frames
        side, (height, width) = self.config.latent_patch_size, latents_NCThw.shape[-2:]
        said = self.proj_out(self.norm_moe_gen(tokens_NLD[:, : frames * rows * columns]))
        places = said.unflatten(2, (side, side, -1)).unflatten(1, (frames, rows, columns))
        whole: Tensor = places.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)
        return whole[..., :height, :width]

    def block(self, index: int) -> nn.Module:
        """A layer's module."""
        found: nn.Module = self.layers[index]
        return found

    def _grid(self, latents_NCThw: Tensor) -> tuple[int, int, int]:
        """Frames, rows and columns of tokens."""
        frames, height, width = latents_NCThw.shape[2:]
        side = self.config.latent_patch_size
        return frames, -(-height // side), -(-width // side)

