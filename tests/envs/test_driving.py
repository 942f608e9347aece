"""How a hand drives a task follows from what its actions say of themselves."""

from __future__ import annotations

import dataclasses

import pytest

from wcsim.envs.driving import Driving, driving_for, driving_of, places_of
from wcsim.envs.pendulum import Pendulum
from wcsim.envs.pusht import PushT
from wcsim.errors import ConfigError
from wcsim.types import ActionSpec


def spec(names, absolute=(), low=-1.0):
    return ActionSpec((low,) * len(names), (1.0,) * len(names), tuple(names), "1", absolute=tuple(absolute))


def test_axes_by_the_specification():
    assert driving_for(PushT()).axes == ("x", "y")
    assert driving_for(Pendulum()).axes == ("x",)
    arm = spec("abcdg", "g")
    assert driving_of(arm).axes == ("x", "y", "height", "turn", "switch")
    assert driving_of(spec("ab", "ab")).axes == ("x", "y")
    assert driving_of(spec("abcdef")).axes == ("x", "y", "height", "turn", "other", "other")


def test_places_and_changes():
    assert places_of(PushT().action) == [True, True]
    assert places_of(Pendulum().action) == [False]
    assert places_of(spec("abcdg", "g")) == [False] * 4 + [True]


class Turned(PushT):
    driving = Driving(("y", "x"))


class Short(PushT):
    driving = Driving(("x",))


def test_what_a_task_says_itself_goes_first_and_must_fit():
    assert driving_for(Turned()) is Turned.driving
    with pytest.raises(ConfigError, match="driven by 1 axes and has 2 actions"):
        driving_for(Short())


ROWS = ((1.0, 0, 0, 0), (0, 1.0, 0, 0), (0, 0, 1.0, 1.0))


@pytest.mark.parametrize(("given", "told"), [
    ({"axes": ("x", "z")}, "axis 'z' is unknown"), ({"axes": ("x",), "follows": "hand"}, "give both, or neither"),
    ({"axes": ("x",), "camera": ROWS}, "give both, or neither"),
    ({"axes": ("x",), "follows": "hand", "camera": ROWS[:2]}, "3 rows of 4"),
    ({"axes": ("x",), "follows": "hand", "camera": ROWS, "reach": 0.0}, "reach above 0")])
def test_what_it_refuses(given, told):
    with pytest.raises(ConfigError, match=told):
        Driving(**given)


def test_as_plain_values():
    whole = Driving(("x", "y"), "hand", 5.0, ROWS)
    assert Driving(**{**whole.to_json(), "axes": whole.axes, "camera": tuple(map(tuple, whole.to_json()["camera"]))}
                   ) == whole
    assert set(whole.to_json()) == {field.name for field in dataclasses.fields(Driving)}
