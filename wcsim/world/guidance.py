"""Classifier-free guidance on the same engine: a lane of two branches is one lane of twice the frames.

Each branch, `conditional` and `unconditional`, runs the blocks under its own text.  A cache policy is shown both at
once, branch beside branch along the frames: what it remembers covers each branch, what it decides holds for both.  Or
each branch has a policy's state of its own, under its name, as in code that runs the branches one after the other.
Easy to get wrong: the scale counts from the conditional branch, v = c + g (c - u), so that g = 0 is the conditional
branch alone, and costs one pass.

Shape suffixes: b branches, N lanes, T frames, P tokens per frame, L = T P, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wcsim.backbones.backbone import Text
from wcsim.errors import ConfigError
from wcsim.types import Decide, Decision

CONDITIONAL, UNCONDITIONAL = "conditional", "unconditional"


@dataclass(frozen=True, slots=True)
class Guidance:
    """scale: g, above 0.  unconditional: text `[1 or N, S, E]`, maybe read.  batched: both branches in one batch,
    or one after the other, for half the memory.  decide: see `wcsim.types.Fidelity`; branches that decide apart run
    one after the other.  until: noise level below which the conditional branch goes on alone.  order: of the
    branches; changes results by rounding at most, and nothing where they decide apart.
    """

    scale: float
    unconditional: Tensor | Text
    batched: bool = True
    decide: Decide = "together"
    until: float = 0.0
    order: tuple[str, str] = (CONDITIONAL, UNCONDITIONAL)

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ConfigError(f"a guidance scale of {self.scale:g} needs no second branch; leave the guidance out")
        if set(self.order) != {CONDITIONAL, UNCONDITIONAL}:
            raise ConfigError(f"the branches are {CONDITIONAL} and {UNCONDITIONAL}, each once; given: {self.order}")


@dataclass(frozen=True, slots=True)
class Group:
    """Branches, by name, that a cache policy decides for at once.  passes: the batches in which their blocks run, each
    its text and how many branches share the batch."""

    branches: tuple[str, ...]
    passes: Sequence[tuple[Text, int]]


def groups_of(conditional: Text, unconditional: Text | None, guidance: Guidance | None) -> Sequence[Group]:
    """Which branches decide together, in the order in which they run."""
    if guidance is None or unconditional is None:
        return (Group((CONDITIONAL,), ((conditional, 1),)),)
    texts = {CONDITIONAL: conditional, UNCONDITIONAL: unconditional}
    if guidance.decide == "apart":
        return tuple(Group((name,), ((texts[name], 1),)) for name in guidance.order)
    ordered = tuple(texts[name] for name in guidance.order)
    passes = ((ordered[0].join(ordered[1:]), 2),) if guidance.batched else tuple((text, 1) for text in ordered)
    return (Group(guidance.order, passes),)


def guide(velocities: Mapping[str, Tensor], scale: float) -> Tensor:
    """Return v = c + g (c - u) of velocities by branch; c alone where there is no second branch."""
    conditional = velocities[CONDITIONAL]
    if len(velocities) == 1:
        return conditional
    return conditional + scale * (conditional - velocities[UNCONDITIONAL])


def merge_groups(groups: Sequence[Group], decisions: Sequence[Decision]) -> Decision:
    """One decision out of one per group."""
    if len(decisions) == 1:
        return decisions[0]
    by_branch = {name: decision.hit for group, decision in zip(groups, decisions, strict=True)
                 for name in group.branches}
    leading = next(decision for group, decision in zip(groups, decisions, strict=True)
                   if CONDITIONAL in group.branches)
    return replace(leading, hit=torch.stack(list(by_branch.values())).all(0), by_branch=by_branch)


def alone(decision: Decision) -> Decision:
    """A decision of the conditional branch for two that decide apart: the other has ended, so nothing of it ran."""
    by_branch = {CONDITIONAL: decision.hit, UNCONDITIONAL: torch.ones_like(decision.hit)}
    return replace(decision, by_branch=by_branch)


def beside(tokens_bNLD: Sequence[Tensor], frames: int, tail: int = 0) -> Tensor:
    """Branches `[N, L, D]` as `[N, b L, D]`: of each frame first the one, then the other; so, too, of their last `tail`
    tokens, which belong to no frame."""
    if len(tokens_bNLD) == 1:
        return tokens_bNLD[0]
    size = tokens_bNLD[0].shape[1] - tail
    grids = torch.stack([tokens[:, :size].unflatten(1, (frames, -1)) for tokens in tokens_bNLD], dim=2).flatten(1, 3)
    return torch.cat([grids, *(tokens[:, size:] for tokens in tokens_bNLD)], dim=1) if tail else grids


def apart(tokens: Tensor, frames: int, branches: int, tail: int = 0) -> Sequence[Tensor]:
    """Undo `beside`."""
    if branches == 1:
        return (tokens,)
    size = tokens.shape[1] - branches * tail
    grids = [branch.flatten(1, 2) for branch in tokens[:, :size].unflatten(1, (frames, branches, -1)).unbind(2)]
    if not tail:
        return tuple(grids)
    return tuple(torch.cat(both, dim=1) for both in zip(grids, tokens[:, size:].chunk(branches, dim=1), strict=True))
