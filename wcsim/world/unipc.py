"""UniPC (Zhao et al. 2023, arXiv 2302.04867) of order two for rectified flow, its numbers made before the loop begins.

Diffusers' scheduler makes the coefficients of a step when it takes it, on the device of the latents: several uploads
and the solution of a little system, for each of which the host waits.  They depend on the noise levels alone.  Here
they are made once, on the host, by the same float32 arithmetic, so that a step is a few products of tensors, with the
same result.  Easy to get wrong: a step first corrects where the last one arrived, then predicts from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Update:
    """From noise level s to t: x_t = keep x_s - mean m_s - over (sum of weights times differences).

    m is the clean sample that the network foresees.  back: the difference to the step before is divided by this; None
    at order one.  past, here: weights of that difference, and (in a correction) of that to the level arrived at.
    """

    keep: float
    mean: float
    over: float
    back: float | None
    past: float
    here: float


def updates_of(sigmas: Tensor, step: int, order: int) -> tuple[Update, Update]:
    """The prediction from step `step` to the next, and the correction once its end is known.  sigmas: of all steps and
    the end, float32."""
    end, start = sigmas[step + 1], sigmas[step]
    lambda_s = torch.log(1 - start) - torch.log(start)
    h = torch.log(1 - end) - torch.log(end) - lambda_s
    ratios = list[Tensor]()
    if order == 2:
        before = sigmas[step - 1]
        ratios.append((torch.log(1 - before) - torch.log(before) - lambda_s) / h)
    rho = torch.stack([*ratios, torch.ones(())])
    phi_1 = torch.expm1(-h)
    phi_k, factorial, rows, right = phi_1 / -h - 1, 1, list[Tensor](), list[Tensor]()
    for power in range(order):
        rows.append(torch.pow(rho, power))
        right.append(phi_k * factorial / phi_1)
        factorial *= power + 2
        phi_k = phi_k / -h - 1 / factorial
    weights = torch.linalg.solve(torch.stack(rows), torch.stack(right)) if order == 2 else torch.tensor([0.5])
    shared = (float(end / start), float((1 - end) * phi_1), float((1 - end) * phi_1),
              float(ratios[0]) if ratios else None)
    return Update(*shared, 0.5, 0.0), Update(*shared, float(weights[0]), float(weights[-1]))


class UniPC:
    """One denoise loop, step after step; made from a diffusers scheduler whose noise levels are set.

    sigmas: noise levels of the steps, and 0.  timesteps: what the scheduler calls the steps.
    """

    def __init__(self, scheduler: Any) -> None:
        self.config, self.sigmas, self.timesteps = scheduler.config, scheduler.sigmas, scheduler.timesteps
        count = len(self.timesteps)
        # Order one at both ends: nothing is known before the first step, and the last one must not overshoot.
        self._order = [min(2, count - step, step + 1) for step in range(count)]
        self._updates = [updates_of(self.sigmas, step, order) for step, order in enumerate(self._order)]
        self._levels, self._step = self.sigmas.tolist(), 0
        self._clean: list[Tensor] = []
        self._sample: Tensor | None = None

    def step(self, velocity: Tensor, timestep: Any, sample: Tensor, *, return_dict: bool = False) -> tuple[Tensor]:
        """The sample at the next noise level.  timestep: not asked for; steps are taken in turn."""
        del timestep, return_dict
        clean = sample - self._levels[self._step] * velocity
        if self._sample is not None:
            sample = self._moved(self._updates[self._step - 1][1], self._sample, clean)
        self._clean, self._sample = [*self._clean[-1:], clean], sample
        moved = self._moved(self._updates[self._step][0], sample, None)
        self._step += 1
        return (moved,)

    def _moved(self, update: Update, sample: Tensor, arrived: Tensor | None) -> Tensor:
        """`sample` carried on by what was foreseen at its noise level, before it, and where it has arrived."""
        here = self._clean[-1]
        moved = update.keep * sample - update.mean * here
        known = list[Tensor]()
        if update.back is not None:
            known.append(update.past * ((self._clean[-2] - here) / update.back))
        if arrived is not None:
            known.append(update.here * (arrived - here))
        return moved - update.over * (known[0] if len(known) == 1 else known[0] + known[1]) if known else moved
