"""What an experiment's results depend on, in one manifest: world, policies, task, versions and device.

Easy to get wrong: files are named by what they are for, not by where they lie, so that a run may be resumed elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from wcsim.envs.tasks import Task
from wcsim.track.manifest import hash_inputs, make_manifest
from wcsim.world.checkpoints import find_world, read_description


class ReadsFiles(Protocol):
    """A policy's configuration, as far as a manifest is concerned."""

    name: str

    def files(self) -> list[Path]:
        """The files that it reads."""
        ...


class Setting(Protocol):
    """What every experiment's configuration has."""

    world: str
    device: str

    @property
    def task(self) -> Any:
        """A `TaskConfig`."""
        ...


def manifest_of(
    config: Setting, policies: Iterable[ReadsFiles], *, seeds: Mapping[str, object]
) -> dict[str, Any]:
    """The manifest, with the quantities of the task and the labels that the world was trained on."""
    task: Task = config.task.build()
    folder = find_world(config.world)
    spec, _ = read_description(folder)
    inputs = {f"world {spec.name}": folder}
    inputs |= {f"task {task.name} {path.name}": path for path in task.files()}
    inputs |= {f"policy {policy.name} {path.name}": path for policy in policies for path in policy.files()}
    return {**make_manifest(device=config.device, seeds=seeds, inputs=hash_inputs(inputs)),
            "state": task.state.to_json(), "labels": getattr(spec, "labels", "none")}
