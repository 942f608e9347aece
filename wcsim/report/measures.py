"""What a page shows of a task's state: every quantity's error in words, and the one that headlines it.

Easy to get wrong: a recording has no quantities at all; its pages go by the likeness of the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wcsim.spec import Quantity, StateSpec

UNITS = {"deg": "degrees", "wrong": "share wrong", "1": ""}
"""Units as people read them, where they read another word."""

KINDS = {"position": "position", "angle": "angle", "quaternion": "rotation", "scalar": "", "binary": ""}


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric.  key: in rows.  name: of what is measured, as `cube position`.  unit: as read.  rises: whether more is
    better."""

    key: str
    name: str
    unit: str
    rises: bool = False

    @property
    def title(self) -> str:
        """For a figure."""
        kind = self.name if self.rises else f"{self.name} error"
        return f"{kind[0].upper()}{kind[1:]}" + (f", {self.unit}" if self.unit else "")


LIKENESS = Measure("psnr_db", "picture likeness (PSNR)", "dB", rises=True)


def measure_of(quantity: Quantity) -> Measure:
    """A quantity's error."""
    words = quantity.name.replace("_", " ").strip()
    kind = KINDS[quantity.kind]
    name = words if not kind or words.endswith(kind) else f"{words} {kind}"
    return Measure(quantity.metric, name, UNITS.get(quantity.error_unit, quantity.error_unit))


def measures(spec: StateSpec) -> list[Measure]:
    """All of them, the goal's first, the pictures' likeness last."""
    ordered = [*spec.goal, *(quantity for quantity in spec if not quantity.goal)]
    return [*(measure_of(quantity) for quantity in ordered), LIKENESS]


def leading(spec: StateSpec) -> Measure:
    """The one that headlines a page."""
    return measures(spec)[0]


def spec_of(manifest: Mapping[str, Any]) -> StateSpec:
    """The quantities that a run's manifest tells of."""
    return StateSpec.from_json(manifest["state"])


def labels_of(manifest: Mapping[str, Any]) -> str:
    """What the world was trained on, as a sentence."""
    labels = manifest.get("labels", "none")
    if labels == "none":
        return "The world was trained on pictures and actions alone (labels: none)."
    return f"The world was trained with labels ({labels})."
