"""What an experiment needs and depends on: checked before a run is begun, and kept in its manifest.

Easy to get wrong: what `wcsim.runs.manifest.COMPARED` does not name (quantities, labels) is kept for readers and never
compared: it follows from what is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from wcsim.cache.fidelity import FidelityConfig
from wcsim.envs.agreement import check_world
from wcsim.envs.tasks import Task
from wcsim.experiments.inputs import inputs_of
from wcsim.experiments.task_config import TaskConfig
from wcsim.runs.manifest import make_manifest
from wcsim.types import WorldSpec
from wcsim.world.checkpoints import find_world, read_description
from wcsim.world.checks import check_device
from wcsim.world.guardrail import guardrail_name


class Experiment(Protocol):
    """What every experiment's configuration has."""

    @property
    def world(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def task(self) -> TaskConfig: ...


class Checked(Protocol):
    """A policy's configuration, as far as it is known before it is built."""

    def check(self, task: Task, spec: WorldSpec) -> None:
        """ConfigError for what the task or the world do not allow."""
        ...


def check_setting(config: Experiment, policies: Iterable[Checked], fidelities: Iterable[FidelityConfig]) -> None:
    """ConfigError for whatever can be known to be wrong before a run is begun; loads no weights."""
    spec, _ = read_description(find_world(config.world))
    for device in config.device.split(","):
        check_device(device)
    task: Task = config.task.build()
    check_world(task, spec)
    for fidelity in fidelities:
        fidelity.build(spec)
    for policy in policies:
        policy.check(task, spec)


def manifest_of(config: Experiment, *, seeds: Mapping[str, object]) -> dict[str, Any]:
    """The manifest, with the quantities of the task and the labels that the world was trained on."""
    spec, _ = read_description(find_world(config.world))
    return {**make_manifest(device=config.device, seeds=seeds, inputs=inputs_of(config)),
            **guardrail_name(), "state": config.task.build().state.to_json(), "labels": spec.labels}
