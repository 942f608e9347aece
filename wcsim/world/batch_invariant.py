"""Matrix products and convolutions that round a lane alone as they round it among others, on the CPU.

MKL multiplies fewer than four rows by another kernel than more, and the two round differently: the time and action
embeddings of one lane alone (a row per frame) then differ in their last bits from the same rows within a batch.  So few
rows are filled up with zeros.  Easy to get wrong: MKL deals the rows out to its threads, and each thread needs four.

PyTorch convolves a small image, or a 1 x 1 kernel on few images, by another library than a batch of them (oneDNN);
oneDNN itself treats every image of a batch alike, whatever its number and that of the threads.  So it does them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 32
"""Products of fewer rows are filled up to this many: four rows for each of eight threads."""


class HasModules(Protocol):
    """A module, or what a backbone promises of one."""

    def modules(self) -> Iterator[nn.Module]: ...


class BatchInvariantLinear(nn.Linear):
    """A linear layer that rounds one row as it rounds many."""

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        rows = input.numel() // self.in_features
        if rows >= ROWS or rows == 0 or input.device.type != "cpu":
            return super().forward(input)
        filled = F.pad(input.reshape(rows, self.in_features), (0, 0, 0, ROWS - rows))
        return super().forward(filled)[:rows].view(*input.shape[:-1], self.out_features)


def make_batch_invariant(module: HasModules) -> None:
    """Make every linear layer of a module batch-invariant, in place; its weights stay the same."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = BatchInvariantLinear


class BatchInvariantConv2d(nn.Conv2d):
    """A convolution that rounds one image as it rounds many."""

    def forward(self, input: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C', H', W']`."""
        return convolve(input, self.weight, self.bias, padding=self.padding, stride=self.stride)


def convolve(
    input: Tensor, weight: Tensor, bias: Tensor | None, *, padding: Any = (0, 0), stride: Any = (1, 1)
) -> Tensor:
    """`F.conv2d`; where no gradient is wanted, on the CPU, batch-invariant and channels last, which is faster.

    A graph of `torch.compile` cannot hold the batch-invariant call, and is channels last alone.
    """
    if torch.is_grad_enabled() or input.device.type != "cpu":
        return F.conv2d(input, weight, bias, padding=padding, stride=stride)
    x = input.contiguous(memory_format=torch.channels_last)
    if torch.compiler.is_compiling() or not torch.backends.mkldnn.is_available():
        return F.conv2d(x, weight, bias, padding=padding, stride=stride)
    _, channels, height, width = x.shape
    # Of one image the stride over images is arbitrary, and oneDNN reads the layout from it.
    x = x.as_strided(x.shape, (channels * height * width, 1, width * channels, channels))
    taps = weight.contiguous(memory_format=torch.channels_last)
    out: Tensor = torch.mkldnn_convolution(x, taps, bias, padding, stride, (1, 1), 1)
    return out
