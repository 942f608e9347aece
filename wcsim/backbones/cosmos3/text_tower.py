"""Cosmos 3's text tower, run once per prompt: what its layers look up of a text, for the generator's attention.

It is causal and reads nothing but token numbers, so these keys and values are constants of a world and are stored in
its folder; the tower's weights, half of the model, are then needed no more.  One layer is in use at a time.  Easy to
get wrong: the keys that the generator reads have, in some models, a norm of their own that the tower does not use.

Shape suffixes: S text tokens, D width, n heads, k key heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wcsim.backbones.cosmos3.attention import rotate
from wcsim.backbones.cosmos3.positions import Clock, Rope, rope_of, text_positions


@torch.no_grad()
def features_of(embedded_SD: Tensor, layers: Iterable[Any], clock: Clock) -> Tensor:
    """A text as a world stores it, `[1, S, E]`: of every token and every layer keys, then values, head by head.

    embedded: the token embeddings.  layers: of diffusers' `Cosmos3VLTextMoTDecoderLayer`; the text's half is used.
    """
    x, found = embedded_SD, list[Tensor]()
    cos, sin = rope_of(clock, text_positions(len(x)))
    rope = cos.to(x), sin.to(x)
    for layer in layers:
        normed = layer.input_layernorm(x)
        found.append(torch.stack(_looked_up(layer.self_attn, normed, rope), dim=1))  # [S, 2, k, d]
        x = x + _attend(layer.self_attn, normed, rope)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return torch.stack(found, dim=1).flatten(1).unsqueeze(0)


def _looked_up(attn: Any, normed_SD: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    """Keys and values `[S, k, d]` for the generator."""
    key = attn.norm_k(attn.to_k(normed_SD).unflatten(1, (-1, attn.head_dim)))
    if attn.k_norm_und_for_gen is not None:
        key = attn.k_norm_und_for_gen(key)
    return _turn(key, rope), attn.to_v(normed_SD).unflatten(1, (-1, attn.head_dim))


def _attend(attn: Any, normed_SD: Tensor, rope: Rope) -> Tensor:
    """The tower's own attention, `[S, D]`: each token sees those before it, and itself."""
    query, key, value = (project(normed_SD).unflatten(1, (-1, attn.head_dim))
                         for project in (attn.to_q, attn.to_k, attn.to_v))
    query, key = _turn(attn.norm_q(query), rope), _turn(attn.norm_k(key), rope)
    query, key, value = (part.transpose(0, 1).unsqueeze(0) for part in (query, key, value))
    seen = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    out: Tensor = attn.to_out(seen[0].transpose(0, 1).flatten(1))
    return out


def _turn(x_Snd: Tensor, rope: Rope) -> Tensor:
    return rotate(x_Snd.unsqueeze(0), [rope])[0]


