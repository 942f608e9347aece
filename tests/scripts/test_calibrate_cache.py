"""The calibration of TeaCache and MagCache, on polynomials and on a tiny world."""

import numpy as np
import pytest

from calibrate_cache import fit, record
from wcsim.backbones.cosmos2.tiny import tiny_world


def test_the_fit_finds_a_polynomial():
    x = np.linspace(0.0, 1.0, 50)
    coefficients, explained = fit(x, np.polyval([1.0, -2.0, 0.5, 3.0, 0.1], x))
    assert coefficients == pytest.approx([1.0, -2.0, 0.5, 3.0, 0.1], rel=1e-4)
    assert explained == pytest.approx(1.0)


def test_every_step_but_the_first_is_seen():
    seen = record(tiny_world(task="pusht"), [500_000, 500_001], frames=2, steps=4)
    assert seen.shape == (2, 3, 3, 2)  # frames, steps, the three measures, lanes
    assert np.isfinite(seen).all()
    assert (seen > 0).all()


def test_recording_repeats():
    once, again = (record(tiny_world(task="pusht"), [500_000], frames=1, steps=3) for _ in range(2))
    np.testing.assert_array_equal(once, again)
