"""The transformer at one denoise step, opened for a cache policy: embedding, blocks in any range, last layer.

Each part runs when it is asked for and not before: a policy that foretells the velocity asks for none of them.

Shape suffixes: N lanes, B a sub-batch of lanes, b branches, C latent channels, T frames, k new frames, L tokens,
D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wcsim.spans import Spans
from wcsim.types import Attend
from wcsim.world.conditioning import Conditioning, Constants
from wcsim.world.guidance import CONDITIONAL, Group, apart, beside
from wcsim.world.modulation import Modulation
from wcsim.world.transformer import ActionCosmosTransformer


@dataclass
class Shown:
    """What the transformer is shown at one denoise step; embedded once for all branches, when first asked for.

    latents: `[N, C, T, h, w]`, the first `context` frames clean.  levels: noise level per frame `[1, T]`.  clean: `[T]`
    1 on context frames.  sigmas: noise level of the others now and after this step.  modulations: of all steps, of
    which this is number `step`.
    """

    transformer: ActionCosmosTransformer
    latents_NCThw: Tensor
    levels_1T: Tensor
    clean_T: Tensor
    constants: Constants
    modulations: Sequence[Modulation]
    step: int
    context: int
    sigmas: tuple[float, float]
    spans: Spans

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of tokens."""
        frames, height, width = self.latents_NCThw.shape[2:]
        _, patch_h, patch_w = self.transformer.config.patch_size
        return frames, height // patch_h, width // patch_w

    @cached_property
    def embedded(self) -> tuple[Tensor, Conditioning]:
        """Tokens `[N, L, D]` and what every block reads."""
        with self.spans("embed"):
            return self.transformer.embed_step(
                self.latents_NCThw, self.modulations[self.step], self.clean_T, self.constants)

    def velocity(self, tokens_NLD: Tensor) -> Tensor:
        """Of the new frames, `[N, k, C, h, w]`, from output tokens of one branch."""
        _, given = self.embedded
        with self.spans("head"):
            predicted = self.transformer.unembed(tokens_NLD, given)
            velocity = self.transformer.velocity(predicted, self.latents_NCThw, self.levels_1T)
            return velocity.transpose(1, 2)[:, self.context :]


class TransformerStack:
    """The real transformer as a `BlockStack`; counts what runs and times it.

    group: the branches, their texts and batches; None for one branch, under the text of the constants.  blocks: `[N]`
    blocks run so far, each counted once however many branches it ran on: of a branch alone, where it is the conditional
    one.
    """

    def __init__(self, shown: Shown, group: Group | None = None) -> None:
        text = shown.constants.text
        group = group or Group((CONDITIONAL,), (text,), ((text, 1),))
        frames, rows, columns = shown.grid
        self.lanes, self.depth = len(shown.latents_NCThw), shown.transformer.depth
        self.branches, self.conditional = len(group.branches), group.conditional
        self.grid, self.context = (frames * self.branches, rows, columns), shown.context * self.branches
        self.sigma, self.next_sigma = shown.sigmas
        self.blocks = torch.zeros(self.lanes, dtype=torch.int64, device=shown.latents_NCThw.device)
        self._shown, self._frames, self._group = shown, frames, group

    @property
    def tokens(self) -> Tensor:
        """See `wcsim.types.BlockStack`."""
        return beside([self._shown.embedded[0]] * self.branches, self._frames)

    def run(
        self, tokens: Tensor, first: int, last: int, lanes: Tensor | None = None, attend: Attend | None = None
    ) -> Tensor:
        """See `wcsim.types.BlockStack`."""
        self.blocks[slice(None) if lanes is None else lanes] += last - first
        with self._shown.spans("probe" if first == 0 and last < self.depth else "deep"):
            return self._each(
                tokens, lanes, lambda some, given: self._shown.transformer.run_blocks(some, first, last, given, attend))

    def branch(self, number: int) -> TransformerStack:
        """See `wcsim.types.BlockStack`."""
        if self.branches == 1:
            return self
        text = self._group.texts[number]
        group = Group((self._group.branches[number],), (text,), ((text, 1),))
        alone = TransformerStack(self._shown, group)
        if number == self.conditional:
            alone.blocks = self.blocks
        return alone

    def act(self, tokens: Tensor, index: int, block: Callable[[Any, Tensor, Conditioning], Tensor]) -> Tensor:
        """Block `index` done by another hand, on all lanes: `block` is given diffusers' module, tokens `[B, L, D]` and
        their conditioning."""
        self.blocks += 1
        module = self._shown.transformer.transformer_blocks[index]
        with self._shown.spans("deep"):
            return self._each(tokens, None, lambda some, given: block(module, some, given))

    def modulated(self, tokens: Tensor) -> Tensor:
        """See `wcsim.types.BlockStack`."""
        return self._each(tokens, None, self._shown.transformer.modulated)

    def velocity(self, tokens: Tensor) -> Tensor:
        """See `wcsim.types.BlockStack`."""
        branches = apart(tokens, self._frames, self.branches)
        return torch.stack([self._shown.velocity(branch) for branch in branches], dim=1)

    @cached_property
    def _passes(self) -> Sequence[tuple[Conditioning, int]]:
        """The batches in which the blocks run, each with what they read and how many branches share it."""
        return [(self._shown.embedded[1].branch(text, count), count) for text, count in self._group.passes]

    def _each(
        self, tokens: Tensor, lanes: Tensor | None, act: Callable[[Tensor, Conditioning], Tensor]
    ) -> Tensor:
        """`act` on every pass: its branches as one batch, branch after branch."""
        branches, done = list(apart(tokens, self._frames, self.branches)), list[Tensor]()
        for given, count in self._passes:
            if lanes is not None:
                given = given.select(torch.cat([lanes + number * self.lanes for number in range(count)]))
            some = branches[0] if count == 1 else torch.cat(branches[:count])
            done += act(some, given).chunk(count)
            del branches[:count]
        return beside(done, self._frames)
