"""The context KV cache: keys and values of the clean frames, which later denoise steps attend to again.

Context enters every denoise step as it is, under the same noise level; what the blocks make of it changes only because
it sees the frames that are being denoised, and these settle early.  So most passes need not read it again: the new
frames alone run, and attend to the keys and values that the context had when it was last read.  The idea is the
key/value cache of language models, without their causal mask and therefore refreshed on the way (`refresh_steps`); the
small worlds' errors are in docs/history/caching/context.md.

Easy to get wrong: a cache policy may run the blocks in parts, and skip the later ones.  Where the context is read it
goes the same way, part by part, so its tokens wait between the parts; the later blocks of a lane that skips keep what
they read before.

Shape suffixes: R rows (branches x lanes), n heads, L tokens, d head width, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wcsim.backbones.backbone import Read

Rows = slice | Tensor


class ContextCache:
    """What the blocks read of the context, for one group of branches in one denoise loop; the rows of a branch lie side
    by side.  rows: branches x lanes.  depth: blocks."""

    def __init__(self, rows: int, depth: int) -> None:
        self._rows = rows
        self._keys: list[Tensor | None] = [None] * depth
        self._values: list[Tensor | None] = [None] * depth
        self._waiting: Tensor | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was read yet."""
        return self._keys[0] is None

    def past(self, rows: Rows, first: int, last: int) -> list[Read]:
        """Keys and values `[B, n, L, d]` of some rows, for blocks `first` up to but not including `last`."""
        found = []
        for key, value in zip(self._keys[first:last], self._values[first:last], strict=True):
            assert key is not None, "the first pass of a loop reads the context"
            assert value is not None
            found.append((key[rows], value[rows]))
        return found

    def keep(self, rows: Rows, reads: Mapping[int, Read], tokens: int) -> None:
        """What blocks, by number, have read of some rows, of which the first `tokens` are context."""
        for index, (key, value) in reads.items():
            self._keys[index] = self._put(self._keys[index], rows, key[:, :, :tokens])
            self._values[index] = self._put(self._values[index], rows, value[:, :, :tokens])

    def wait(self, rows: Rows, tokens: Tensor) -> None:
        """Context tokens `[B, L, D]` behind the blocks that have run."""
        self._waiting = self._put(self._waiting, rows, tokens)

    def waiting(self, rows: Rows) -> Tensor:
        """Those tokens, for the blocks that follow."""
        assert self._waiting is not None
        return self._waiting[rows]

    def _put(self, whole: Tensor | None, rows: Rows, part: Tensor) -> Tensor:
        if whole is None:
            whole = part.new_empty(self._rows, *part.shape[1:])
        whole[rows] = part
        return whole


def refresh_steps(levels: Sequence[float], steps: Sequence[int], fall: float) -> frozenset[int]:
    """Which of `steps` read the context: the first, and those at which the root of the noise level has fallen by `fall`
    since.  levels: of all denoise steps."""
    found, last = list[int](), 0.0
    for step in steps:
        root = levels[step] ** 0.5
        if not found or last - root >= fall:
            found.append(step)
            last = root
    return frozenset(found)


def rows_of(lanes: Tensor | None, first: int, count: int, num_lanes: int) -> Rows:
    """Rows of `lanes` (None: all) in `count` branches from number `first` on."""
    if lanes is None:
        return slice(first * num_lanes, (first + count) * num_lanes)
    return repeated(lanes, first, count, num_lanes)


def repeated(lanes: Tensor, first: int, count: int, num_lanes: int) -> Tensor:
    """The same, of some lanes."""
    if (first, count) == (0, 1):
        return lanes
    return torch.cat([lanes + number * num_lanes for number in range(first, first + count)])
