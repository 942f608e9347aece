"""What caches decided, brought together: groups of lanes as one batch, denoise steps and lots of lanes as one trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wcsim.spans import Spans
from wcsim.types import Decision, Trace


def merge_lanes(
    parts: Sequence[tuple[Tensor, Tensor, list[Decision], Tensor]]
) -> tuple[Tensor, list[Decision], Tensor]:
    """Groups of lanes as one batch in lane order.  A part: its lanes `[B]`, then what `denoise` returned for them."""
    order = torch.cat([lanes for lanes, *_ in parts]).argsort()
    latents = torch.cat([new for _, new, _, _ in parts])[order]
    decisions = [_merge(step, order) for step in zip(*(decided for _, _, decided, _ in parts), strict=True)]
    return latents, decisions, torch.cat([ran for *_, ran in parts], dim=1)[:, order]


def _merge(decisions: tuple[Decision, ...], order: Tensor) -> Decision:
    """Decisions of several lane groups as one, in lane order."""
    if len(decisions) == 1:
        return decisions[0]
    merged = {name: torch.cat([getattr(d, name).cpu() for d in decisions])[order]
              for name in ("hit", "drift", "threshold", "gain")}
    branches = {name: torch.cat([d.by_branch[name].cpu() for d in decisions])[order] for name in decisions[0].by_branch}
    return Decision(**merged, by_branch=branches)

ASKED = ("embed", "probe", "deep", "head")
"""Spans of the transformer, inside that of the policy."""


def trace_of(decisions: list[list[Decision]], blocks: list[Tensor], depth: int, spans: Spans) -> Trace:
    """Everything that was decided, moved to the host once, at the end."""

    def table(read: Callable[[Decision], Tensor]) -> np.ndarray:
        rows = [torch.stack([read(step) for step in chunk]) for chunk in decisions]
        values: np.ndarray = torch.stack(rows).cpu().numpy()
        return values

    spans_ms = spans.ms()
    # The policy's own share is what its span holds beside what it asked the transformer for.
    spans_ms["policy"] = spans_ms.get("policy", 0.0) - sum(spans_ms.get(name, 0.0) for name in ASKED)
    return Trace(
        hit=table(lambda step: step.hit), drift=table(lambda step: step.drift),
        threshold=table(lambda step: step.threshold), gain=table(lambda step: step.gain),
        blocks=torch.stack(blocks).cpu().numpy(), depth=depth, spans_ms=spans_ms,
        by_branch={name: table(partial(_of_branch, name)) for name in decisions[0][0].by_branch},
    )


def _of_branch(name: str, decision: Decision) -> Tensor:
    return decision.by_branch[name]


def join_traces(traces: Sequence[Trace]) -> Trace:
    """Traces of lots of lanes as one, in order; their times add up."""
    if len(traces) == 1:
        return traces[0]
    tables = {name: np.concatenate([getattr(trace, name) for trace in traces], axis=-1)
              for name in ("hit", "drift", "threshold", "gain", "blocks")}
    spans_ms = {name: sum(trace.spans_ms.get(name, 0.0) for trace in traces) for name in traces[0].spans_ms}
    branches = {name: np.concatenate([trace.by_branch[name] for trace in traces], axis=-1)
                for name in traces[0].by_branch}
    return Trace(**tables, depth=traces[0].depth, spans_ms=spans_ms, by_branch=branches)


def lane_of(trace: Trace, lane: int) -> Trace:
    """The part of a trace that is about one lane; times are those of the whole batch."""
    return part_of(trace, np.s_[..., lane : lane + 1])


def part_of(trace: Trace, part: Any) -> Trace:
    """A part of the tables `[K, S, N]` of a trace, read-only."""
    hit, drift, threshold, gain, blocks = (
        _frozen(table[part]) for table in (trace.hit, trace.drift, trace.threshold, trace.gain, trace.blocks))
    return replace(trace, hit=hit, drift=drift, threshold=threshold, gain=gain, blocks=blocks,
                   by_branch={name: _frozen(hit[part]) for name, hit in trace.by_branch.items()})


def _frozen(table: np.ndarray) -> np.ndarray:
    table.setflags(write=False)
    return table
