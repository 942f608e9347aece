"""What an experiment needs and depends on: checked before a run is begun, and kept in its manifest.

Easy to get wrong: files are named by what they are for, not by where they lie, so that a run may be resumed elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from wcsim.cache.fidelity import FidelityConfig
from wcsim.envs.lanes import check_world
from wcsim.envs.tasks import Task
from wcsim.track.manifest import hash_inputs, make_manifest
from wcsim.types import WorldSpec
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


class Checked(Protocol):
    """A policy's configuration, as far as can be told before it is built."""

    def check(self, task: Task, spec: WorldSpec) -> None:
        """ConfigError for what the task or the world do not allow."""
        ...


def check_setting(config: Setting, policies: Iterable[Checked], fidelities: Iterable[FidelityConfig]) -> None:
    """ConfigError for whatever can be known to be wrong before a run is begun; loads no weights."""
    task: Task = config.task.build()
    spec, _ = read_description(find_world(config.world))
    check_world(task, spec)
    for fidelity in fidelities:
        fidelity.build(spec)
    for policy in policies:
        policy.check(task, spec)


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
