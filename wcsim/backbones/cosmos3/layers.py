"""A layer of Cosmos 3's generator: diffusers' own modules under diffusers' own names, without the text tower's half."""

from __future__ import annotations

from typing import Any

from diffusers.models.normalization import RMSNorm
from diffusers.models.transformers.transformer_cosmos3 import Cosmos3NemotronRMSNorm, Cosmos3VLTextMLP
from torch import nn


def rms_norm(hidden_act: str, size: int, eps: float) -> nn.Module:
    """The norm that goes with an activation: Nemotron's rounds once, behind its weights, Qwen's twice."""
    if hidden_act == "relu2":
        nemotron: nn.Module = Cosmos3NemotronRMSNorm(size, eps=eps)
        return nemotron
    qwen: nn.Module = RMSNorm(size, eps=eps, elementwise_affine=True, bias=False)
    return qwen


class GeneratorAttention(nn.Module):
    """Projections of the generator's tokens, and the norms of each head."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width, bias = config.hidden_size, config.attention_bias
        own, shared = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        self.add_q_proj = nn.Linear(width, own, bias=bias)
        self.add_k_proj = nn.Linear(width, shared, bias=bias)
        self.add_v_proj = nn.Linear(width, shared, bias=bias)
        self.to_add_out = nn.Linear(own, width, bias=bias)
        self.norm_added_q = rms_norm(config.hidden_act, config.head_dim, config.rms_norm_eps)
        self.norm_added_k = rms_norm(config.hidden_act, config.head_dim, config.rms_norm_eps)


class GeneratorLayer(nn.Module):
    """Attention and feed-forward net, each behind a norm."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.self_attn = GeneratorAttention(config)
        self.mlp_moe_gen = Cosmos3VLTextMLP(config.hidden_size, config.intermediate_size, config.hidden_act)
        self.input_layernorm_moe_gen = rms_norm(config.hidden_act, config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm_moe_gen = rms_norm(config.hidden_act, config.hidden_size, config.rms_norm_eps)
