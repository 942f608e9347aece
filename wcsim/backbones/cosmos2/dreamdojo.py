"""DreamDojo's actions: every robot has slots of its own in one long vector, and a range for each of its joints.

A joint is normalised by its least and most value in the robot's recordings, to -1 and 1, and what the network reads at
a tick is how far it has come since the tick that the latent frame began with.  So the action here is a joint's change
within a tick, in its own unit, and the sums over four reach -2 to 2.  The ranges are published beside the weights and
are none of ours: without them there is no action space.  Easy to get wrong: a change of a joint that never moves in the
recordings means nothing, and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wcsim.errors import CheckpointError
from wcsim.types import ActionSpec
from wcsim.world.limits import read_json

SLOTS = 384
TICKS_PER_LATENT = 4
ROBOTS: dict[str, tuple[int, int]] = {"gr1": (0, 29), "g1": (58, 43), "yam": (101, 46), "agibot": (147, 22)}
"""First slot and number of joints, by robot."""


def joint_ranges(path: Path, robot: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Least and most of each joint in a file of statistics: an object with `min` and `max`, or one of these by name
    (`action`, `observation.state`, `state`, the robot's).  CheckpointError for another robot or another number."""
    first, joints = slots_of(robot)
    del first
    found: Any = read_json(path)
    for name in (robot, "statistics", "state", "observation.state", "action"):
        found = found[name] if isinstance(found.get(name), dict) else found
    if not {"min", "max"} <= found.keys():
        raise CheckpointError(f"{path} has no min and max; it has {', '.join(sorted(found)[:8])}")
    low, high = (_numbers(path, name, found[name], joints) for name in ("min", "max"))
    for number, (least, most) in enumerate(zip(low, high, strict=True)):
        if not least < most:
            raise CheckpointError(f"{path}: joint {number} has min {least:g} and max {most:g}; min must be less")
    return low, high


def slots_of(robot: str) -> tuple[int, int]:
    """First slot and number of joints; CheckpointError for a robot that no release knows."""
    if robot not in ROBOTS:
        raise CheckpointError(f"robot {robot!r} has no known slots; known: {', '.join(ROBOTS)}")
    return ROBOTS[robot]


def action_spec(robot: str, low: Sequence[float], high: Sequence[float]) -> ActionSpec:
    """The actions of a robot whose joints have these ranges."""
    first, joints = slots_of(robot)
    spans = [most - least for least, most in zip(low, high, strict=True)]
    return ActionSpec(
        low=tuple(-span for span in spans), high=tuple(spans), names=tuple(f"{robot}_{n}" for n in range(joints)),
        units="change of the joint within a tick, in its own unit", scale=tuple(2.0 / span for span in spans),
        summed=TICKS_PER_LATENT, slots=(first, SLOTS),
    )


def _numbers(path: Path, name: str, found: Any, count: int) -> tuple[float, ...]:
    if not isinstance(found, list) or len(found) != count or not all(isinstance(one, int | float) for one in found):
        given = f"{len(found)} values" if isinstance(found, list) else type(found).__name__
        raise CheckpointError(f"{path}: {name} has {given}; expected {count} numbers")
    return tuple(float(one) for one in found)
