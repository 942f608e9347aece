"""Our UniPC is diffusers' to the last bit, on every grid; and the grids are those of the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from wcsim.world.sampler import SOLVERS, make_scheduler, told_levels
from wcsim.world.unipc import UniPC

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def diffusers_own(solver: str, steps: int, shift: float) -> Any:
    scheduler = SOLVERS[solver](shift)
    if solver == "unipc-nvidia":
        scheduler.set_timesteps(sigmas=np.linspace(0.999, 0, steps + 1)[:-1])
    else:
        scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 35])
@pytest.mark.parametrize(("solver", "shift"), [("unipc", 5.0), ("unipc", 10.0), ("unipc-nvidia", 5.0),
                                               ("unipc-nvidia", 10.0), ("unipc-karras", 1.0)])
def test_every_step_is_that_of_diffusers(solver: str, shift: float, steps: int) -> None:
    ours, theirs = make_scheduler(solver, steps, shift), diffusers_own(solver, steps, shift)
    assert isinstance(ours, UniPC)
    assert isinstance(theirs, UniPCMultistepScheduler)
    generator = torch.Generator().manual_seed(0)
    x = y = torch.randn(2, 3, 4, 5, generator=generator)
    for timestep in theirs.timesteps:
        velocity = torch.tanh(x) + 0.1 * torch.randn(x.shape, generator=generator)
        x, y = ours.step(velocity, timestep, x)[0], theirs.step(velocity, timestep, y, return_dict=False)[0]
        assert torch.equal(x, y)


def test_nvidias_grid_is_that_of_the_formula() -> None:
    """linspace(.999, 0, N + 1) without its end, then s n / (1 + (s - 1) n); five steps at shift 5, worked out by hand:
    n = .999, .7992, .5994, .3996, .1998."""
    found = make_scheduler("unipc-nvidia", 5, 5.0)
    expected = [4.995 / 4.996, 3.996 / 4.1968, 2.997 / 3.3976, 1.998 / 2.5984, 0.999 / 1.7992, 0.0]
    torch.testing.assert_close(found.sigmas, torch.tensor(expected), atol=1e-7, rtol=1e-6)
    assert told_levels(found, "whole") == [0.999, 0.952, 0.882, 0.768, 0.555]
    torch.testing.assert_close(torch.tensor(told_levels(found, "exact")), torch.tensor(expected[:-1]))


def test_the_two_grids_of_cosmos3() -> None:
    """As published: 30 steps at shift 10, NVIDIA's framework and diffusers."""
    framework, diffusers = (make_scheduler(solver, 30, 10.0).timesteps.tolist() for solver in ("unipc-nvidia", "unipc"))
    assert framework[:2] == [999, 996]
    assert framework[-3:] == [526, 416, 256]
    assert diffusers[:4] == [999, 996, 992, 989]
    assert diffusers[-3:] == [528, 420, 262]
