"""The attention of a Cosmos block, arranged for rollouts.

The weights are diffusers' `Attention` modules and the arithmetic is that of `CosmosAttnProcessor2_0`, without its
copies.  Text is constant during a denoise loop, so its keys and values are made once (`Text`).  Easy to get wrong: a
text belongs to a group of lanes, not to a lane, and is never repeated for each of them.

Shape suffixes: B lanes, G groups of lanes, L tokens, D width, S text tokens, E text features, n heads, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wcsim.backbones.backbone import Read


@dataclass(frozen=True, slots=True)
class Position:
    """Where tokens are; equal for all lanes.

    rope: cosine and sine of the rotary embedding, `[L, d]` each.  place: `[1, T, P, D]` learnt absolute positions of P
    tokens per frame, which every block adds (Cosmos 1 and our small worlds), or None (Predict2.5).
    """

    rope: tuple[Tensor, Tensor]
    place: Tensor | None = None

    def add_to(self, tokens_BTPD: Tensor) -> Tensor:
        """Tokens, with the absolute position of each where there is one."""
        return tokens_BTPD if self.place is None else tokens_BTPD + self.place

    def since(self, frame: int, frames: int) -> Position:
        """That of the frames, of so many, from number `frame` on."""
        cos, sin = self.rope
        first = frame * (len(cos) // frames)
        return Position((cos[first:], sin[first:]), None if self.place is None else self.place[:, frame:])


@dataclass(frozen=True, slots=True)
class Text:
    """What cross-attention reads, block by block.

    keys, values: `[G, n, S, d]` per block.  Softmax over a single token is 1, so for S = 1 there are no keys, and
    values hold the finished answers `[G, 1, D]`.  Lanes that share a text lie side by side, equally many per text.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def groups(self) -> int:
        """Different texts."""
        return self.values[0].shape[0]

    @property
    def tokens(self) -> int:
        """Tokens of each."""
        return self.keys[0].shape[2] if self.keys else 1

    def join(self, others: Sequence[Text]) -> Text:
        """This text and others of equal length as the groups of one."""
        texts = (self, *others)
        keys = tuple(torch.cat(part) for part in zip(*(text.keys for text in texts), strict=True))
        return Text(keys, tuple(torch.cat(part) for part in zip(*(text.values for text in texts), strict=True)))

    def select(self, lanes: Tensor, count: int) -> Text:
        """The text of some of `count` lanes; a selection from shared texts takes equally many lanes of each."""
        if self.groups != count:
            return self
        return Text(tuple(key[lanes] for key in self.keys), tuple(value[lanes] for value in self.values))


def read_text(attentions: Sequence[Any], text_GSE: Tensor) -> Text:
    """Keys and values of a text for the cross-attention of every block."""
    if text_GSE.shape[1] == 1:
        return Text((), tuple(attn.to_out[0](attn.to_v(text_GSE)) for attn in attentions))
    keys = tuple(attn.norm_k(_heads(attn, attn.to_k(text_GSE))) for attn in attentions)
    return Text(keys, tuple(_heads(attn, attn.to_v(text_GSE)) for attn in attentions))


def cross_attention(attn: Any, x_BLD: Tensor, text: Text, block: int) -> Tensor:
    """`[B, L, D]`, or `[B, 1, D]` where one text token answers for all places, whatever `x` says."""
    values = text.values[block]
    lanes, per_group = len(x_BLD), len(x_BLD) // text.groups
    if not text.keys:
        return values if per_group == 1 else values.repeat_interleave(per_group, 0)
    x = x_BLD.reshape(text.groups, -1, x_BLD.shape[-1])  # queries do not see each other: lanes of a group, end to end
    query = attn.norm_q(_heads(attn, attn.to_q(x)))
    attended = F.scaled_dot_product_attention(query, text.keys[block], values)
    return _merge(attn, attended).view(lanes, -1, x.shape[-1])


def self_attention(
    attn: Any, x_BLD: Tensor, rope: tuple[Tensor, Tensor], *, block: int = 0, past: Read | None = None,
    notes: dict[int, Read] | None = None,
) -> Tensor:
    """`[B, L, D]`, every token of a lane seeing every other, and a past beside them.  notes: takes down, under the
    block's number, what was looked up."""
    query = rotate(attn.norm_q(_heads(attn, attn.to_q(x_BLD))), rope)
    key, value = rotate(attn.norm_k(_heads(attn, attn.to_k(x_BLD))), rope), _heads(attn, attn.to_v(x_BLD))
    if past is not None:
        key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
    if notes is not None:
        notes[block] = key, value
    return _merge(attn, F.scaled_dot_product_attention(query, key, value))


def rotate(x_BnLd: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """The rotary embedding: channel i of the first half and channel i of the second turn by one angle.

    rope: cosines and sines `[L, d]`, whose halves are equal.
    """
    cos, sin = rope
    x = x_BnLd.float()
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([-second, first], dim=-1), sin).to(x_BnLd.dtype)


def _heads(attn: Any, x_BLD: Tensor) -> Tensor:
    """`[B, L, D]` to `[B, n, L, d]`."""
    heads: Tensor = x_BLD.unflatten(2, (attn.heads, -1)).transpose(1, 2)
    return heads


def _merge(attn: Any, x_BnLd: Tensor) -> Tensor:
    """`[B, n, L, d]` to `[B, L, D]`, through the output projection."""
    out: Tensor = attn.to_out[0](x_BnLd.transpose(1, 2).flatten(2))
    return out
