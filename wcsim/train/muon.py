"""Muon (Jordan 2024) in float32, for machines where bfloat16 matrix products are slow.

`torch.optim.Muon` orthogonalises in bfloat16.  Matrices of one shape are stacked and orthogonalised together.  Updates
are scaled to AdamW's root mean square (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that drives singular values towards 1."""


def orthogonalise(stack_BMN: Tensor, iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly: every singular value ends between about 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    wide = stack_BMN.shape[1] <= stack_BMN.shape[2]
    x = stack_BMN if wide else stack_BMN.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if wide else x.mT
    return result


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for the weight matrices of hidden layers; others belong to AdamW."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    by_shape[param.shape].append(param)
            for shape, params in by_shape.items():
                averages = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
                grads = [p.grad for p in params if p.grad is not None]
                torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
                nesterov = torch.stack([g.lerp(m, group["momentum"]) for g, m in zip(grads, averages, strict=True)])
                scale = 0.2 * max(shape) ** 0.5
                for param, update in zip(params, orthogonalise(nesterov), strict=True):
                    param.mul_(1 - group["lr"] * group["weight_decay"])
                    param.add_(update, alpha=-group["lr"] * scale)
