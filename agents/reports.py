"""What a planning agent says of each of its acts: why it planned, what that took, and how wrong it had been."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wcsim.types import Trace

Reason = Literal["start", "error", "schedule"]
"""Why a new plan was made: there was none, the last one mispredicted, or it was due."""


@dataclass(frozen=True, slots=True)
class PredictionError:
    """What was imagined for the last action against what was then seen.

    latent: |imagined - seen| / |seen|.  errors: metric of the task's state (`wcsim.spec`) to the distance of what is
    estimated in both frames, None where either does not show it; empty without an estimator.
    """

    latent: float
    errors: Mapping[str, float | None] = field(default_factory=dict)


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
    now followed for the costs, of this `act` for the rest.  A cost that was not computed is None.  timing and traces
    (of every imagining in this `act`) are left out of comparisons: only they may differ between equal runs.
    rank_agreement, regret: of its rungs (see `wcsim.agents.halving.Rung`), on average; None where there was none.
    realised: of the plan that this `act` gave up, over the ticks that it was followed, the cost promised and the cost
    of what came.
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
    realised: tuple[float, float] | None = None

    @property
    def replanned(self) -> bool:
        """Whether this `act` made a new plan."""
        return self.reason is not None
