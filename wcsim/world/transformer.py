"""The Cosmos-Predict2.5 transformer with actions.

`ActionCosmosTransformer` is diffusers' `CosmosTransformer3DModel` plus the two action embedders of the official
robot/action-cond checkpoints (chunk-conditioned form: one vector per latent frame, added inside the time embedding).
The forward pass is open: `embed`, then blocks in any range, then `unembed`, so that a cache policy decides which blocks
run without anybody re-implementing the model.  Modulation is computed per latent frame and broadcast to its tokens; the
stock forward expands it to every token first, for the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import CosmosTransformer3DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class ActionEmbedder(nn.Module):
    """fc1, GELU (tanh form), fc2: the official action MLP."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, actions: Tensor) -> Tensor:
        """`[..., F]` to `[..., out]`."""
        out: Tensor = self.fc2(F.gelu(self.fc1(actions), approximate="tanh"))
        return out


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What every block reads at one denoise step.

    time: `[N, T, 1, D]` normalised time and action embedding.  shared: `[N, T, 1, 3D]` the adaLN vector that all blocks
    share.  rope: the rotary table, equal for all lanes.  text: `[N, S, E]` processed text.  grid: frames, rows and
    columns of tokens.
    """

    time: Tensor
    shared: Tensor
    rope: tuple[Tensor, Tensor]
    text: Tensor
    grid: tuple[int, int, int]

    def select(self, lanes: Tensor) -> Conditioning:
        """The conditioning of some lanes."""
        return replace(self, time=self.time[lanes], shared=self.shared[lanes], text=self.text[lanes])


class ActionCosmosTransformer(CosmosTransformer3DModel):  # type: ignore[misc]  # diffusers is untyped
    """Predicts the rectified-flow velocity of latent frames, given clean context frames and one action per frame.

    Arguments are those of `CosmosTransformer3DModel` (whose `in_channels` counts the condition-mask channel) plus
    `action_features`: numbers per latent frame that the action embedders read.
    """

    _keep_in_fp32_modules = None

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        in_channels: int = 17,
        out_channels: int = 16,
        num_attention_heads: int = 16,
        attention_head_dim: int = 128,
        num_layers: int = 28,
        mlp_ratio: float = 4.0,
        text_embed_dim: int = 1024,
        adaln_lora_dim: int = 256,
        max_size: tuple[int, int, int] = (128, 240, 240),
        patch_size: tuple[int, int, int] = (1, 2, 2),
        rope_scale: tuple[float, float, float] = (1.0, 3.0, 3.0),
        concat_padding_mask: bool = True,
        use_crossattn_projection: bool = False,
        crossattn_proj_in_channels: int = 1024,
        encoder_hidden_states_channels: int = 1024,
        extra_pos_embed_type: None = None,
        controlnet_block_every_n: None = None,
        img_context_dim_in: None = None,
        img_context_num_tokens: int = 256,
        img_context_dim_out: int = 2048,
        action_features: int = 28,
    ) -> None:
        # The names are spelt out because diffusers writes this signature into config.json.
        ours = ("self", "__class__", "action_features")
        stock = {name: value for name, value in locals().items() if name not in (*ours, "ours")}
        for name in ("extra_pos_embed_type", "controlnet_block_every_n", "img_context_dim_in"):
            if stock[name] is not None:
                raise ValueError(f"{name} is {stock[name]!r}; Predict2.5 has none, and the open forward leaves it out")
        super().__init__(**stock)
        width = num_attention_heads * attention_head_dim
        self.action_embedder_B_D = ActionEmbedder(action_features, 4 * width, width)
        self.action_embedder_B_3D = ActionEmbedder(action_features, 4 * width, 3 * width)

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(self.transformer_blocks)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return int(self.config.num_attention_heads * self.config.attention_head_dim)

    def position(self, latents_NCThw: Tensor) -> tuple[Tensor, Tensor]:
        """The rotary table for latents of this shape; constant over a rollout."""
        cos, sin = self.rope(latents_NCThw, fps=None)
        return cos, sin

    def time_and_action(self, sigma_NT: Tensor, actions_NTF: Tensor, known_NT: Tensor) -> tuple[Tensor, Tensor]:
        """The two modulation inputs `[N, T, 1, D]` and `[N, T, 1, 3D]`; a frame whose action is not known adds zero."""
        lanes, frames = sigma_NT.shape
        dtype = self.patch_embed.proj.weight.dtype
        wave = self.time_embed.time_proj(sigma_NT.flatten()).to(dtype).view(lanes, frames, 1, -1)
        shared = self.time_embed.t_embedder(wave)
        known = known_NT[:, :, None, None].to(dtype)
        actions = actions_NTF.unsqueeze(2).to(dtype)
        time = self.time_embed.norm(wave + known * self.action_embedder_B_D(actions))
        return time, shared + known * self.action_embedder_B_3D(actions)

    def embed(
        self,
        latents_NCThw: Tensor,
        sigma_NT: Tensor,
        actions_NTF: Tensor,
        known_NT: Tensor,
        text_NSE: Tensor,
        clean_T: Tensor,
        rope: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Conditioning]:
        """Tokens `[N, L, D]` and the conditioning of the blocks.

        latents: context frames clean, the others noisy.  sigma: noise level per frame, in [0, 1].  clean: `[T]` 1 on
        context frames, 0 elsewhere (the condition-mask channel).
        """
        lanes, _, frames, height, width = latents_NCThw.shape
        channels = [latents_NCThw, clean_T.to(latents_NCThw).view(1, 1, -1, 1, 1).expand(lanes, 1, -1, height, width)]
        if self.config.concat_padding_mask:  # frames are never padded here, so the mask is zero
            channels.append(latents_NCThw.new_zeros(lanes, 1, frames, height, width))
        tokens = self.patch_embed(torch.cat(channels, dim=1))
        grid = (tokens.shape[1], tokens.shape[2], tokens.shape[3])
        time, shared = self.time_and_action(sigma_NT, actions_NTF, known_NT)
        text = self.crossattn_proj(text_NSE) if self.config.use_crossattn_projection else text_NSE
        return tokens.flatten(1, 3), Conditioning(time, shared, rope, text, grid)

    def run_blocks(self, tokens_BLD: Tensor, first: int, last: int, given: Conditioning) -> Tensor:
        """Blocks `first` up to but not including `last`."""
        frames = given.grid[0]
        x = tokens_BLD.unflatten(1, (frames, -1))
        for block in self.transformer_blocks[first:last]:
            normed, gate = block.norm1(x, given.time, given.shared)
            attended = block.attn1(normed.flatten(1, 2), image_rotary_emb=given.rope)
            x = x + gate * attended.unflatten(1, (frames, -1))
            x = x + self._cross_attention(block, x, given)
            normed, gate = block.norm3(x, given.time, given.shared)
            x = x + gate * block.ff(normed)
        out: Tensor = x.flatten(1, 2)
        return out

    def _cross_attention(self, block: Any, x_BTPD: Tensor, given: Conditioning) -> Tensor:
        """The gated text term.  Softmax over a single text token is 1, so then the answer is that token's value."""
        normed, gate = block.norm2(x_BTPD, given.time, given.shared)
        if given.text.shape[1] == 1:
            value = block.attn2.to_out[0](block.attn2.to_v(given.text))
            term: Tensor = gate * value.unsqueeze(1)
            return term
        attended = block.attn2(normed.flatten(1, 2), encoder_hidden_states=given.text)
        term = gate * attended.unflatten(1, (given.grid[0], -1))
        return term

    def unembed(self, tokens_NLD: Tensor, given: Conditioning) -> Tensor:
        """Velocity `[N, C, T, h, w]` of the output tokens."""
        frames, rows, columns = given.grid
        _, patch_h, patch_w = self.config.patch_size
        x = self.norm_out(tokens_NLD.unflatten(1, (frames, -1)), given.time, given.shared)
        x = self.proj_out(x).view(x.shape[0], frames, rows, columns, patch_h, patch_w, -1)
        # Unlike patchify, the stock layout puts the channel last inside a token.
        velocity: Tensor = x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
        return velocity

    def forward(self, latents_NCThw: Tensor, **given: Any) -> Tensor:
        """`embed` (whose keyword arguments it takes, `rope` excepted), all blocks, `unembed`."""
        tokens, conditioning = self.embed(latents_NCThw, rope=self.position(latents_NCThw), **given)
        return self.unembed(self.run_blocks(tokens, 0, self.depth, conditioning), conditioning)
