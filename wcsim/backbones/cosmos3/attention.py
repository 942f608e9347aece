"""The attention of Cosmos 3's generator: every token sees the text, every other token of its lane, and no mask.

The text's keys and values depend on its tokens alone, so they come ready made (`wcsim.backbones.cosmos3.text_tower`).
Several query heads share a head of keys; queries do not see each other, so those of a group go end to end, and nothing
is repeated.  Easy to get wrong: texts differ in length, and the lanes of each turn by positions of their own.

Shape suffixes: B lanes, G texts, S text tokens, L tokens, D width, n heads, k key heads, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wcsim.backbones.backbone import Read
from wcsim.backbones.cosmos3.positions import Rope


@dataclass(frozen=True, slots=True)
class Text:
    """Keys and values of prompts: of each, `[layers, k, S, d]`."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def groups(self) -> int:
        """Different texts."""
        return len(self.keys)

    @property
    def tokens(self) -> int:
        """Tokens of the longest."""
        return max(self.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each."""
        return tuple(key.shape[2] for key in self.keys)

    def join(self, others: Sequence[Text]) -> Text:
        """This text and others, of whatever length, as the groups of one."""
        texts = (self, *others)
        return Text(tuple(key for text in texts for key in text.keys),
                    tuple(value for text in texts for value in text.values))

    def select(self, lanes: Tensor, count: int) -> Text:
        """The text of some of `count` lanes; a selection from shared texts takes equally many lanes of each."""
        if self.groups == 1 or self.groups != count:
            return self
        rows = lanes.tolist()
        return Text(tuple(self.keys[row] for row in rows), tuple(self.values[row] for row in rows))


def read_text(text_GSE: Tensor, layers: int, heads: int, dtype: torch.dtype) -> Text:
    """A text of what `text_tower.features_of` makes: for every layer its keys, then its values, head by head."""
    parts = text_GSE.to(dtype).unflatten(2, (layers, 2, heads, -1)).permute(3, 0, 2, 4, 1, 5)  # [2, G, layers, k, S, d]
    return Text(tuple(parts[0].contiguous()), tuple(parts[1].contiguous()))


def attend(
    attn: Any, x_BLD: Tensor, text: Text, ropes: Sequence[Rope], *, layer: int, past: Read | None = None,
    notes: dict[int, Read] | None = None,
) -> Tensor:
    """`[B, L, D]`.  ropes: rotations `[L, d]` for the lanes of each text.  past: keys and values that come before those
    of the tokens.  notes: takes down, under the layer's number, what was looked up of the tokens."""
    query = rotate(attn.norm_added_q(_heads(attn, attn.add_q_proj(x_BLD))), ropes)
    key = rotate(attn.norm_added_k(_heads(attn, attn.add_k_proj(x_BLD))), ropes).transpose(1, 2)
    value = _heads(attn, attn.add_v_proj(x_BLD)).transpose(1, 2)
    if past is not None:
        key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
    if notes is not None:
        notes[layer] = key, value
    each = len(x_BLD) // text.groups
    found = [_look_up(query[lanes], key[lanes], value[lanes], text.keys[group][layer], text.values[group][layer])
             for group, lanes in enumerate(slice(first, first + each) for first in range(0, len(x_BLD), each))]
    out: Tensor = attn.to_add_out(found[0] if len(found) == 1 else torch.cat(found))
    return out


def rotate(x_BLnd: Tensor, ropes: Sequence[Rope]) -> Tensor:
    """The rotary embedding: channel i of the first half and channel i of the second turn by one angle."""
    cos, sin = (parts[0] if len(ropes) == 1 else torch.stack(parts) for parts in zip(*ropes, strict=True))
    x = x_BLnd.unflatten(0, (len(ropes), -1))  # [G, B / G, L, n, d]
    cos, sin = (part.view(len(ropes), 1, -1, 1, part.shape[-1]) for part in (cos, sin))
    first, second = x.chunk(2, dim=-1)
    turned: Tensor = (x * cos + torch.cat([-second, first], dim=-1) * sin).flatten(0, 1)
    return turned


def _look_up(query: Tensor, key: Tensor, value: Tensor, text_key: Tensor, text_value: Tensor) -> Tensor:
    """`[B, L, n d]` of queries `[B, L, n, d]`, and of keys and values: the text's `[k, S, d]`, then `[B, k, l, d]`."""
    lanes, tokens, heads, _ = query.shape
    keys, values = (torch.cat([text.expand(lanes, -1, -1, -1), own], dim=2)
                    for text, own in ((text_key, key), (text_value, value)))
    shared = query.unflatten(2, (key.shape[1], -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [B, k, n / k L, d]
    found = F.scaled_dot_product_attention(shared, keys, values)
    merged: Tensor = found.unflatten(2, (heads // key.shape[1], tokens)).permute(0, 3, 1, 2, 4).flatten(2)
    return merged


def _heads(attn: Any, x_BLD: Tensor) -> Tensor:
    """`[B, L, n d]` to `[B, L, n, d]`."""
    heads: Tensor = x_BLD.unflatten(2, (-1, attn.head_dim))
    return heads


