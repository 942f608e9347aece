"""How much memory a fine-tuning needs, estimated before any weight is read.

The training's own forward pass runs on torch's `meta` device, where nothing is computed, and what it would keep for the
backward pass is counted.  One block and two tell what each block adds.  Easy to get wrong: attention there would keep
its matrix of scores, which no kernel of a real device does, so it is counted by what the kernels keep.

Shapes: B windows, n heads, L tokens, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wcsim.errors import ConfigError
from wcsim.world.memory import SHARE, VARIABLE, memory_limit

ADAM, MEAN = 2, 2
"""Numbers per learning weight: AdamW's two averages; a running mean, and what it replaces while it is looked at."""

BACKWARD = 2
"""How much more than what one block keeps is alive while its gradients are made, in times of that."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes.  weights: of the transformer.  learning: gradients, optimizer and running mean.  ends: kept by embedding
    and last layer.  block: kept by each block.  tokens: what goes from block to block.  depth: blocks."""

    weights: int
    learning: int
    ends: int
    block: int
    tokens: int
    depth: int
    checkpointing: bool = False

    @property
    def activations(self) -> int:
        """Kept for the backward pass, and what it needs at its fullest moment."""
        kept = self.depth * (self.tokens if self.checkpointing else self.block)
        return self.ends + kept + BACKWARD * self.block

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.learning + self.activations

    def __str__(self) -> str:
        weights, learning, activations, total = (
            f"{part / 1e9:.3g}" for part in (self.weights, self.learning, self.activations, self.total))
        how = "with" if self.checkpointing else "without"
        return (f"{total} GB: weights {weights}, gradients and optimizer {learning}, activations {activations} {how} "
                "checkpointing")


class Attention(torch.autograd.Function):
    """An attention that keeps what a fused kernel keeps: its inputs, its answer, and a number per query."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`[B, n, L, d]` to the same."""
        answer = query.new_empty(*query.shape[:-1], value.shape[-1])
        context.save_for_backward(query, key, value, answer, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return answer

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Never asked for."""
        query, key, value, _, _ = context.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class FusedAttention(TorchFunctionMode):
    """Within, attention is `Attention`."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every call of torch's."""
        if function is F.scaled_dot_product_attention:
            fused: Any = Attention
            return fused.apply(*args[:3])
        return function(*args, **(kwargs or {}))


def kept_bytes(run: Callable[[], Any], *, besides: Callable[[Tensor], bool]) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once, `besides` some."""
    storages: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not besides(tensor):
            storage = tensor.untyped_storage()
            storages[storage._cdata] = tensor, storage.nbytes()  # the tensor, or its number would be given again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = run()
    del alive
    return sum(size for _, size in storages.values())


def room_of(run: Callable[[int], Any], module: torch.nn.Module, depth: int, tokens: int, *, mean: bool) -> Room:
    """The need of a module whose forward pass through so many blocks is `run`.  tokens: bytes of what goes from block
    to block.  mean: whether a running mean of the weights is kept."""
    own = {weight.untyped_storage()._cdata for weight in module.parameters()}

    def kept(blocks: int) -> int:
        with FusedAttention():
            return kept_bytes(lambda: run(blocks), besides=lambda tensor: tensor.untyped_storage()._cdata in own)

    one, two = kept(1), kept(2)
    weights = sum(weight.numel() * weight.element_size() for weight in module.parameters())
    learning = sum(weight.numel() * 4 * (1 + ADAM + (MEAN if mean else 0)) for weight in module.parameters()
                   if weight.requires_grad)
    return Room(weights, learning, max(one - (two - one), 0), two - one, tokens, depth)


def fitting(room: Room, wanted: bool | None, device: torch.device) -> Room:
    """The room with or without checkpointing: as wanted, or whatever fits.  ConfigError where it does not fit."""
    limit = memory_limit(device)
    limit = free_memory() if limit is None and device.type == "cpu" else limit
    if limit is None:
        return replace(room, checkpointing=bool(wanted))
    choices = [replace(room, checkpointing=one) for one in ((False, True) if wanted is None else (wanted,))]
    for choice in choices:
        if choice.total <= limit:
            return choice
    raise ConfigError(f"fine-tuning needs about {choices[-1]}; {limit / 1e9:.3g} GB are free on {device} ({VARIABLE} "
                      "sets another limit): use a smaller schedule.batch with accumulate, method lora, weights bfloat16"
                      f"{'' if choices[-1].checkpointing else ', checkpointing'} or a smaller frame")


def free_memory(path: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of main memory that may be used; None where the system does not say."""
    try:
        lines = dict(line.split(":") for line in path.read_text().splitlines())
        return int(SHARE * 1024 * int(lines["MemAvailable"].split()[0]))
    except (OSError, ValueError, KeyError):
        return None
