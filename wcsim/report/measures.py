"""What a page shows of a task's state: every quantity's error in words, and the one that headlines it.

Easy to get wrong: a recording has no quantities at all; its pages go by the similarity of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wcsim.errors import RunError
from wcsim.spec import Quantity, StateSpec

UNITS = {"deg": "degrees", "wrong": "share wrong", "1": ""}
"""Units as people read them, where they read another word."""

KINDS = {"position": "position", "angle": "angle", "quaternion": "rotation", "scalar": "", "binary": ""}


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric.  key: in rows.  name: of what is measured, as `cube position`.  unit: as people read it.  rises:
    whether more is better."""

    key: str
    name: str
    unit: str
    rises: bool = False

    @property
    def what(self) -> str:
        """What its numbers are."""
        return self.name if self.rises else f"{self.name} error"

    @property
    def title(self) -> str:
        """For a figure: what its numbers are, and their unit."""
        return f"{self.what[0].upper()}{self.what[1:]}{self._in_unit}"

    @property
    def column(self) -> str:
        """For a table of errors: of what, and the unit."""
        return f"{self.name}{self._in_unit}"

    @property
    def _in_unit(self) -> str:
        return f", {self.unit}" if self.unit else ""


SIMILARITY = Measure("psnr_db", "image similarity (PSNR)", "dB", rises=True)


def measure_of(quantity: Quantity) -> Measure:
    """A quantity's error."""
    words = quantity.name.replace("_", " ").strip()
    kind = KINDS[quantity.kind]
    name = words if not kind or words.endswith(kind) else f"{words} {kind}"
    return Measure(quantity.metric, name, UNITS.get(quantity.error_unit, quantity.error_unit))


def errors(spec: StateSpec) -> list[Measure]:
    """The errors of all quantities, the goal's first."""
    return [measure_of(quantity) for quantity in (*spec.goal, *(one for one in spec if not one.goal))]


def measures(spec: StateSpec) -> list[Measure]:
    """All errors, and the similarity of the images last."""
    return [*errors(spec), SIMILARITY]


def leading(spec: StateSpec) -> Measure:
    """The one that headlines a page."""
    return measures(spec)[0]


def spec_of(manifest: Mapping[str, Any]) -> StateSpec:
    """The quantities that a run's manifest tells of.  Raises RunError where it tells of none."""
    if "state" not in manifest:
        raise RunError("the manifest has no 'state', the quantities of the task; run it again")
    return StateSpec.from_json(manifest["state"])
