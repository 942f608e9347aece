"""The transformer at one denoise step, opened for a cache policy: embedding, blocks in any range, last layer.

Each part runs when it is asked for and not before: a policy that extrapolates the velocity asks for none of them.

Shape suffixes: N lanes, B a sub-batch of lanes, b branches, C latent channels, T frames, k new frames, L tokens,
D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from wcsim.backbones.backbone import Backbone, Conditioning, Constants, Read
from wcsim.errors import ConfigError
from wcsim.spans import Spans
from wcsim.world.context import ContextCache, Rows, repeated, rows_of
from wcsim.world.guidance import CONDITIONAL, Group, apart, beside


@dataclass
class DenoiseStep:
    """What the transformer reads at one denoise step; embedded once for all branches, when first asked for.

    latents: `[N, C, T, h, w]`, the first `context` frames clean.  levels: noise level per frame `[1, T]`.  clean: `[T]`
    1 on context frames.  sigmas: noise level of the others now and after this step.  modulations: of all steps, of
    which this is number `step`.
    """

    transformer: Backbone
    latents_NCThw: Tensor
    levels_1T: Tensor
    clean_T: Tensor
    constants: Constants
    modulations: Sequence[Any]
    step: int
    context: int
    sigmas: tuple[float, float]
    spans: Spans

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of tokens; a patch that reaches over the edge counts."""
        frames, height, width = self.latents_NCThw.shape[2:]
        patch_h, patch_w = self.transformer.geometry.patch
        return frames, -(-height // patch_h), -(-width // patch_w)

    @cached_property
    def embedded(self) -> tuple[Tensor, Conditioning]:
        """Tokens `[N, L, D]` and what every block reads."""
        with self.spans("embed"):
            return self.transformer.embed_step(
                self.latents_NCThw, self.modulations[self.step], self.clean_T, self.constants)

    def velocity(self, tokens_NLD: Tensor, first: int = 0) -> Tensor:
        """Of the new frames, `[N, k, C, h, w]`, from output tokens of one branch, those of the frames from number
        `first` on."""
        _, given = self.embedded
        with self.spans("head"):
            latents, levels = self.latents_NCThw[:, :, first:], self.levels_1T[:, first:]
            velocity = self.transformer.head(tokens_NLD, given.since(first), latents, levels)
            return velocity.transpose(1, 2)[:, self.context - first :]


class TransformerStack:
    """The real transformer as a `BlockStack`; counts what runs and times it.

    group: the branches and their batches; None for one branch, under the text of the constants.  cache: the context
    KV cache, where there is one; the stack is then one of the new frames alone.  refresh: whether the blocks that run
    read the context anew.  blocks: `[N]` blocks run so far, each counted once however many branches it ran on.
    """

    def __init__(
        self, step: DenoiseStep, group: Group | None = None, cache: ContextCache | None = None, *,
        refresh: bool = False,
    ) -> None:
        group = group or Group((CONDITIONAL,), ((step.constants.text, 1),))
        frames, rows, columns = step.grid
        self.lanes, self.depth = len(step.latents_NCThw), step.transformer.depth
        self.branches = len(group.branches)
        self._hidden = 0 if cache is None else step.context
        self._frames, self._places = frames - self._hidden, rows * columns
        self.grid = (self._frames * self.branches, rows, columns)
        self._tail = step.constants.tail
        self.tail = self._tail * self.branches
        self.context = (step.context - self._hidden) * self.branches
        self.sigma, self.next_sigma = step.sigmas
        self.blocks = torch.zeros(self.lanes, dtype=torch.int64, device=step.latents_NCThw.device)
        self._step, self._group, self._cache, self._refresh = step, group, cache, refresh

    @property
    def tokens(self) -> Tensor:
        """See `wcsim.types.BlockStack`."""
        own = self._step.embedded[0][:, self._hidden * self._places :]
        return beside([own] * self.branches, self._frames, self._tail)

    def run(self, tokens: Tensor, first: int, last: int, lanes: Tensor | None = None) -> Tensor:
        """See `wcsim.types.BlockStack`."""
        self.blocks[slice(None) if lanes is None else lanes] += last - first
        with self._step.spans("probe" if first == 0 and last < self.depth else "deep"):
            return self._each(tokens, lanes, partial(self._run, first, last))

    def act(self, tokens: Tensor, index: int, block: Callable[[Any, Tensor, Conditioning], Tensor]) -> Tensor:
        """Block `index` done by another hand, on all lanes: `block` is given the block's module, tokens `[B, L, D]` and
        their conditioning.  Not where the context is cached (ConfigError)."""
        if self._cache is not None:
            raise ConfigError("fidelity.context_refresh must be 0 for a cache that reaches inside the blocks")
        self.blocks += 1
        module = self._step.transformer.block(index)
        with self._step.spans("deep"):
            return self._each(tokens, None, lambda some, given, rows: block(module, some, given))

    def modulated(self, tokens: Tensor) -> Tensor:
        """See `wcsim.types.BlockStack`."""
        read = self._step.transformer.modulated
        return self._each(tokens, None, lambda some, given, rows: read(some, given.since(self._hidden)))

    def velocity(self, tokens: Tensor) -> Tensor:
        """See `wcsim.types.BlockStack`."""
        branches = apart(tokens, self._frames, self.branches, self._tail)
        return torch.stack([self._step.velocity(branch, self._hidden) for branch in branches], dim=1)

    def _run(self, first: int, last: int, tokens: Tensor, given: Conditioning, rows: Rows) -> Tensor:
        """Blocks on one batch, of the lanes and branches that are `rows` of the cache."""
        run, cache = self._step.transformer.run_blocks, self._cache
        if cache is None:
            return run(tokens, first, last, given)
        if not self._refresh:
            return run(tokens, first, last, given.since(self._hidden), past=cache.past(rows, first, last))
        size, notes = self._hidden * self._places, dict[int, Read]()
        context = cache.waiting(rows) if first else self._context(rows)
        output = run(torch.cat([context, tokens], dim=1), first, last, given, notes=notes)
        cache.keep(rows, notes, size)
        if last < self.depth:
            cache.wait(rows, output[:, :size])
        return output[:, size:]

    def _context(self, rows: Rows) -> Tensor:
        """Context tokens as the first block reads them: those of a lane are the same in all branches."""
        tokens = self._step.embedded[0][:, : self._hidden * self._places]
        return tokens.repeat(self.branches, 1, 1)[rows]

    @cached_property
    def _passes(self) -> Sequence[tuple[Conditioning, int]]:
        """The batches in which the blocks run, each with what they read and how many branches share it."""
        return [(self._step.embedded[1].branch(text, count), count) for text, count in self._group.passes]

    def _each(
        self, tokens: Tensor, lanes: Tensor | None, act: Callable[[Tensor, Conditioning, Rows], Tensor]
    ) -> Tensor:
        """`act` on every pass: its branches as one batch, branch after branch; it is given tokens, what blocks read
        beside those of all frames, and the rows."""
        branches, done, before = list(apart(tokens, self._frames, self.branches, self._tail)), list[Tensor](), 0
        for given, count in self._passes:
            if lanes is not None:
                given = given.select(repeated(lanes, 0, count, self.lanes))
            some = branches[0] if count == 1 else torch.cat(branches[:count])
            done += act(some, given, rows_of(lanes, before, count, self.lanes)).chunk(count)
            before += count
            del branches[:count]
        return beside(done, self._frames, self._tail)
