"""The Cosmos-Predict2.5 transformer with actions.

`ActionCosmosTransformer` is diffusers' `CosmosTransformer3DModel` plus the two action embedders of the official
robot/action-cond checkpoints (chunk-conditioned form: one vector per latent frame, added inside the time embedding).
The forward pass is open: `embed`, then blocks in any range, then `unembed`, so that a cache policy decides which blocks
run without a second implementation of the model.  Modulation is computed per latent frame and broadcast to its tokens;
the stock forward expands it to every token first, for the same numbers (`wcsim.backbones.cosmos2.modulation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import CosmosTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_cosmos import CosmosPatchEmbed
from torch import Tensor

from wcsim.backbones.backbone import Geometry, Read, Recipe
from wcsim.backbones.cosmos2.attention import Position, Text, cross_attention, read_text, self_attention
from wcsim.backbones.cosmos2.conditioning import Conditioning, Constants, add_gated, modulate
from wcsim.backbones.cosmos2.cost import geometry_of
from wcsim.backbones.cosmos2.embedders import ActionEmbedder, moments
from wcsim.backbones.cosmos2.modulation import Modulation, Modulations, modulation_of

MODULATED = ("time_embed", "norm1", "norm2", "norm3", "norm_out")
IN_FLOAT32: dict[Recipe, tuple[str, ...]] = {"authors": (*MODULATED, "proj_out"), "wcsim": (
    *MODULATED, "action_embedder_B_D", "action_embedder_B_3D", "summary_embedder")}
"""Modules that keep float32 whatever the rest computes in."""
PREDICTIONS = ("velocity", "sample")
"""What a transformer's last layer may say."""
OWN_ARGUMENTS = ("action_features", "prediction", "frame_summary", "control_channels", "qk_eps")
"""Arguments of `ActionCosmosTransformer` that diffusers' class does not know."""


class ActionCosmosTransformer(CosmosTransformer3DModel):  # type: ignore[misc]  # diffusers is untyped
    """Predicts the rectified-flow velocity of latent frames, given clean context frames and one action per frame.

    Arguments are those of `CosmosTransformer3DModel` (whose `in_channels` counts the condition-mask channel) plus
    `action_features`: numbers per latent frame that the action embedders read; 0 for a base model, which has none;
    `prediction`: what the last layer says, "velocity" (Predict2.5) or "sample", the clean latents, from which the
    velocity follows (small worlds, whose few channels per token cannot carry the noise as well; Li & He 2025, arXiv
    2511.13720); `frame_summary`: whether every token reads where in its frame each latent channel is strong
    (`moments`), which tokens of a small world are too few and too narrow to find out together; `control_channels`: maps
    beside the latents that say what is expected where (`wcsim.world.state_model`); 0 for none; `qk_eps`: of the
    norms of queries and keys, diffusers' or NVIDIA's own 1e-6.
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
        extra_pos_embed_type: str | None = None,
        controlnet_block_every_n: None = None,
        img_context_dim_in: None = None,
        img_context_num_tokens: int = 256,
        img_context_dim_out: int = 2048,
        action_features: int = 28,
        prediction: str = "velocity",
        frame_summary: bool = False,
        control_channels: int = 0,
        qk_eps: float = 1e-5,
    ) -> None:
        # The names are spelt out because diffusers writes this signature into config.json.
        stock = {name: value for name, value in locals().items() if name not in ("self", "__class__", *OWN_ARGUMENTS)}
        for name in ("controlnet_block_every_n", "img_context_dim_in"):
            if stock[name] is not None:
                raise ValueError(f"{name} is {stock[name]!r}; Predict2.5 has none, and the open forward leaves it out")
        super().__init__(**stock)
        if in_channels != out_channels + 1:
            raise ValueError(f"in_channels is {in_channels}; {out_channels} latent channels and a condition mask need "
                             f"{out_channels + 1}")
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction is {prediction!r}; known: {', '.join(PREDICTIONS)}")
        for attn in (attn for block in self.transformer_blocks for attn in (block.attn1, block.attn2)):
            attn.norm_q.eps = attn.norm_k.eps = qk_eps
        width = num_attention_heads * attention_head_dim
        if action_features:
            self.action_embedder_B_D = ActionEmbedder(action_features, 4 * width, width)
            self.action_embedder_B_3D = ActionEmbedder(action_features, 4 * width, 3 * width)
        if frame_summary:
            self.summary_embedder = ActionEmbedder(3 * out_channels, 4 * width, width)
        if control_channels:
            self.control_embedder = CosmosPatchEmbed(control_channels, width, patch_size, bias=False)

    compiled_parts = ("make_modulations",)
    adapted_layers = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
    action_layers = ("action_embedder_B_D", "action_embedder_B_3D")

    @property
    def geometry(self) -> Geometry:
        """See `wcsim.backbones.backbone`."""
        return geometry_of(self.config)

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(self.transformer_blocks)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return int(self.config.num_attention_heads * self.config.attention_head_dim)

    @property
    def text_width(self) -> int:
        """Features of a text token on its way in."""
        projected = self.config.use_crossattn_projection
        return int(self.config.crossattn_proj_in_channels if projected else self.config.text_embed_dim)

    def position(self, latents_NCThw: Tensor) -> Position:
        """Where the tokens of latents of this shape are; constant over a rollout."""
        if not self.config.extra_pos_embed_type:
            return Position(self.rope(latents_NCThw, fps=None))
        place = self.learnable_pos_embed(latents_NCThw[:1].to(self.patch_embed.proj.weight.dtype))
        frames = latents_NCThw.shape[2] // self.config.patch_size[0]
        return Position(self.rope(latents_NCThw, fps=None), place.unflatten(1, (frames, -1)))

    def prepare(
        self, latents_NCThw: Tensor, actions_NTF: Tensor | None, known_NT: Tensor | None, text: Tensor | Text,
        control_NKThw: Tensor | None = None,
    ) -> Constants:
        """The constants of a denoise loop; see `wcsim.backbones.backbone.Backbone`."""
        return self._constants(actions_NTF, known_NT, text, self.position(latents_NCThw), control_NKThw)

    def _constants(
        self, actions_NTF: Tensor | None, known_NT: Tensor | None, text_GSE: Tensor | Text, position: Position,
        control_NKThw: Tensor | None,
    ) -> Constants:
        action = None
        if self.config.action_features:
            assert actions_NTF is not None
            assert known_NT is not None
            actions = actions_NTF.unsqueeze(2).to(self.action_embedder_B_D.fc1.weight.dtype)
            known = known_NT[:, :, None, None].to(actions.dtype)
            action = (known * self.action_embedder_B_D(actions), known * self.action_embedder_B_3D(actions))
        control = None
        if self.config.control_channels:
            assert control_NKThw is not None
            control = self.control_embedder(control_NKThw.to(self.patch_embed.proj.weight.dtype))
        return Constants(action, self.read_text(text_GSE), position, control)

    def read_text(self, text_GSE: Tensor | Text) -> Text:
        """The text as the blocks read it; as it is where they have."""
        if isinstance(text_GSE, Text):
            return text_GSE
        text = text_GSE.to(self.patch_embed.proj.weight.dtype)
        text = self.crossattn_proj(text) if self.config.use_crossattn_projection else text
        return read_text([block.attn2 for block in self.transformer_blocks], text)

    def time_and_action(self, sigma_NT: Tensor, action: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """The two modulation inputs `[N, T, 1, D]` and `[N, T, 1, 3D]`."""
        lanes, frames = sigma_NT.shape
        dtype = self.time_embed.t_embedder.linear_1.weight.dtype
        wave = self.time_embed.time_proj(sigma_NT.flatten()).to(dtype).view(lanes, frames, 1, -1)
        shared = self.time_embed.t_embedder(wave)
        if action is None:
            return self.time_embed.norm(wave), shared
        return self.time_embed.norm(wave + action[0]), shared + action[1]

    def embed(
        self,
        latents_NCThw: Tensor,
        sigma_NT: Tensor,
        actions_NTF: Tensor | None,
        known_NT: Tensor | None,
        text_NSE: Tensor,
        clean_T: Tensor,
        position: Position,
        control_NKThw: Tensor | None = None,
    ) -> tuple[Tensor, Conditioning]:
        """Tokens `[N, L, D]` and the conditioning of the blocks.

        latents: context frames clean, the others noisy.  sigma: noise level per frame, in [0, 1].  clean: `[T]` 1 on
        context frames, 0 elsewhere (the condition-mask channel).  actions, known: None in a model without actions.
        """
        constants = self._constants(actions_NTF, known_NT, text_NSE, position, control_NKThw)
        modulation = Modulation(*self.time_and_action(sigma_NT, constants.action))
        return self.embed_step(latents_NCThw, modulation, clean_T, constants)

    def modulations(
        self, sigma_SNT: Tensor, constants: Constants, schedule: Sequence[int] | None = None
    ) -> Sequence[Modulation]:
        """The modulation of every step of a denoise loop over these noise levels.  schedule: the steps that will be
        asked for, where that is known."""
        return Modulations(self.time_and_action, self.make_modulations, sigma_SNT, constants.action, schedule)

    def make_modulations(self, time: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """See `wcsim.backbones.cosmos2.modulation.Make`."""
        norms = [norm for block in self.transformer_blocks for norm in (block.norm1, block.norm2, block.norm3)]
        made = torch.stack([modulation_of(norm, time, shared) for norm in norms])
        return made, modulation_of(self.norm_out, time, shared)

    def embed_step(
        self, latents_NCThw: Tensor, modulation: Modulation, clean_T: Tensor, constants: Constants
    ) -> tuple[Tensor, Conditioning]:
        """`embed` with its constants and modulation at hand."""
        lanes, _, frames, height, width = latents_NCThw.shape
        latents = latents_NCThw.to(self.patch_embed.proj.weight.dtype)
        channels = [latents, clean_T.to(latents).view(1, 1, -1, 1, 1).expand(lanes, 1, -1, height, width)]
        if self.config.concat_padding_mask:  # frames are never padded here, so the mask is zero
            channels.append(latents.new_zeros(lanes, 1, frames, height, width))
        tokens = self.patch_embed(torch.cat(channels, dim=1))
        grid = (tokens.shape[1], tokens.shape[2], tokens.shape[3])
        if self.config.frame_summary:
            summary = self.summary_embedder(moments(latents_NCThw.to(self.summary_embedder.fc1.weight.dtype)))
            tokens = tokens + summary.to(tokens.dtype)[:, :, None, None]
        if constants.control is not None:
            tokens = tokens + constants.control
        return tokens.flatten(1, 3), Conditioning(modulation, constants.position, constants.text, grid)

    def run_blocks(
        self, tokens_BLD: Tensor, first: int, last: int, given: Conditioning, past: Sequence[Read] | None = None,
        notes: dict[int, Read] | None = None,
    ) -> Tensor:
        """Blocks `first` up to but not including `last`.  past: what each of these blocks attends to beside the tokens.
        notes: filled, by block, with what was read of the tokens."""
        frames = given.grid[0]
        x = tokens_BLD.unflatten(1, (frames, -1))
        for index in range(first, last):
            block = self.transformer_blocks[index]
            x = given.position.add_to(x)
            normed, gate = modulate(block.norm1, x, given, 3 * index)
            attended = self_attention(block.attn1, normed.flatten(1, 2), given.position.rope, block=index,
                                      past=None if past is None else past[index - first], notes=notes)
            x = add_gated(x, gate, attended)
            normed, gate = modulate(block.norm2, x, given, 3 * index + 1, read=bool(given.text.keys))
            x = add_gated(x, gate, cross_attention(block.attn2, normed.flatten(1, 2), given.text, index))
            normed, gate = modulate(block.norm3, x, given, 3 * index + 2)
            x = torch.addcmul(x, gate, block.ff(normed))
        out: Tensor = x.flatten(1, 2)
        return out

    def modulated(self, tokens_NLD: Tensor, given: Conditioning) -> Tensor:
        """What the first block's self-attention reads, `[N, L, D]`."""
        x = given.position.add_to(tokens_NLD.unflatten(1, (given.grid[0], -1)))
        normed, _ = modulate(self.transformer_blocks[0].norm1, x, given, 0)
        return normed.flatten(1, 2)

    def velocity(self, predicted_NCThw: Tensor, latents_NCThw: Tensor, sigma_NT: Tensor) -> Tensor:
        """The velocity, noise - clean, of latents at noise levels `sigma` above 0, from what `unembed` says."""
        if self.config.prediction == "velocity":
            return predicted_NCThw
        return (latents_NCThw - predicted_NCThw) / sigma_NT[:, None, :, None, None]

    def unembed(self, tokens_NLD: Tensor, given: Conditioning) -> Tensor:
        """What the output tokens predict, `[N, C, T, h, w]`; see `velocity`."""
        frames, rows, columns = given.grid
        _, patch_h, patch_w = self.config.patch_size
        shift, scale = given.modulation.of_last(self.norm_out).chunk(2, dim=-1)
        x = self.norm_out.norm(tokens_NLD.unflatten(1, (frames, -1))) * (1 + scale) + shift
        x = self.proj_out(x.to(self.proj_out.weight.dtype))
        x = x.view(x.shape[0], frames, rows, columns, patch_h, patch_w, -1)
        # Unlike patchify, the stock layout puts the channel last inside a token.
        predicted: Tensor = x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
        return predicted

    def head(self, tokens_NLD: Tensor, given: Conditioning, latents_NCThw: Tensor, sigma_1T: Tensor) -> Tensor:
        """The velocity of latents at these noise levels, from the output tokens of the last block."""
        return self.velocity(self.unembed(tokens_NLD, given), latents_NCThw, sigma_1T)

    def block(self, index: int) -> torch.nn.Module:
        """A block's module."""
        found: torch.nn.Module = self.transformer_blocks[index]
        return found

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the blocks compute in."""
        dtype: torch.dtype = self.patch_embed.proj.weight.dtype
        return dtype

    def set_precision(self, dtype: torch.dtype, recipe: Recipe = "wcsim") -> None:
        """Compute in `dtype`, but norms, noise level and actions in float32; or the last layer, and not actions."""
        for name, weight in self.named_parameters():
            if not set(name.split(".")) & set(IN_FLOAT32[recipe]):
                weight.data = weight.data.to(dtype)

    def forward(self, latents_NCThw: Tensor, **given: Any) -> Tensor:
        """`embed` (whose keyword arguments it takes, `position` excepted), all blocks, `unembed`."""
        tokens, conditioning = self.embed(latents_NCThw, position=self.position(latents_NCThw), **given)
        return self.unembed(self.run_blocks(tokens, 0, self.depth, conditioning), conditioning)
