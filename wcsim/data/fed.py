"""Whether the actions of recordings are those that a world was trained on: names, units, kinds and scale.

What is written down is compared by name.  What is not shows in the numbers: actions in other units than the world's
hardly move a robot.  Easy to get wrong: a joint that rests, or a gripper that stays open, tells nothing of units.

Shapes: T actions, A action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wcsim.data.recordings import Recordings, Signal
from wcsim.errors import ConfigError, DataError

if TYPE_CHECKING:
    from wcsim.types import ActionSpec

LEAST, LOOKS = 0.04, 16
"""Share of the bounds that half of the moving numbers of some actions must reach, and episodes that are looked at."""


def check_signal(where: object, told: Signal, spec: ActionSpec, *, converted: bool) -> None:
    """Raise ConfigError where recordings say of their actions what a world's do not mean.  converted: whether their
    units were asked to be turned into the world's."""
    if told.dim != spec.dim or (told.told and told.names != spec.names):
        raise ConfigError(f"{where} has the actions {short(told.names)}; the convention has {short(spec.names)}")
    if told.units and told.units != spec.units and not converted:
        raise ConfigError(f"{where} has actions in {told.units!r}; the convention's are in {spec.units!r}; say "
                          "action_scale to convert them")
    if told.absolute and set(told.absolute) != set(spec.absolute):
        raise ConfigError(f"{where} has the values to hold {short(told.absolute)}, the convention "
                          f"{short(spec.absolute) or 'none'}; all others are changes")


def check_scale(recordings: Recordings, spec: ActionSpec) -> None:
    """Raise DataError where actions use so little of the bounds that they must be in other units."""
    numbers = np.unique(np.linspace(0, len(recordings.episodes) - 1, LOOKS).round().astype(int)).tolist()
    share = reach(spec, np.concatenate([recordings.episode(number).actions for number in numbers]))
    if share is not None and share < LEAST:
        raise DataError(f"{recordings.path} has actions that use {100 * share:.2g}% of the world's bounds; they look "
                        "like other units: say action_scale, the factor into the world's (1 where they are right)",
                        kind="action_scale")


def reach(spec: ActionSpec, actions: np.ndarray) -> float | None:
    """The median, over numbers that move, of the share of their bounds that actions `[T, A]` use; None where none
    does, or the actions are not finite.  Changes are measured from zero, values to hold from their least."""
    array = np.asarray(actions, np.float64)
    if not len(array) or not np.isfinite(array).all():
        return None
    low, high, span = np.asarray(spec.low), np.asarray(spec.high), np.ptp(array, axis=0)
    change = np.abs(array).max(0) / np.maximum(np.abs(low), np.abs(high))
    held = span / (high - low)
    used = np.where(np.isin(spec.names, spec.absolute), held, change)[span > 0]
    return float(np.median(used)) if len(used) else None


def short(names: Sequence[str]) -> str:
    """Names in a message, eight at most."""
    return ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")
