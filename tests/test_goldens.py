"""The shipped worlds do what they did when `tests/golden` was recorded (`scripts/record_goldens.py`).

On a machine like the one that recorded, bit for bit; elsewhere, as closely as rounding allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from record_goldens import NAMES, machine, play, read, recorded_on

RTOL, ATOL = 1e-3, 1e-3
GREYS, MEAN_GREYS = 2, 0.5
PSNR_DB = 1.0
"""Nearly equal frames have a PSNR that hangs on single grey levels."""
DECISIONS = 0.95
"""Share of cache decisions that must be the same on another machine."""
LOSS = 0.01
"""A relative loss over a few frames is a ratio of small errors, which a single grey level moves."""
LOOSE = {"_skipped": 1.0 - DECISIONS, "vs_uncached/psnr_db": PSNR_DB, "to_uncached_db": PSNR_DB, "/truth_loss/": LOSS}
"""Part of a name to its absolute tolerance there."""


def leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every stored array and number with its path; numbers as float64, NaN where there is none."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}/")
        else:
            yield f"{path}{name}", np.array(value, dtype=np.float64)


def apart(name: str, now: np.ndarray, then: np.ndarray, exact: bool) -> str | None:
    """How two values differ by more than they may; None where they do not."""
    if now.shape != then.shape:
        return f"{name}: shape {now.shape}, recorded {then.shape}"
    if exact:
        same = np.array_equal(now, then, equal_nan=True)
    elif name.startswith("decisions/"):
        same = np.mean(now == then) >= DECISIONS
    else:
        atol = next((loose for part, loose in LOOSE.items() if part in name), ATOL)
        same = np.allclose(now, then, rtol=RTOL, atol=atol, equal_nan=True)
    if same:
        return None
    differs = ~((now == then) | (np.isnan(now) & np.isnan(then)))
    return f"{name}: {differs.sum()} of {now.size} differ, first {now[differs][0]!r}, recorded {then[differs][0]!r}"


def frames_apart(name: str, now: np.ndarray, then: np.ndarray, exact: bool) -> str | None:
    """The same for frames."""
    if now.shape != then.shape:
        return f"frames of {name}: shape {now.shape}, recorded {then.shape}"
    grey = np.abs(now.astype(np.int16) - then)
    if not grey.any() or (not exact and grey.max() <= GREYS and grey.mean() < MEAN_GREYS):
        return None
    return f"frames of {name}: up to {grey.max()} grey levels apart, {grey.mean():.3g} on average"


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_run_is_as_it_was_recorded(name: str) -> None:
    exact = machine() == recorded_on()
    then, now = read(name), play(name)
    before, after = dict(leaves(then.values)), dict(leaves(now.values))
    assert after.keys() == before.keys()
    assert now.frames.keys() == then.frames.keys()
    found = [frames_apart(place, now.frames[place], then.frames[place], exact) for place in then.frames]
    found += [apart(path, after[path], before[path], exact) for path in before]
    differences = [line for line in found if line is not None]
    assert not differences, "\n".join([f"{name} differs{' by more than rounding' * (not exact)}:", *differences])
