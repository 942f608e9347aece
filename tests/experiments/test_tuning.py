"""Which measured point the advice takes."""

import pytest

from wcsim.errors import ConfigError
from wcsim.experiments.tuning import choose

ROWS = [{"ms": ms, "reference_error": error} for ms, error in ((10.0, 0.3), (20.0, 0.1), (40.0, 0.05))]


def test_a_deadline_buys_the_least_error_within_it():
    assert choose(ROWS, deadline_ms=25, max_error=None)["ms"] == 20


def test_an_error_bound_asks_for_the_fastest_within_it():
    assert choose(ROWS, deadline_ms=None, max_error=0.2)["ms"] == 20


def test_both_bounds_hold_together():
    assert choose(ROWS, deadline_ms=45, max_error=0.2)["ms"] == 40


def test_what_cannot_be_had_says_what_comes_nearest():
    with pytest.raises(ConfigError, match="the fastest 10 ms at error 0.3000; the most accurate 40 ms"):
        choose(ROWS, deadline_ms=5, max_error=None)
    with pytest.raises(ConfigError, match="--deadline-ms"):
        choose(ROWS, deadline_ms=None, max_error=None)
