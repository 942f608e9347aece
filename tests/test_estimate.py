"""Estimates select and join by lanes; a goal is reached by its closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wcsim.errors import ConfigError
from wcsim.estimate import Estimate, Goal
from wcsim.spec import Quantity, StateSpec

SPEC = StateSpec((Quantity("hand", 2, "px", "position", role="robot"), Quantity("cube", 2, "px", "position", goal=True),
                  Quantity("turn", 1, "rad", "angle", goal=True)))
place = st.floats(-50.0, 50.0)


def estimate_of(seed, count):
    rng = np.random.default_rng(seed)
    values = {quantity.name: rng.normal(size=(count, quantity.size)) for quantity in SPEC}
    found = {name: rng.random(count) > 0.5 for name in values}
    return Estimate(values, found, rng.random(count), rng.random(count) > 0.5, rng.random(count) > 0.5,
                    {name: rng.random(count) for name in values})


def assert_equal(one, other):
    for name in ("progress", "success", "shape_ok"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("values", "found", "fit"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.keys() == right.keys()
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])


@given(st.integers(0, 99), st.integers(1, 6))
def test_joined_lanes_are_the_estimate(seed, count):
    whole = estimate_of(seed, count)
    assert len(whole) == count
    assert_equal(Estimate.join([whole.select(lane) for lane in range(count)]), whole)
    mask = np.arange(count) % 2 == 0
    assert_equal(whole.select(mask), Estimate.join([whole.select(lane) for lane in np.flatnonzero(mask)]))
    assert_equal(whole.select(slice(None)), whole)
    other = estimate_of(seed + 1, count)
    mixed = whole.put(np.flatnonzero(mask), other.select(mask))
    assert_equal(mixed.select(mask), other.select(mask))
    assert_equal(mixed.select(~mask), whole.select(~mask))


@given(st.tuples(place, place), st.tuples(place, place), place, place, st.floats(0.1, 60.0), st.floats(0.1, 180.0))
def test_a_goal_is_reached_where_all_errors_of_a_unit_together_are_small(hand, cube, turn, aim, px, deg):
    goal = Goal({"hand": np.zeros(2), "cube": np.array([3.0, 4.0]), "turn": np.array([aim])})
    values = {"hand": np.array([hand]), "cube": np.array([cube]), "turn": np.array([[turn]])}
    apart = np.sqrt(np.square(hand).sum() + np.square(np.subtract(cube, [3.0, 4.0])).sum())
    angle = np.degrees(np.arccos(np.clip(np.cos(turn - aim), -1.0, 1.0)))
    if abs(apart - px) > 1e-6 and abs(angle - deg) > 1e-3:
        assert goal.reached(SPEC, values, {"px": px, "deg": deg}).tolist() == [bool(apart < px and angle < deg)]
    assert not goal.reached(SPEC, {**values, "cube": np.full((1, 2), np.nan)}, {"px": 1e9, "deg": 1e9})[0]


def test_a_goal_needs_a_tolerance_for_each_unit():
    goal = Goal({"turn": np.zeros(1)})
    with pytest.raises(ConfigError, match="a tolerance is needed for deg, given {'px': 20.0}"):
        goal.reached(SPEC, {"turn": np.zeros((1, 1))}, {"px": 20.0})
    assert goal.errors(SPEC, {"turn": np.array([[np.nan], [np.pi]])})["turn_deg"].tolist() == [np.inf, 180.0]


def test_exact_and_nothing_are_the_two_ends():
    exact = Estimate.exact({"hand": np.zeros((2, 2))}, progress=np.array([0, 1]), success=np.array([0, 1]))
    assert exact.found["hand"].all()
    assert exact.shape_ok.all()
    assert exact.success.tolist() == [False, True]
    nothing = Estimate.nothing(SPEC, 2)
    assert nothing.values.keys() == nothing.found.keys() == set(SPEC.names)
    assert not nothing.success.any()
    assert np.isnan(nothing.values["cube"]).all()
