"""Where training runs: one CPU in float32, or one or several GPUs in bfloat16, through accelerate.

Started by `torchrun` or `accelerate launch`, every process trains on windows of its own and gradients are averaged.
Easy to get wrong: only the first process writes files,
and batches are numbered over all processes, so that two of them do what one does with twice the batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast
from torch import Tensor, nn

from wcsim.world.checks import check_device

PATIENCE = timedelta(hours=24)
"""How long processes wait for the first one, which decodes and encodes all frames."""


class Machine:
    """device: `cpu` or `cuda`; ConfigError where it is not there.  compiled: whether networks are compiled."""

    def __init__(self, device: str = "cpu", *, compiled: bool = False) -> None:
        check_device(device)
        on_cpu = torch.device(device).type == "cpu"
        self._run = Accelerator(mixed_precision="no" if on_cpu else "bf16", cpu=on_cpu, kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True), InitProcessGroupKwargs(timeout=PATIENCE)])
        self._compiled = compiled
        self.device = torch.device(device) if self._run.num_processes == 1 else self._run.device

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self._run.process_index)

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return bool(self._run.is_main_process)

    @property
    def processes(self) -> int:
        """How many train together."""
        return int(self._run.num_processes)

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Within, the first process alone; the others when it is through, so that they find what it has written."""
        with self._run.main_process_first():
            yield

    def wait(self) -> None:
        """Until all processes are here."""
        self._run.wait_for_everyone()

    def agree(self, value: float) -> float:
        """The first process's value, in all."""
        if self._run.num_processes == 1:
            return value
        told: Tensor = broadcast(torch.tensor(value, dtype=torch.float64, device=self.device))
        return float(told)

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module on the device, compiled and with averaged gradients where that is wanted."""
        module = module.to(self.device)
        if self._run.num_processes > 1:
            module = self._run.prepare_model(module)
        return torch.compile(module) if self._compiled else module  # type: ignore[return-value]  # a module still

    def autocast(self) -> AbstractContextManager[Any]:
        """Where the forward pass computes."""
        return nullcontext() if self.device.type == "cpu" else torch.autocast(self.device.type, torch.bfloat16)

    def together(self, module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Averages gradients over processes only for the `last` batch of a step."""
        if last or self._run.num_processes == 1:
            return nullcontext()
        quiet: AbstractContextManager[Any] = self._run.no_sync(module)
        return quiet
