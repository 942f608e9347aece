"""Quantities by name: their errors are distances, and values flattened are the values."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wcsim.errors import ConfigError
from wcsim.spec import SIZES, Quantity, StateSpec, flatten, split, wrap_angle

KINDS = ("position", "angle", "quaternion", "scalar", "binary")
number = st.floats(-100.0, 100.0).map(lambda value: round(value, 6))


@st.composite
def quantities(draw, name="q"):
    kind = draw(st.sampled_from(KINDS))
    size = draw(st.sampled_from(SIZES[kind])) if kind in SIZES else draw(st.integers(1, 4))
    return Quantity(name, size, "u", kind, role=draw(st.sampled_from(("robot", "scene"))), goal=draw(st.booleans()))


@st.composite
def values_of(draw, quantity, lanes=3):
    one = st.sampled_from((0.0, 1.0)) if quantity.kind == "binary" else number
    row = st.lists(one, min_size=quantity.size, max_size=quantity.size)
    if quantity.kind == "quaternion":
        row = row.filter(lambda parts: np.linalg.norm(parts) > 0.1)
    return np.array(draw(st.lists(row, min_size=lanes, max_size=lanes)))


specs = st.integers(0, 5).flatmap(lambda count: st.tuples(*(quantities(f"q{n}") for n in range(count)))).map(StateSpec)


@given(st.data())
def test_an_error_is_symmetric_not_negative_and_zero_at_home(data):
    quantity = data.draw(quantities())
    one, other = data.draw(values_of(quantity)), data.draw(values_of(quantity))
    error = quantity.error(one, other)
    assert error.shape == (3,)
    assert (error >= 0).all()
    np.testing.assert_allclose(error, quantity.error(other, one), atol=1e-9)
    # The arc cosine of a quaternion's product is steep at 1.
    np.testing.assert_allclose(quantity.error(one, one), 0.0, atol=1e-5)
    lost = one.copy()
    lost[1] = np.nan
    assert np.isnan(quantity.error(lost, other)).tolist() == [False, True, False]


@given(number, number, st.integers(-3, 3))
def test_whole_turns_do_not_count(a, b, turns):
    angle = Quantity("hinge", 1, "rad", "angle")
    error = angle.error(np.array([a + 2 * np.pi * turns]), np.array([b]))
    assert 0.0 <= error <= 180.0
    np.testing.assert_allclose(error, np.degrees(np.arccos(np.clip(np.cos(a - b), -1, 1))), atol=1e-4)
    wrapped = wrap_angle(np.array([a]))
    assert -np.pi < wrapped[0] <= np.pi
    np.testing.assert_allclose(angle.error(wrapped, np.array([a])), 0.0, atol=1e-9)


@given(number, st.sampled_from((-1.0, 1.0)))
def test_a_turn_by_quaternions_is_the_turn_by_angles(turn, sign):
    pose = Quantity("tool", 4, "1", "quaternion")
    half = turn / 2
    rotation = sign * np.array([np.cos(half), 0.0, np.sin(half), 0.0])
    hinge = Quantity("hinge", 1, "rad", "angle").error(np.array([turn]), np.zeros(1))
    np.testing.assert_allclose(pose.error(3.0 * rotation, np.array([1.0, 0, 0, 0])), hinge, atol=1e-4)


@given(specs, st.data())
def test_flattened_and_split_is_the_same(spec, data):
    values = {quantity.name: data.draw(values_of(quantity)) for quantity in spec}
    flat = flatten(spec.quantities, values)
    if len(spec):
        assert flat.shape == (3, sum(quantity.size for quantity in spec))
        again = split(spec.quantities, flat)
        assert again.keys() == values.keys()
        for name, value in values.items():
            np.testing.assert_array_equal(again[name], value)
        with pytest.raises(ValueError, match="has .* numbers"):
            split(spec.quantities, flat[:, 1:])
    errors = spec.errors(values, values)
    assert tuple(errors) == spec.metrics
    assert {*spec.robot, *spec.scene} == {*spec}
    assert all(np.isnan(value).all() for value in spec.unknown(2).values())


@given(specs)
def test_a_spec_goes_through_json(spec):
    assert StateSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_name_tells_the_unit():
    assert Quantity("cube", 3, "cm", "position").metric == "cube_cm"
    assert Quantity("hand_angle", 1, "rad", "angle").metric == "hand_angle_deg"
    assert Quantity("lit", 1, "1", "binary").metric == "lit_wrong"


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Quantity("two words", 1, "m", "scalar"), "letters, digits and '_', got 'two words'"),
    (lambda: Quantity("hinge", 2, "rad", "angle"), "'hinge' of kind 'angle' has size 2; allowed: \\(1,\\)"),
    (lambda: Quantity("x", 0, "m", "scalar"), "has size 0; allowed: 1 or more"),
    (lambda: Quantity("x", 1, "m", "scalar", low=1.0, high=1.0), "low 1 and high 1"),
    (lambda: StateSpec((Quantity("x", 1, "m", "scalar"),) * 2), "different names, got x, x"),
    (lambda: StateSpec(())["x"], "quantity 'x' is unknown; known: none"),
])
def test_misuse_is_named(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
    with pytest.raises(ValueError, match="x has 2 numbers"):
        Quantity("x", 2, "m", "position").error(np.zeros(3), np.zeros(3))
