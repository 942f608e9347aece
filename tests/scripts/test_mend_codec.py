"""What mending counts as crowded, and how it reads a displacement."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from mend_codec import Views, displacement, is_crowded
from recipe import Mending

RADIUS = 3.0
MENDING = Mending(schedule={"steps": 1, "batch": 1, "learning_rate": 1e-3}, radius_px=RADIUS, hue=(-0.5, 0.0, 0.5))


def soft_disc(distance):
    return (0.5 - (distance - RADIUS) / 1.5).clamp(0, 1)


@pytest.mark.parametrize("centre", [(20.0, 17.3), (0.4, 12.0)], ids=["whole", "cut by the border"])
def test_a_small_displacement_is_read(centre):
    steps, moved = torch.arange(32) + 0.5, (0.15, -0.1)
    x, y = (part.expand(1, 32, 32) for part in (steps[None, None, :] - centre[0], steps[None, :, None] - centre[1]))
    views = Views(torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32), x, y, torch.hypot(x, y) + 1e-6)
    change = soft_disc(torch.hypot(x - moved[0], y - moved[1])) - soft_disc(views.distance)
    error = torch.stack([-change, 0 * change, change], dim=1)
    torch.testing.assert_close(displacement(error, views, MENDING), torch.tensor([moved]), atol=0.04, rtol=0)


def test_a_disc_that_is_not_in_view_is_not_displaced():
    far = torch.full((1, 8, 8), 50.0)
    views = Views(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8), far, far, far * 2**0.5)
    assert not displacement(torch.ones(1, 3, 8, 8), views, MENDING).any()


def test_company_and_the_border_make_a_crowd():
    backdrop = np.zeros((32, 32, 3), np.int16)
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[13:19, 13:19] = 200
    centre = np.array([16.0, 16.0])
    assert not is_crowded(frame, centre, backdrop, RADIUS)
    assert is_crowded(frame, np.array([16.0, 2.0]), backdrop, RADIUS)
    frame[16, 21] = 200
    assert is_crowded(frame, centre, backdrop, RADIUS)
    frame[16, 21], frame[16, 26] = 0, 200
    assert not is_crowded(frame, centre, backdrop, RADIUS)
