"""What a job of an experiment needs, worked out before any weight is read.

Easy to get wrong: a GPU's memory is not what Ray counts as memory, so on a GPU a job asks for the GPU, and for main
memory only as much as the weights pass through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wcsim.cache.fidelity import FidelityConfig
from wcsim.experiments.work import Needs
from wcsim.world.checkpoints import find_world, read_description
from wcsim.world.footprint import footprint


class Experiment(Protocol):
    """What every experiment's configuration has."""

    @property
    def world(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def threads(self) -> int | None: ...


def needs_of(config: Experiment, fidelities: Sequence[FidelityConfig], *, lanes: int = 1) -> Needs:
    """The needs of a job that imagines so many lanes at once, at the dearest of some fidelities."""
    folder = find_world(config.world)
    spec, _ = read_description(folder)
    footprints = [footprint(folder, fidelity.build(spec)) for fidelity in fidelities]
    gpus = config.device.count("cuda")
    memory = max((weights + (0 if gpus else need.total(lanes)) for weights, need in footprints), default=0)
    return Needs((config.world,), float(config.threads or 1), float(gpus), memory)
