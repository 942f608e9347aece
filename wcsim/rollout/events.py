"""The events of a rollout, typed, each with all lanes that are still going.

Easy to get wrong: a lane whose episode has ended leaves the batch, so positions in an event move; `lanes` says whose
they are.  Shapes: n lanes still going, A action, H W frame, C h w latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from wcsim.agents.reports import ActReport
from wcsim.envs.tasks import Start
from wcsim.estimate import Episode, Estimate
from wcsim.types import Trace


@dataclass(frozen=True, slots=True)
class Seen:
    """What n lanes of a place show after a reset or a step.

    frames: `[n, H, W, 3]` uint8, mosaics of all cameras.  estimate: from them.  exact: from the simulator's state,
    in the truth.  latents: `[n, C, h, w]`, None where there are none (a start in a world, a truth that is not encoded).
    traces: what the cache did in each lane; empty where nothing was imagined.  changed: `[n]` share of each frame's
    pixels that the world's guardrail changed; None where there is none.  spans_ms: time by span.
    """

    frames: np.ndarray
    estimate: Estimate
    exact: Estimate | None = None
    latents: Tensor | None = None
    traces: Sequence[Trace] = ()
    changed: Sequence[float] | None = None
    spans_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def scored(self) -> Estimate:
        """What counts: the simulator's word where it is to be had, else the estimator's."""
        return self.estimate if self.exact is None else self.exact


@dataclass(frozen=True, slots=True)
class EpisodeBegin:
    """All lanes are at their starts.  seen: by place."""

    lanes: np.ndarray
    episodes: Sequence[Episode]
    starts: Sequence[Start]
    seen: Mapping[str, Seen]


@dataclass(frozen=True, slots=True)
class Step:
    """One control tick.

    step: from 0.  lanes: `[n]` whose rows these are.  actions: `[n, A]` as played.  clipped: `[n]` bool, whether the
    policy had asked for more than the bounds allow.  seen: by place, after the actions.  rewards: `[n]`, of the place
    in which the policy acts.  ended: `[n]` bool.  plan_ms: what the policy took, for all lanes.  reports: of planners,
    None for others.
    """

    step: int
    lanes: np.ndarray
    actions: np.ndarray
    clipped: np.ndarray
    seen: Mapping[str, Seen]
    rewards: np.ndarray
    ended: np.ndarray
    plan_ms: float
    reports: Sequence[ActReport | None]


@dataclass(frozen=True, slots=True)
class EpisodeEnd:
    """The episode of one lane is over, after `steps` steps.  ended: by itself, not by the limit of steps."""

    lane: int
    steps: int
    ended: bool


Event = EpisodeBegin | Step | EpisodeEnd
