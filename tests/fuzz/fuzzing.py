"""Bad input by the thousand: strange values, damaged bytes, and the check that all of it ends in one clear error.

Every input follows from its number, so a failure is repeated by that number alone.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np

from wcsim.errors import WcsimError
from wcsim.registry import only_allowed

SECONDS = 20
"""For one input."""

Act = Callable[[np.random.Generator], None]
"""Feeds an entry point with the input that follows from a generator."""

STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, -(2**63), 0.5, -1.5, 1e308,
    float("nan"), float("inf"), "", "x", "../../x",
    "os:system", "cpu", "cuda", "abacus", "a\nb", "\x00", "[red]", "1:30", "none", "x" * 5000, [], {}, [[]], [{}],
    {"kind": "hold"}, {"kind": None}, {"preset": "wcsim"}, {"": 1}, [1, 2, 3], ["a"], [None], {"a": {"b": {}}},
]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after so long."""
    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(kind: str, act: Act, numbers: range) -> None:
    """Every input by its number: an own error or none, in time."""
    for number in numbers:
        try:
            with within(SECONDS), only_allowed([]):
                act(np.random.default_rng([7, number]))
        except WcsimError as error:
            if not 0 < len(str(error).strip()) < 50_000:
                raise AssertionError(f"{kind} {number}: a message of {len(str(error))} letters") from error
        except Exception as error:
            raise AssertionError(f"{kind} {number}: {type(error).__name__}: {error}") from error


@contextmanager
def unchanged(seen: Callable[[], Any]) -> Iterator[None]:
    """Within, an own error leaves what `seen` sees as it was."""
    before = seen()
    try:
        yield
    except WcsimError:
        assert seen() == before, "the state changed though the input was refused"
        raise


def pick(rng: np.random.Generator, values: list[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """Bytes cut, overwritten, repeated or inserted."""
    for _ in range(int(rng.integers(1, 4))):
        at, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 40))
        new = bytes(rng.integers(0, 256, int(rng.integers(0, 8)), dtype=np.uint8))
        content = pick(rng, [content[:at], content[:at] + new + content[at + length :], content[:at] + content[at:] * 2,
                             content[:at] + content[at + length :]])[:100_000]
    return content


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in inner for found in [(value, key), *places(part)]]


def mutated(rng: np.random.Generator, value: Any) -> Any:
    """A copy with some of its parts replaced, removed, renamed or doubled."""
    value = deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        found = places(value)
        if not found:
            return value
        holder, key = pick(rng, found)
        change = int(rng.integers(5))
        if change < 3:
            holder[key] = deepcopy(pick(rng, STRANGE))
        elif change == 3:
            holder.pop(key)
        elif isinstance(holder, dict):
            holder[str(pick(rng, ["x", "kind", "steps", 3]))] = holder[key]
        else:
            holder.append(holder[key])
    return value


def strange_array(rng: np.random.Generator, like: np.ndarray) -> Any:
    """An array of another shape, type or content, or something else altogether; seldom a right one."""
    change = int(rng.integers(8))
    shape = [max(0, side + int(rng.integers(-1, 3))) if rng.random() < 0.3 else side for side in like.shape]
    if change == 0:
        return deepcopy(pick(rng, STRANGE))
    if change == 1:
        return np.zeros([*shape, *([1] if rng.random() < 0.5 else [])])
    if change == 2:
        return np.full(shape, pick(rng, [np.nan, np.inf, -np.inf, 1e300, -1.0, 2.0**63]))
    if change == 3:
        return np.zeros(shape).astype(pick(rng, ["U3", "O", "M8[s]", "c16", "?", "i8", "u1", "f2", "S2", "V4"]))
    if change == 4:
        return np.zeros(shape).tolist()
    if change == 5:
        changed = like.astype(np.float64)
        changed.reshape(-1)[int(rng.integers(max(changed.size, 1))) % max(changed.size, 1) :][:1] = pick(
            rng, [np.nan, np.inf, 1e9, -1e9])
        return changed
    if change == 6:
        return like[..., ::-1] if like.ndim else like
    return np.ma.masked_array(like, mask=rng.random(like.shape) < 0.5) if rng.random() < 0.3 else like.T
