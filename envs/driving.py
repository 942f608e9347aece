"""How a person's hand moves a robot: which number of an action follows what, and where the robot is in the picture.

It follows from the action's own specification, unless a task says otherwise.  Easy to get wrong: a number that is a
place to go to stays where it was put, and one that is a change goes back to none when the hand lets go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from wcsim.errors import ConfigError

if TYPE_CHECKING:
    from wcsim.envs.tasks import Task
    from wcsim.types import ActionSpec

Axis = Literal["x", "y", "height", "turn", "switch", "other"]
"""x, y: pointer, stick and arrow keys, to the right and down in the picture.  height: the wheel.  turn, other: keys and
buttons.  switch: one key, from its least to its most and back."""

ORDER: tuple[Axis, ...] = ("x", "y", "height", "turn")


@dataclass(frozen=True, slots=True)
class Driving:
    """One axis for each number of an action.

    follows: the position, a quantity of the state, that x, y and height move; empty: the pointer's place in the
    picture says what is wanted.  reach: how far, in that quantity's unit, an action of 1 moves it.  camera: 3 rows of
    4, which take that position and a 1 to pixels of the frame times their depth.
    """

    axes: tuple[Axis, ...]
    follows: str = ""
    reach: float = 1.0
    camera: tuple[tuple[float, float, float, float], ...] = ()

    def __post_init__(self) -> None:
        unknown = set(self.axes) - set(get_args(Axis))
        if unknown:
            raise ConfigError(f"axis {sorted(unknown)[0]!r} is unknown; known: {', '.join(get_args(Axis))}")
        if bool(self.follows) != bool(self.camera) or self.reach <= 0:
            raise ConfigError("driving follows a quantity through a camera, at a reach above 0: give both, or neither")
        if self.camera and [len(row) for row in self.camera] != [4, 4, 4]:
            raise ConfigError(f"a camera has 3 rows of 4 numbers, got {[len(row) for row in self.camera]}")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"axes": list(self.axes), "follows": self.follows, "reach": self.reach,
                "camera": [list(row) for row in self.camera]}


def driving_of(action: ActionSpec) -> Driving:
    """By the specification alone: an absolute number among changes, as a gripper is, is a switch; of the others the
    first two are x and y, the third height, the fourth a turn."""
    held = [name in action.absolute for name in action.names]
    order = iter(ORDER)
    mixed = any(held) and not all(held)
    return Driving(tuple("switch" if mixed and one else next(order, "other") for one in held))


def places_of(action: ActionSpec) -> list[bool]:
    """Which numbers of an action are a place to hold: those that say so, and those whose bounds have no zero between
    them, at which a change would rest."""
    return [name in action.absolute or not low < 0 < high
            for name, low, high in zip(action.names, action.low, action.high, strict=True)]


def driving_for(task: Task) -> Driving:
    """A task's own word, or what follows from its actions.  ConfigError where it has another number of axes."""
    own: Driving = getattr(task, "driving", None) or driving_of(task.action)
    if len(own.axes) != task.action.dim:
        raise ConfigError(f"task {task.name!r} is driven by {len(own.axes)} axes and has {task.action.dim} actions")
    return own
