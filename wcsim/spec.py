"""What a task measures, by name: the quantities of a robot and its scene.  Only numpy is needed here.

A `StateSpec` replaces every fixed idea of what a robot and its scene are made of: observations, estimation, success,
goals, objectives, error curves, tables and videos iterate over it.  Easy to get wrong: a quantity that was not found is
NaN, stays NaN, and is never taken for an action or clipped to the bounds of anything but itself.

Shapes: `...` any leading axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Literal, Self

import numpy as np

from wcsim.errors import ConfigError

Kind = Literal["position", "angle", "quaternion", "scalar", "binary"]
"""position: a point, compared by Euclidean distance.  angle: radians, compared by the smallest turn.  quaternion: w, x,
y, z, compared by the angle between rotations.  scalar: compared number by number.  binary: 0 or 1, compared by whether
they differ."""

Role = Literal["robot", "scene"]
"""robot: the robot's own state (proprioception), which policies are given.  scene: the rest, only estimated."""

Values = Mapping[str, np.ndarray]
"""Quantity name to float64 `[..., size]`, NaN where not found."""

SIZES: dict[str, tuple[int, ...]] = {"angle": (1,), "quaternion": (4,), "binary": (1,)}
"""Sizes that a kind allows; the others take any."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One named quantity of a task's state.

    size: how many numbers.  unit: of these numbers; angles are in rad, quaternions in 1.  goal: whether the task's goal
    is given in it.  low, high: bounds of each number in observations, infinite where unknown.  weight: what an error of
    one unit costs in a distance to the goal (`wcsim.agents.objectives.StateGoal`), in units of the first quantity.
    moved: change from which on it counts as moved.  lost: error from which on it counts as lost, infinite for never.
    Both are in `error_unit`.  symmetry: of an angle, how many turns of the thing in a full one look alike: 4 for a
    square, whose turn by 90 degrees is none.
    """

    name: str
    size: int
    unit: str
    kind: Kind
    role: Role = "scene"
    goal: bool = False
    low: float = -inf
    high: float = inf
    weight: float = 1.0
    moved: float = 0.0
    lost: float = inf
    symmetry: int = 1

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f"a quantity's name is letters, digits and '_', got {self.name!r}")
        allowed = SIZES.get(self.kind)
        if self.size < 1 or (allowed is not None and self.size not in allowed):
            raise ConfigError(f"quantity {self.name!r} of kind {self.kind!r} has size {self.size}; "
                              f"allowed: {allowed or '1 or more'}")
        if self.symmetry < 1 or (self.symmetry > 1 and self.kind != "angle"):
            raise ConfigError(f"quantity {self.name!r} of kind {self.kind!r} has symmetry {self.symmetry}; "
                              "an angle's is 1 or more, any other kind's is 1")
        if not self.low < self.high:
            raise ConfigError(f"quantity {self.name!r} has low {self.low:g} and high {self.high:g}; low must be less")

    @property
    def error_unit(self) -> str:
        """Unit of `error`: degrees for rotations, a share for binary ones, else the quantity's own."""
        return {"angle": "deg", "quaternion": "deg", "binary": "wrong"}.get(self.kind, self.unit)

    @property
    def metric(self) -> str:
        """Name of its error in tables: name and unit, as `cube_cm` or `hand_angle_deg`."""
        return f"{self.name}_{self.error_unit}"

    @property
    def most(self) -> float:
        """Most that an error counts in a mean over rollouts: a quarter of the range, 90 degrees (less for a
        thing of symmetry); infinite without bounds."""
        if self.error_unit == "deg":
            return 90.0 / self.symmetry
        return (self.high - self.low) / 4.0 if self.kind != "binary" else 1.0

    def error(self, value: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """How far `value` `[..., size]` is from `reference`, `[...]` >= 0 in `error_unit`; NaN where either is."""
        a, b = np.asarray(value, np.float64), np.asarray(reference, np.float64)
        if a.shape[-1:] != (self.size,) or b.shape[-1:] != (self.size,):
            raise ValueError(f"{self.name} has {self.size} numbers, got shapes {list(a.shape)} and {list(b.shape)}")
        if self.symmetry > 1:
            return _turn(a * self.symmetry, b * self.symmetry) / self.symmetry
        return _ERRORS[self.kind](a, b)


def _turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    turn: np.ndarray = np.degrees(np.abs(np.mod((a - b)[..., 0] + np.pi, 2.0 * np.pi) - np.pi))
    return turn


def _rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (q / np.linalg.norm(q, axis=-1, keepdims=True) for q in (a, b))
    turn: np.ndarray = np.degrees(2.0 * np.arccos(np.clip(np.abs((a * b).sum(-1)), 0.0, 1.0)))
    return turn


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    unknown = np.isnan(a) | np.isnan(b)
    return np.where(unknown, np.nan, (a > 0.5) != (b > 0.5))[..., 0]


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # hypot, not a norm over squares: exact where one coordinate is equal.
    apart = a - b
    if apart.shape[-1] == 2:
        return np.asarray(np.hypot(apart[..., 0], apart[..., 1]))
    return np.asarray(np.linalg.norm(apart, axis=-1))


_ERRORS = {"position": _distance, "scalar": _distance, "angle": _turn, "quaternion": _rotation, "binary": _differ}


@dataclass(frozen=True, slots=True)
class StateSpec:
    """The quantities of a task, in order.  progress: what the task calls its own measure of success, 0 to 1 (say the
    share of a goal that is covered); it is a name for tables and pages."""

    quantities: tuple[Quantity, ...]
    progress: str = "progress"

    def __post_init__(self) -> None:
        names = [quantity.name for quantity in self.quantities]
        if len(set(names)) != len(names):
            raise ConfigError(f"quantities have different names, got {', '.join(names)}")

    def __iter__(self) -> Iterator[Quantity]:
        return iter(self.quantities)

    def __len__(self) -> int:
        return len(self.quantities)

    def __getitem__(self, name: str) -> Quantity:
        for quantity in self.quantities:
            if quantity.name == name:
                return quantity
        raise ConfigError(f"quantity {name!r} is unknown; known: {', '.join(self.names) or 'none'}")

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in order."""
        return tuple(quantity.name for quantity in self.quantities)

    @property
    def robot(self) -> tuple[Quantity, ...]:
        """The robot's own state, `agent_pos` in observations."""
        return tuple(quantity for quantity in self.quantities if quantity.role == "robot")

    @property
    def scene(self) -> tuple[Quantity, ...]:
        """All else, `environment_state` in what policies see."""
        return tuple(quantity for quantity in self.quantities if quantity.role == "scene")

    @property
    def goal(self) -> tuple[Quantity, ...]:
        """Those in which the task's goal is given."""
        return tuple(quantity for quantity in self.quantities if quantity.goal)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all errors, in order."""
        return tuple(quantity.metric for quantity in self.quantities)

    def errors(self, values: Values, reference: Values) -> dict[str, np.ndarray]:
        """Metric name to the error `[...]` of every quantity that both have."""
        return {quantity.metric: quantity.error(values[quantity.name], reference[quantity.name])
                for quantity in self.quantities if quantity.name in values and quantity.name in reference}

    def unknown(self, *lead: int) -> dict[str, np.ndarray]:
        """Values of leading shape `lead` of which nothing is known: all NaN."""
        return {quantity.name: np.full((*lead, quantity.size), np.nan) for quantity in self.quantities}

    def to_json(self) -> dict[str, Any]:
        """As plain values, for manifests and pages."""
        return {"progress": self.progress, "quantities": [
            {"name": q.name, "size": q.size, "unit": q.unit, "kind": q.kind, "role": q.role, "goal": q.goal,
             "low": q.low if isfinite(q.low) else None, "high": q.high if isfinite(q.high) else None,
             "weight": q.weight, "moved": q.moved, "lost": q.lost if isfinite(q.lost) else None,
             **({"symmetry": q.symmetry} if q.symmetry > 1 else {}), "metric": q.metric} for q in self.quantities]}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Self:
        """What `to_json` made."""
        rows = [{key: value for key, value in row.items() if key != "metric"} for row in described["quantities"]]
        unbounded = {"low": -inf, "high": inf, "lost": inf}
        whole: list[dict[str, Any]] = [
            {key: unbounded[key] if value is None else value for key, value in row.items()} for row in rows]
        return cls(tuple(Quantity(**row) for row in whole), described["progress"])


def wrap_angle(angle: np.ndarray) -> np.ndarray:
    """Angles in radians to (-pi, pi]."""
    wrapped: np.ndarray = np.pi - np.mod(np.pi - angle, 2 * np.pi)
    return wrapped


def flatten(quantities: Sequence[Quantity], values: Values) -> np.ndarray:
    """The values of some quantities side by side, float64 `[..., sum of sizes]`."""
    if not quantities:
        lead = next(iter(values.values())).shape[:-1] if values else ()
        return np.zeros((*lead, 0))
    return np.concatenate([np.asarray(values[quantity.name], np.float64) for quantity in quantities], axis=-1)


def split(quantities: Sequence[Quantity], array: np.ndarray) -> dict[str, np.ndarray]:
    """The reverse of `flatten`.  Raises ValueError where the last axis does not fit."""
    total = sum(quantity.size for quantity in quantities)
    if array.shape[-1:] != (total,):
        raise ValueError(f"a state of {', '.join(q.name for q in quantities)} has {total} numbers, "
                         f"got {list(array.shape)}")
    ends = np.cumsum([quantity.size for quantity in quantities])
    return {q.name: array[..., end - q.size : end] for q, end in zip(quantities, ends, strict=True)}
