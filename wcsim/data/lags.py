"""Whether actions belong to the moves of the state that they are written beside, by correlation at several lags.

An action is compared as a change, and as a value to reach, with how the state moves.  Easy to get wrong: smooth moves
correlate at many lags, so what counts is how much less is left unexplained at another lag than at none.

Shapes: T actions, A action, R robot state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wcsim.data.faults import Fault, Numbers, correlate

MAX_LAG = 10
MIN_ROWS = 30
STRONG, MARGIN, LEFT = 0.5, 0.15, 2.0
"""A lag counts where its correlation is above STRONG, and beats that of no lag by MARGIN, or leaves LEFT times less of
the variance."""


def find_lag(numbers: Numbers) -> list[Fault]:
    """A fault where most actions that move the state at all do so at one and the same other tick."""
    if not numbers.states:
        return _lag_of_motion(numbers)
    return _verdict(_voices(numbers), "the moves of the state")


def compare_lags(mine: Numbers, theirs: Numbers, name: str) -> list[Fault]:
    """A fault where the actions move the state at another tick than in other recordings of the same robot."""
    if not (mine.states and theirs.states) or find_lag(mine):
        return []
    peaks = []
    for voices in (_voices(mine, natural=False), _voices(theirs, natural=False)):
        lags = [lag for lag, _, _ in voices]
        peaks.append(max(sorted(set(lags)), key=lags.count) if lags else None)
    if None in peaks or peaks[0] == peaks[1]:
        return []
    return [Fault("action_lag", "", f"actions move the state {peaks[0]} ticks later, those of {name} {peaks[1]} ticks")]


def _voices(numbers: Numbers, *, natural: bool = True) -> list[tuple[int, float, float]]:
    """Of every action that moves the state, its lag, the correlation there and without a lag."""
    lags = range(-MAX_LAG, MAX_LAG + 1)
    change, target = _as_changes(numbers, lags), _as_targets(numbers, lags)
    voices = []
    for one in range(numbers.action.dim):
        curves = [change[:, one, other] for other in range(change.shape[2])]
        if target is not None:
            curves.append(target[:, one])
        strengths = [float(np.abs(curve).max()) for curve in curves]
        best = int(np.argmax(strengths))
        if strengths[best] > STRONG:
            slow = target is not None and best == len(curves) - 1
            voices.append(_lag(np.abs(curves[best]), most_natural=1 if slow and natural else 0))
    return voices


def _lag_of_motion(numbers: Numbers) -> list[Fault]:
    """Without a state: how much is done against how much the picture changes."""
    if not numbers.motion:
        return []
    size = [np.linalg.norm((part - part.mean(0)) / (part.std(0) + 1e-9), axis=1, keepdims=True)
            for part in numbers.actions]
    voices = []
    for efforts in (size, [np.vstack([np.zeros((1, 1)), np.linalg.norm(np.diff(part, axis=0), axis=1, keepdims=True)])
                           for part in numbers.actions]):
        curve = np.abs(_curve(efforts, [part[:, None] for part in numbers.motion], range(-MAX_LAG, MAX_LAG + 1)))
        voices.append((float(curve.max()), curve[:, 0, 0]))
    strength, curve = max(voices, key=lambda voice: voice[0])
    return _verdict([_lag(curve, most_natural=1)] if strength > STRONG else [], "the changes of the picture")


def _as_changes(numbers: Numbers, lags: range) -> np.ndarray:
    return _curve(numbers.actions, [np.diff(part, axis=0) for part in numbers.states], lags)


def _as_targets(numbers: Numbers, lags: range) -> np.ndarray | None:
    """`[lags, A]`: the way from the state to the action against the move of the state, number by number."""
    pairs = _pairs(numbers)
    if pairs is None:
        return None
    moves = [np.diff(part, axis=0) for part in numbers.states]
    rows = []
    for lag in lags:
        ways, gone = [], []
        for action, state, move in zip(numbers.actions, numbers.states, moves, strict=True):
            at, then = _shifted(len(action), lag)
            ways.append(action[at] - state[then][:, pairs])
            gone.append(move[then][:, pairs])
        way, go = np.concatenate(ways), np.concatenate(gone)
        rows.append(np.diagonal(correlate(way, go)) if len(way) >= MIN_ROWS else np.zeros(len(pairs)))
    return np.array(rows)


def _pairs(numbers: Numbers) -> list[int] | None:
    """Which number of the state an action is called like; by place where both are as many; None where neither is."""
    assert numbers.state is not None
    names = numbers.state.names
    if all(name in names for name in numbers.action.names):
        return [names.index(name) for name in numbers.action.names]
    return list(range(numbers.action.dim)) if len(names) == numbers.action.dim else None


def _curve(actions: Sequence[np.ndarray], moves: Sequence[np.ndarray], lags: range) -> np.ndarray:
    """Correlations `[lags, A, R]` of actions with the moves some ticks later."""
    rows = []
    for lag in lags:
        places = [_shifted(len(part), lag) for part in actions]
        a = np.concatenate([part[at] for part, (at, _) in zip(actions, places, strict=True)])
        b = np.concatenate([part[then] for part, (_, then) in zip(moves, places, strict=True)])
        rows.append(correlate(a, b) if len(a) >= MIN_ROWS else np.zeros((a.shape[1], b.shape[1])))
    return np.array(rows)


def _shifted(length: int, lag: int) -> tuple[slice, slice]:
    """Where the actions are, and the moves `lag` ticks later."""
    if abs(lag) >= length:
        return slice(0, 0), slice(0, 0)
    return slice(max(-lag, 0), length - max(lag, 0)), slice(max(lag, 0), length - max(-lag, 0))


def _lag(curve: np.ndarray, *, most_natural: int) -> tuple[int, float, float]:
    """The lag of the peak, its correlation and that of no lag; 0 where it is not clearly better.

    most_natural: up to how many ticks later a controller may well be.
    """
    lag = int(np.argmax(curve)) - MAX_LAG
    best = float(curve.max())
    none = float(curve[MAX_LAG : MAX_LAG + most_natural + 1].max())
    clearly = best - none > MARGIN or 1.0 - none**2 > LEFT * (1.0 - best**2 + 1e-9)
    return (lag if clearly else 0), best, none


def _verdict(voices: Sequence[tuple[int, float, float]], what: str) -> list[Fault]:
    lags = [lag for lag, _, _ in voices]
    if not lags:
        return []
    lag = max(sorted(set(lags)), key=lags.count)
    if lag == 0 or lags.count(lag) * 2 <= len(lags):
        return []
    best, none = (float(np.median([voice[place] for voice in voices if voice[0] == lag])) for place in (1, 2))
    side = "late" if lag < 0 else "early"
    return [Fault("action_lag", "", f"actions agree best with {what} {abs(lag)} ticks "
                  f"{'later' if lag > 0 else 'before'} (correlation {best:.2f}, {none:.2f} without a lag): they are "
                  f"written {abs(lag)} ticks too {side}")]
