"""A governor turns effort up and down so that a deadline is met: quality is what is left over.

Effort is a level; what a level means (cache threshold, denoise steps, candidates) is its owner's business.  Easy to get
wrong: a governor that climbs back at once after every miss misses for ever, so each failed climb doubles its patience.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from wcsim.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Pace:
    """Where a governor stands.  level: 0 is the cheapest.  calm: steps well within the deadline, in a row.  patience:
    how many of them it takes to climb.  climbed: whether the present level was reached by climbing and has not held
    for its patience yet."""

    level: int
    calm: int = 0
    patience: int = 4
    climbed: bool = False


@dataclass(frozen=True, slots=True)
class Governor:
    """levels: how many there are.  deadline_ms: what a step may take.  margin: share of it below which a step is calm.
    patience: calm steps before a climb, at first and at most."""

    levels: int
    deadline_ms: float
    margin: float = 0.7
    patience: tuple[int, int] = (4, 64)

    def __post_init__(self) -> None:
        if self.levels < 1 or not self.deadline_ms > 0 or not 0 < self.margin <= 1 or self.patience[0] < 1:
            raise ConfigError(f"a governor needs levels >= 1, a positive deadline, margin in (0, 1] and patience >= 1; "
                              f"got {self.levels}, {self.deadline_ms}, {self.margin}, {self.patience}")

    def init(self, level: int | None = None) -> Pace:
        """Begin at `level`, the dearest where None."""
        return Pace(self.levels - 1 if level is None else level, patience=self.patience[0])

    def after(self, pace: Pace, ms: float) -> Pace:
        """The pace after a step that took `ms`: down at once on a miss, up after enough calm."""
        if ms > self.deadline_ms:
            patience = min(2 * pace.patience, self.patience[1]) if pace.climbed else pace.patience
            return Pace(max(0, pace.level - 1), patience=patience)
        calm = pace.calm + 1 if ms <= self.margin * self.deadline_ms else 0
        held = pace.climbed and pace.calm + 1 < pace.patience
        if calm >= pace.patience and pace.level < self.levels - 1:
            return Pace(pace.level + 1, patience=pace.patience, climbed=True)
        return replace(pace, calm=calm, climbed=held)
