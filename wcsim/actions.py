"""Actions on their way in: checked once, then turned into the numbers that the transformer sees.

Nothing is clipped or repaired: an action that the task does not allow is refused before any model runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wcsim.errors import ActionError

if TYPE_CHECKING:
    from wcsim.types import ActionSpec


def check_action(spec: ActionSpec, actions: Any) -> np.ndarray:
    """`actions` `[..., A]` as float32, once known to be real, finite and within the bounds of `spec` (inclusive).

    Raises ActionError where they are not; its message names the first offender.
    """
    array = np.asarray(actions)
    if array.dtype.kind not in "fiu":
        raise ActionError(f"actions have dtype {array.dtype}; they must be real numbers (float or integer)")
    if array.ndim == 0 or array.shape[-1] != spec.dim:
        raise ActionError(f"actions have shape {array.shape}; the last axis must be {spec.dim}: {_ranges(spec)}")
    if not np.isfinite(array).all():
        raise ActionError(f"{_first(spec, array, ~np.isfinite(array))} is not finite; allowed: {_ranges(spec)}")
    low, high = bounds(spec)
    outside = (array < low) | (array > high)
    if outside.any():
        raise ActionError(f"{_first(spec, array, outside)} is out of range; allowed: {_ranges(spec)}")
    return array.astype(np.float32)


def bounds(spec: ActionSpec) -> tuple[np.ndarray, np.ndarray]:
    """Least and most of each number of an action, float64 `[A]`, as written or as float32 has them, whichever is wider:
    the action space is float32, and 1.1 in it is a little more than 1.1."""
    low, high = np.asarray(spec.low, np.float64), np.asarray(spec.high, np.float64)
    return np.minimum(low, low.astype(np.float32)), np.maximum(high, high.astype(np.float32))


def normalise(spec: ActionSpec, actions: np.ndarray) -> np.ndarray:
    """Actions `[..., A]` in the units of `spec` to float32 in [-1, 1]: `low` to -1, `high` to 1; or times its scale,
    plus its offset, which may reach further unless the spec clamps."""
    given = np.asarray(actions, dtype=np.float64)
    if spec.scale:
        seen = given * np.asarray(spec.scale) + (np.asarray(spec.offset) if spec.offset else 0.0)
    else:
        low, high = np.asarray(spec.low, dtype=np.float64), np.asarray(spec.high, dtype=np.float64)
        seen = 2.0 * (given - low) / (high - low) - 1.0
    kept: np.ndarray = np.clip(seen, -1.0, 1.0) if spec.clamp else seen
    return kept.astype(np.float32)


def rest_of(spec: ActionSpec) -> np.ndarray:
    """Features `[F]` of an action that changes nothing; where a dimension is absolute, they mean nothing."""
    return features(spec, np.asarray(spec.rest or (0.0,) * spec.dim))


def held(spec: ActionSpec) -> np.ndarray:
    """Which of the features `[F]`, of a spec without octaves, belong to an absolute dimension."""
    names, first = np.isin(spec.names, spec.absolute), spec.slots[0] if spec.slots else 0
    found = np.zeros(spec.num_features, bool)
    found[first : first + spec.dim] = names
    return found


def features(spec: ActionSpec, actions: np.ndarray) -> np.ndarray:
    """Actions `[..., A]` to float32 `[..., F]`, F = `spec.num_features`, as the transformer sees them.

    In this order: the normalised coordinates a, then for each octave o below `spec.fourier_octaves` sin(pi 2^o a) of
    every coordinate, then cos(pi 2^o a) of every coordinate; in its slots, with zeros around, where a spec has any.
    """
    coordinates = normalise(spec, actions)
    angles = [np.pi * 2.0**octave * coordinates.astype(np.float64) for octave in range(spec.fourier_octaves)]
    waves = [wave(angle).astype(np.float32) for angle in angles for wave in (np.sin, np.cos)]
    found = np.concatenate([coordinates, *waves], axis=-1)
    if spec.slots is None:
        return found
    first, count = spec.slots
    around = [(0, 0)] * (found.ndim - 1) + [(first, count - first - found.shape[-1])]
    return np.pad(found, around)


def _ranges(spec: ActionSpec) -> str:
    """The bounds of `spec` in words."""
    bounds = (f"{name} in [{low:g}, {high:g}]"
              for name, low, high in zip(spec.names, spec.low, spec.high, strict=True))
    return f"{', '.join(bounds)} ({spec.units})"


def _first(spec: ActionSpec, array: np.ndarray, wrong: np.ndarray) -> str:
    """The first element of `array` where `wrong`, with its name and place."""
    place = tuple(int(index) for index in np.argwhere(wrong)[0])
    where = f" at {place[:-1]}" if place[:-1] else ""
    return f"{spec.names[place[-1]]}{where} = {array[place]}"
