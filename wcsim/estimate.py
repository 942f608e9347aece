"""What is estimated of a state, where it shall end, and what is known of an episode before it begins.

An estimate comes from pixels (an estimator) or from a simulator's own state; both look the same.  Easy to get wrong:
`progress` and `success` are of the task's own goal, while a `Goal` may be another one.

Shapes: N lanes or frames, `...` any leading axes, A action, H W frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Self

import numpy as np

from wcsim.errors import ConfigError
from wcsim.spec import StateSpec, Values


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an estimator says of N frames, or a simulator of N states.

    values: quantity name to `[N, size]`, NaN where not found.  found: name to `[N]` bool.  progress: `[N]` in [0, 1],
    the task's own measure, 0 where it is unknown.  success: `[N]` bool.  shape_ok: `[N]` bool, the frame shows
    every thing once and whole.  fit: name to `[N]` in [0, 1], how well what is seen agrees with the value; optional.
    """

    values: dict[str, np.ndarray]
    found: dict[str, np.ndarray]
    progress: np.ndarray
    success: np.ndarray
    shape_ok: np.ndarray
    fit: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.success)

    def select(self, lanes: int | np.integer[Any] | slice | np.ndarray | list[int]) -> Self:
        """Some of the N, by an index, a slice or a mask; one number keeps its axis."""
        at = np.atleast_1d(lanes) if isinstance(lanes, int | np.integer) else lanes
        values, found, fit = ({key: value[at] for key, value in table.items()}
                              for table in (self.values, self.found, self.fit))
        return type(self)(values, found, self.progress[at], self.success[at], self.shape_ok[at], fit)

    def put(self, lanes: np.ndarray, other: Self) -> Self:
        """This estimate with the given lanes replaced by those of `other`."""
        def placed(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            result = old.copy()
            result[lanes] = new
            return result

        values, found, fit = ({key: placed(value, getattr(other, name)[key])
                               for key, value in getattr(self, name).items()} for name in ("values", "found", "fit"))
        return type(self)(values, found, placed(self.progress, other.progress), placed(self.success, other.success),
                          placed(self.shape_ok, other.shape_ok), fit)

    def told(self, values: Values, *, all_of: bool = False) -> Self:
        """This estimate with quantities `[N, size]` that are known from elsewhere, where they are finite: those that
        were not found, or `all_of` them."""
        seen, found = dict(self.values), dict(self.found)
        for name, value in values.items():
            known = np.isfinite(value).all(-1) & (all_of | ~self.found[name])
            seen[name] = np.where(known[:, None], value, seen[name])
            found[name] = found[name] | known
        return replace(self, values=seen, found=found)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Several estimates one after the other."""
        progress, success, shape_ok = (np.concatenate([getattr(part, name) for part in parts])
                                       for name in ("progress", "success", "shape_ok"))
        values, found, fit = ({key: np.concatenate([getattr(part, name)[key] for part in parts])
                               for key in getattr(parts[0], name)} for name in ("values", "found", "fit"))
        return cls(values, found, progress, success, shape_ok, fit)

    @classmethod
    def exact(cls, values: Values, *, progress: np.ndarray, success: np.ndarray) -> Self:
        """The estimate of one that sees the simulator's state: everything is found and whole."""
        yes = np.ones(len(success), dtype=bool)
        return cls({name: np.asarray(value, np.float64) for name, value in values.items()},
                   dict.fromkeys(values, yes), np.asarray(progress, np.float64), np.asarray(success, bool), yes)

    @classmethod
    def nothing(cls, spec: StateSpec, count: int) -> Self:
        """The estimate of one that finds nothing in `count` frames."""
        no = np.zeros(count, dtype=bool)
        return cls(spec.unknown(count), dict.fromkeys(spec.names, no), np.zeros(count), no, no)


@dataclass(frozen=True, slots=True)
class Goal:
    """Where an episode shall end.  values: quantity name to `[size]`, of the quantities that count.  frame: the mosaic
    `[H, W, 3]` uint8 that shows it, where one is at hand."""

    values: dict[str, np.ndarray]
    frame: np.ndarray | None = None

    def errors(self, spec: StateSpec, values: Values) -> dict[str, np.ndarray]:
        """Metric name to the distance `[...]` to the goal; infinite where a quantity was not found."""
        return {spec[name].metric: np.nan_to_num(spec[name].error(values[name], wanted), nan=inf)
                for name, wanted in self.values.items()}

    def reached(self, spec: StateSpec, values: Values, within: Mapping[str, float]) -> np.ndarray:
        """`[...]` bool: all errors of one unit together (their root sum of squares) are below `within` of that unit.

        This is the rule of DINO-WM and stable-worldmodel: positions together within 20 px, the angle
        within 20 degrees.  Raises ConfigError where `within` lacks a unit.
        """
        by_unit: dict[str, list[np.ndarray]] = {}
        for name in self.values:
            by_unit.setdefault(spec[name].error_unit, []).append(self.errors(spec, values)[spec[name].metric])
        missing = set(by_unit) - set(within)
        if missing:
            raise ConfigError(f"a tolerance is needed for {', '.join(sorted(missing))}, given {dict(within)}")
        reached: np.ndarray = np.all([np.sqrt(np.square(errors).sum(0)) < within[unit]
                                      for unit, errors in by_unit.items()], axis=0)
        return reached


@dataclass(frozen=True, slots=True)
class Episode:
    """What a policy may know before the first step of an episode.

    number: which one, from 0; seed: of its start and its noise.  Together with the step they number everything random
    in a policy.  instruction: the task in words.  goal: None where the task has no goal of its own.  actions: recorded
    ones `[T, A]`, of a replayed recording or of the goal's demonstrator.
    """

    number: int
    seed: int
    instruction: str = ""
    goal: Goal | None = None
    actions: np.ndarray | None = None
