"""What a planning agent says of each of its acts: why it planned, what that took, and how wrong it had been."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wcsim.types import Trace

Reason = Literal["start", "error", "schedule"]
"""Why a new plan was made: there was none, the last one mispredicted, or it was due."""


@dataclass(frozen=True, slots=True)
class PredictionError:
    """What was imagined for the last action against what was then seen.

    latent: |imagined - seen| / |seen|.  agent_px, block_px, block_deg: in the judge's pixels, and degrees; None without
    a judge or where either frame does not show it.
    """

    latent: float
    agent_px: float | None = None
    block_px: float | None = None
    block_deg: float | None = None


@dataclass(frozen=True, slots=True)
class ActTiming:
    """Milliseconds that one `act` took, and its share of planning.  deadline_met: None without a deadline."""

    act_ms: float
    plan_ms: float
    deadline_met: bool | None


@dataclass(frozen=True, slots=True)
class ActReport:
    """What one `act` did.

    reason: why it planned, None where it followed its plan.  The next five are the search's (see `Plan`): of the plan
    now followed for the costs, of this `act` for the rest.  A cost that nobody computed is None.  timing and traces (of
    every imagining in this `act`) are left out of comparisons: only they may differ between equal runs.
    rank_agreement, regret: of its screenings (see `Screening`), on average; None where there was none.  kept: of the
    plan that this `act` gave up, over the ticks that it was followed, the cost promised and the cost of what came.
    """

    tick: int
    reason: Reason | None
    error: PredictionError | None
    cost: float | None
    cost_of_mean: float | None
    rounds: int
    calls: int
    exhausted: bool
    timing: ActTiming = field(compare=False)
    traces: tuple[Trace, ...] = field(compare=False)
    rank_agreement: float | None = None
    regret: float | None = None
    kept: tuple[float, float] | None = None

    @property
    def replanned(self) -> bool:
        """Whether this `act` made a new plan."""
        return self.reason is not None
