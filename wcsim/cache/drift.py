"""How far tokens have moved, and how far they may: the equations of the gates.

Equation numbers are those of WorldCache (Nawaz et al., arXiv 2603.22286).  Easy to get wrong: the mean goes over the
width first, because a single lane reduced at once would be summed in another order than a batch.

Shape suffixes: N lanes, L tokens, T frames, P tokens per frame, D width.  All arithmetic is float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-6
Saliency = Literal["token", "deviation", "place", "joint"]


def mean_size(values_NLD: Tensor) -> Tensor:
    """Mean absolute value per lane, `[N]`."""
    return values_NLD.float().abs().mean(-1).mean(-1)


def relative_drift(now_NLD: Tensor, before_NLD: Tensor, weights_NL: Tensor | None = None) -> Tensor:
    """Eq. 1, and with weights eq. 5: mean absolute change over mean absolute value, `[N]`, dimensionless.

    The mean goes over the width first: a single lane reduced at once would be summed in another order than a batch.
    """
    before = before_NLD.float()
    change = (now_NLD.float() - before).abs().mean(-1)
    if weights_NL is not None:
        change = change * weights_NL
    return change.mean(-1) / (mean_size(before) + EPSILON)


def velocity(change_N: Tensor, elapsed_N: Tensor | int) -> Tensor:
    """Eq. 2: relative change of the embedded tokens per denoise step, `[N]`; elapsed: steps that the change took."""
    return change_N / elapsed_N


def saliency(probe_NTPD: Tensor, form: Saliency) -> Tensor:
    """Eq. 4: spread of the channels, scaled per lane to [0, 1] (0 where all are equal).

    `token`: variance per token, `[N, T, P]`.  `deviation`: its root, as the authors' WAN code.  `place`: its mean over
    the frames, `[N, 1, P]`, as printed except that lanes are not averaged.  `joint`: standard deviation over frames and
    channels, `[N, 1, P]`, as the authors' Cosmos code.
    """
    probe = probe_NTPD.float()
    if form == "joint":
        spread = probe.std((1, 3), correction=0).unsqueeze(1)
    else:
        spread = probe.var(-1, correction=0)
        spread = spread.mean(1, keepdim=True) if form == "place" else spread
        spread = spread.sqrt() if form == "deviation" else spread
    low, high = spread.amin((1, 2), keepdim=True), spread.amax((1, 2), keepdim=True)
    return (spread - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)


def saliency_weights(probe_NTPD: Tensor, beta_s: float, form: Saliency, *, normalise: bool) -> Tensor:
    """The weights of eq. 5, `[N, L]`: 1 + beta_s S.

    normalise: divide by their mean, so that saliency moves attention about and the threshold keeps its meaning.
    """
    weights_NTP = (1 + beta_s * saliency(probe_NTPD, form)).expand(probe_NTPD.shape[:3])
    weights = weights_NTP.flatten(1)
    return weights / weights.mean(1, keepdim=True) if normalise else weights


def adaptive_threshold(threshold: float, alpha: float, velocity_N: Tensor, growth: float) -> Tensor:
    """Eq. 3 times eq. 13: the threshold `[N]`, lower for lanes that move, grown by the schedule."""
    return threshold * growth / (1 + alpha * velocity_N)


def schedule(step: int, num_steps: int, beta_d: float) -> float:
    """Eq. 13 (and 31): the factor of the threshold, from 1 towards 1 + beta_d along the denoise steps."""
    return 1 + beta_d * step / num_steps


def budget_growth(num_steps: int) -> float:
    """Eq. 30: beta_d for a number of denoise steps; a fit to 4 at 35, 5 at 70 and 8 at 140."""
    u = num_steps / 35
    return u * u / 6 + u / 2 + 10 / 3


def rate_factor(rate: float, gated: int, hits_N: Tensor) -> Tensor:
    """The factor `[N]` that steers a threshold towards skipping the share `rate` of the gated steps: e per skip owed.

    gated: steps gated so far.  hits: of them, how many each lane skipped.
    """
    return (rate * gated - hits_N.float()).exp()
