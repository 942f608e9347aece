from __future__ import annotations

import numpy as np
import pytest

from wcsim.actions import check_action, features, normalise
from wcsim.errors import ActionError
from wcsim.rollout.engine import within
from wcsim.types import ActionSpec

SPEC = ActionSpec(low=(0.0, -1.0), high=(512.0, 3.0), names=("x", "y"), units="px", fourier_octaves=2)


def test_the_bounds_themselves_are_allowed_and_come_back_as_float32():
    actions = np.array([[0, -1], [512, 3]])
    checked = check_action(SPEC, actions)
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked, actions)


@pytest.mark.parametrize(("action", "words"), [
    ([np.nan, 0.0], r"x = nan is not finite; allowed: x in \[0, 512\], y in \[-1, 3\] \(px\)"),
    ([[0.0, 0.0], [1.0, np.inf]], r"y at \(1,\) = inf is not finite"),
    ([513.0, 0.0], r"x = 513.0 is out of range"),
    ([1.0, -1.01], r"y = -1.01 is out of range"),
    ([1.0, 2.0, 3.0], r"shape \(3,\); the last axis must be 2"),
    (3.0, r"shape \(\)"),
    (["a", "b"], r"dtype <U1"),
    ([True, False], r"dtype bool"),
    ([1 + 1j, 0], r"dtype complex128"),
])
def test_a_bad_action_is_refused_in_words(action, words):
    with pytest.raises(ActionError, match=words):
        check_action(SPEC, action)


def test_normalise_sends_the_bounds_to_one():
    np.testing.assert_array_equal(normalise(SPEC, np.array([[0, -1], [256, 1], [512, 3]])), [[-1, -1], [0, 0], [1, 1]])


def test_features_are_coordinates_then_sines_and_cosines_octave_by_octave():
    coordinates = np.array([0.25, -0.5])
    actions = np.array([[320.0, 0.0]])
    expected = np.concatenate([coordinates, np.sin(np.pi * coordinates), np.cos(np.pi * coordinates),
                               np.sin(2 * np.pi * coordinates), np.cos(2 * np.pi * coordinates)])
    found = features(SPEC, actions)
    assert found.shape == (1, SPEC.num_features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_no_octaves_leave_the_bare_coordinates():
    bare = ActionSpec(low=(0.0,), high=(2.0,), names=("x",), units="m")
    np.testing.assert_array_equal(features(bare, np.zeros((4, 5, 1))), -np.ones((4, 5, 1)))


UNEVEN = ActionSpec(low=(0.7, 0.1), high=(1.1, 0.3), names=("x", "y"), units="m")
"""Bounds that float32 has a little below or above."""


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_bounds_are_allowed_in_either_precision(kind):
    for bound in (UNEVEN.low, UNEVEN.high):
        np.testing.assert_array_equal(check_action(UNEVEN, np.array(bound, kind)), np.array(bound, np.float32))
    for bound, beyond in ((UNEVEN.low, -1), (UNEVEN.high, 1)):
        with pytest.raises(ActionError, match="out of range"):
            check_action(UNEVEN, np.nextafter(np.array(bound, np.float32), np.float32(beyond * 9)).astype(kind))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_an_action_at_its_bounds_is_not_clipped(kind):
    wishes = np.array([UNEVEN.low, UNEVEN.high], kind)
    actions, clipped = within(UNEVEN, wishes)
    np.testing.assert_array_equal(actions, wishes)
    assert not clipped.any()
    assert within(UNEVEN, wishes + kind(0.01))[1].tolist() == [False, True]
