"""What an experiment's results depend on, in one manifest, and what its pages are about.

Easy to get wrong: what `wcsim.track.manifest.COMPARED` does not name (quantities, labels) is told to readers and never
compared: it follows from what is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from wcsim.experiments.inputs import inputs_of
from wcsim.track.manifest import make_manifest
from wcsim.world.checkpoints import find_world, read_description

if TYPE_CHECKING:
    from wcsim.experiments.closed_loop import TaskConfig


class Experiment(Protocol):
    """What every experiment's configuration has."""

    @property
    def world(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def task(self) -> TaskConfig: ...


def manifest_of(config: Experiment, *, seeds: Mapping[str, object]) -> dict[str, Any]:
    """The manifest, with the quantities of the task and the labels that the world was trained on."""
    spec, _ = read_description(find_world(config.world))
    return {**make_manifest(device=config.device, seeds=seeds, inputs=inputs_of(config)),
            "state": config.task.build().state.to_json(), "labels": getattr(spec, "labels", "none")}
