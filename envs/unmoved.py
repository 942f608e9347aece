"""What is refused changes nothing: environments, wrappers and truths are put back where a call does not come through.

Inputs are checked before anything acts.  This is for what fails on the way: a wrapper's reward that is no number after
the first lane has stepped, a truth that cannot be restored, a simulator that gives up.  Easy to get wrong: attributes
and containers are put back as they were, but what a wrapper changes in place inside an object of its own is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np

from wcsim.errors import WcsimError

Undo = Callable[[], object]


@contextmanager
def unmoved(*envs: Any) -> Iterator[None]:
    """Within, nothing moves unless all comes through: after an error every environment, with all that it wraps, is as
    it was before."""
    undone = [undo for env in envs for layer in layers(env) for undo in undoing(layer)]
    try:
        yield
    except BaseException:
        for undo in undone:
            undo()
        raise


def layers(env: Any) -> list[Any]:
    """An environment and all that it wraps."""
    found = [env]
    while isinstance(found[-1], gym.Wrapper):
        found.append(found[-1].env)
    return found


def undoing(layer: Any) -> list[Undo]:
    """What puts the attributes of a layer back, the containers and generators in them, and a truth."""
    attributes = dict(vars(layer))
    inner = [undo for value in attributes.values() if (undo := undo_of(value)) is not None]
    return [lambda: (vars(layer).clear(), vars(layer).update(attributes)), *inner]


def undo_of(value: Any) -> Undo | None:
    """What puts a changeable value back in place; None for any other."""
    if isinstance(value, list):
        return _refill(value, list(value), value.extend)
    if isinstance(value, deque):
        return _refill(value, list(value), value.extend)
    if type(value) is dict:
        return _refill(value, dict(value), value.update)
    if isinstance(value, np.random.Generator):
        state = deepcopy(value.bit_generator.state)
        return lambda: setattr(value.bit_generator, "state", state)
    if isinstance(value, gym.Env) or not (hasattr(value, "snapshot") and hasattr(value, "restore")):
        return None
    return _undo_truth(value)


def _refill(value: Any, kept: Any, fill: Callable[[Any], object]) -> Undo:
    return lambda: (value.clear(), fill(kept))


def _undo_truth(truth: Any) -> Undo | None:
    """What takes a simulator back; None where it has not begun, so that there is nothing to go back to."""
    try:
        snapshot = truth.snapshot()
    except WcsimError:
        return None
    return lambda: truth.restore(snapshot)
