"""The last two full computations of every lane, and where between or beyond them the present one lies.

Equation numbers are those of WorldCache (Nawaz et al., arXiv 2603.22286).  Easy to get wrong: the gain is measured on
probe residuals and applied to deep ones.

Shape suffixes: N lanes, L tokens, T frames, D width.  All arithmetic is float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wcsim.cache.drift import EPSILON
from wcsim.cache.reuse import Split


@dataclass(frozen=True, slots=True)
class Window:
    """Residuals of the last (1) and second-last (2) full computation of every lane.

    r: output minus embedded tokens, `[N, L, D]`.  q: probe minus embedded tokens, of the tokens that `push`
    is told to read.  After only one computation both entries are it.
    """

    r1: Tensor
    r2: Tensor
    q1: Tensor
    q2: Tensor


def push(
    window: Window | None, split: Split, tokens: Tensor, probe: Tensor, output: Tensor, *,
    read: slice = slice(None),
) -> Window:
    """The window after a step: lanes that computed add their residuals (eq. 7), lanes that reused keep theirs.

    read: the tokens whose probe residual is read.
    """
    if window is not None and not split.any_miss:
        return window
    r, q = output - tokens, probe[:, read] - tokens[:, read]
    if window is None:
        return Window(r, r, q, q)
    return Window(
        split.update(window.r1, r),
        split.update(window.r2, window.r1),
        split.update(window.q1, q),
        split.update(window.q2, window.q1),
    )


def extrapolate(tokens_NLD: Tensor, window: Window, gain: Tensor) -> Tensor:
    """Eq. 10: output tokens predicted from the last two deep residuals, in the dtype of the tokens."""
    return (tokens_NLD.float() + deep_residual(window, gain)).to(tokens_NLD.dtype)


def deep_residual(window: Window, gain: Tensor) -> Tensor:
    """The deep residual on the line from r2 (gain 0) to r1 (1), float32.

    gain: `[N]`, or `[N, G]` for as many equal, consecutive parts of the tokens.
    """
    r2 = window.r2.float()
    step = (window.r1.float() - r2).unflatten(1, (gain.shape[1] if gain.ndim > 1 else 1, -1))
    moved: Tensor = (gain.view(*step.shape[:2], 1, 1) * step).flatten(1, 2)
    return r2 + moved


def osi_gain(q: Tensor, q1: Tensor, q2: Tensor, low: float, high: float) -> Tensor:
    """Eq. 8 and 9: least-squares position of the probe residual on the line from q2 (0) to q1 (1), clamped.

    `[N, L, D]` gives `[N]`; tokens in G parts, `[N, G, P, D]`, give `[N, G]`.  Both differences are of probe residuals,
    as in the authors' code; the printed eq. 8 mixes in deep ones.
    """
    target, source = q.float() - q2.float(), q1.float() - q2.float()
    along, length = (target * source).sum(-1).sum(-1), (source * source).sum(-1).sum(-1)
    return (along / (length + EPSILON)).clamp(low, high)


def distance_gain(q: Tensor, q1: Tensor, q2: Tensor, low: float, high: float) -> Tensor:
    """DiCache's gain: how far q is from q2, in units of the distance of q1 from q2, clamped; 1 if that is 0.

    Shapes as in `osi_gain`.
    """
    target = (q.float() - q2.float()).abs().mean(-1).mean(-1)
    source = (q1.float() - q2.float()).abs().mean(-1).mean(-1)
    return torch.where(source < EPSILON, 1.0, target / source.clamp_min(EPSILON)).clamp(low, high)


def unexplained(q: Tensor, q1: Tensor, q2: Tensor, gain: Tensor) -> Tensor:
    """Share of the probe residual that the gain does not predict, |q - q2 - g (q1 - q2)| / |q| (Euclidean): `[N]`.

    q, q1, q2: `[N, L, D]`.  gain: `[N, G]` for as many equal, consecutive parts of the tokens.
    """
    step = (q1.float() - q2.float()).unflatten(1, (gain.shape[1], -1))
    missed = q.float() - q2.float() - (gain[:, :, None, None] * step).flatten(1, 2)
    left: Tensor = missed.square().sum(-1).sum(-1)
    size = q.float().square().sum(-1).sum(-1)
    return (left / size.clamp_min(torch.finfo(torch.float32).tiny)).sqrt()
