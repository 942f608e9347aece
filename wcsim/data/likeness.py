"""What must agree with other recordings, or with a world: fps, names, scale of actions, sign of the gripper.

Easy to get wrong: a world says bounds, not how large actions usually are, so its scale is compared loosely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wcsim.data.faults import Fault, Numbers, correlate, gripper_of
from wcsim.data.lags import compare_lags
from wcsim.data.recordings import RecordingsSpec, Signal

SCALE = 4.0
"""Factor from which on the spread of actions counts as another scale."""

BOUNDS_SCALE = 20.0
"""The same against the bounds of a world."""


@dataclass(frozen=True, slots=True)
class Like:
    """What to compare with.  name: in messages.  numbers: of other recordings; None: of a world, bounds alone."""

    name: str
    fps: float | None
    action: Signal
    numbers: Numbers | None = None


def compare(spec: RecordingsSpec, numbers: Numbers, like: Like) -> list[Fault]:
    """All that disagrees."""
    faults = compare_fps(spec, like)
    mine, theirs = spec.action, like.action
    if mine.dim != theirs.dim or (mine.told and theirs.told and mine.names != theirs.names):
        return [*faults, Fault("action_count" if mine.dim != theirs.dim else "missing", "",
                               f"actions are {', '.join(mine.names)}; those of {like.name} are "
                               f"{', '.join(theirs.names)}")]
    if mine.units and theirs.units and mine.units != theirs.units:
        faults.append(Fault("action_scale", "", f"actions are in {mine.units}; those of {like.name} in {theirs.units}"))
    if not len(numbers.all_actions):
        return faults
    if like.numbers is None:
        return [*faults, *_bounds(numbers, like)]
    return [*faults, *compare_lags(numbers, like.numbers, like.name), *_scale(numbers, like.numbers, like.name),
            *_gripper(numbers, like.numbers, like.name)]


def against_state(numbers: Numbers) -> list[Fault]:
    """Changes that are too small or large for how the state moves, and a gripper that goes against the state's.

    Only where names pair them (dx or delta_x with x, the gripper with the gripper) and both are said to be in the same
    units.
    """
    state = numbers.state
    if state is None or not numbers.states or not state.units or state.units != numbers.action.units:
        return []
    moves = np.concatenate([np.diff(part, axis=0) for part in numbers.states])
    actions, slopes = numbers.all_actions, []
    for place, name in enumerate(numbers.action.names):
        other = next((name.removeprefix(mark) for mark in ("delta_", "d_", "d") if name.startswith(mark)), "")
        if name not in numbers.action.absolute and other in state.names:
            a, b = actions[:, place], moves[:, state.names.index(other)]
            if correlate(a[:, None], b[:, None])[0, 0] > 0.8:
                slopes.append(float(a @ b / (a @ a)))
    faults = []
    ratio = float(np.median(slopes)) if slopes else 1.0
    if not 1 / SCALE < ratio < SCALE:
        words = f"{ratio:.3g} times too small" if ratio > 1 else f"{1 / ratio:.3g} times too large"
        faults.append(Fault("action_scale", "", f"actions are {words} for the moves of the state"))
    grip = gripper_of(numbers.action)
    if grip is not None and _gripper_against_state(numbers, grip) < -0.5:
        faults.append(Fault("gripper_sign", "", f"the gripper ({numbers.action.names[grip]}) goes the other way than "
                            "that of the state: open and closed are exchanged"))
    return faults


def compare_fps(spec: RecordingsSpec, like: Like) -> list[Fault]:
    """Whether every n-th frame is what the other needs."""
    if spec.fps is None or like.fps is None:
        return []
    ratio = spec.fps / like.fps
    if ratio >= 0.999 and abs(ratio - round(ratio)) < 1e-3 * ratio:
        return []
    return [Fault("fps", "", f"{spec.fps:g} fps is no whole multiple of the {like.fps:g} of {like.name}")]


def _bounds(numbers: Numbers, like: Like) -> list[Fault]:
    if not like.action.low:
        return []
    actions = numbers.all_actions
    low, high = np.array(like.action.low), np.array(like.action.high)
    used = np.flatnonzero((high > low) & np.isfinite(high - low) & (np.ptp(actions, axis=0) > 0))
    outside = [number for number in range(actions.shape[1])
               if (actions[:, number] < low[number]).any() or (actions[:, number] > high[number]).any()]
    faults = []
    if outside:
        first = outside[0]
        faults.append(Fault("action_scale", "", f"{like.action.names[first]} reaches {actions[:, first].min():.4g} to "
                            f"{actions[:, first].max():.4g}; {like.name} takes {low[first]:g} to {high[first]:g}"))
    elif len(used):
        share = np.median([np.ptp(actions[:, number]) / (high[number] - low[number]) for number in used])
        if share < 1 / BOUNDS_SCALE:
            faults.append(Fault("action_scale", "", f"actions span {share:.1%} of the bounds of {like.name}; they look "
                                f"{1 / share:.3g} times too small"))
    return faults


def _scale(mine: Numbers, theirs: Numbers, name: str) -> list[Fault]:
    a, b = mine.all_actions, theirs.all_actions
    grips = {gripper_of(mine.action), gripper_of(theirs.action)}
    sizes = np.array([[_spread(part[:, number]) for part in (a, b)] for number in range(a.shape[1])
                      if number not in grips])
    sizes = sizes[(sizes > 0).all(1)] if len(sizes) else sizes
    if not len(sizes):
        return []
    ratio = float(np.exp(np.median(np.log(sizes[:, 0] / sizes[:, 1]))))
    if 1 / SCALE < ratio < SCALE:
        return []
    words = f"{1 / ratio:.3g} times too small" if ratio < 1 else f"{ratio:.3g} times too large"
    return [Fault("action_scale", "", f"actions are {words} against those of {name}")]


def _spread(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.95) - np.quantile(values, 0.05)) or float(values.std())


def _gripper(mine: Numbers, theirs: Numbers, name: str) -> list[Fault]:
    at = gripper_of(mine.action)
    if at is None or at != gripper_of(theirs.action):
        return []
    signs = [_gripper_against_state(part, at) for part in (mine, theirs)]
    if min(map(abs, signs)) < 0.5:
        signs = [_gripper_at_start(part, at) for part in (mine, theirs)]
    if min(map(abs, signs)) < 0.5 or signs[0] * signs[1] > 0:
        return []
    return [Fault("gripper_sign", "", f"the gripper ({mine.action.names[at]}) goes the other way than in {name}: open "
                  "and closed are exchanged")]


def _gripper_against_state(numbers: Numbers, at: int) -> float:
    """Correlation of the commanded gripper with the state's, after the action; 0 where the state has none."""
    grip = gripper_of(numbers.state) if numbers.state is not None and numbers.states else None
    if grip is None:
        return 0.0
    after = np.concatenate([part[1:, grip : grip + 1] for part in numbers.states])
    return float(correlate(numbers.all_actions[:, at : at + 1], after)[0, 0])


def _gripper_at_start(numbers: Numbers, at: int) -> float:
    """1 where all episodes begin with the gripper's number high, -1 where low."""
    values = numbers.all_actions[:, at]
    middle = (values.max() + values.min()) / 2
    if values.max() == values.min():
        return 0.0
    return float(np.mean([np.sign(part[0, at] - middle) for part in numbers.actions]))
