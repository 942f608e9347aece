"""Lucas-Kanade on smooth patterns that were moved by a known amount."""

from __future__ import annotations

import pytest
import torch

from wcsim.cache.warp import displacement, warp

GRID = (2, 12, 16)


def pattern(shift_x: float, shift_y: float, lanes: int = 1) -> torch.Tensor:
    """Waves of several directions, one per channel, displaced: `[N, L, D]`."""
    y, x = torch.meshgrid(torch.arange(12.0) - shift_y, torch.arange(16.0) - shift_x, indexing="ij")
    generator = torch.Generator().manual_seed(0)
    directions = torch.rand(lanes, GRID[0], 8, 3, generator=generator) * torch.tensor([0.8, 0.8, 6.0])
    u, v, phase = directions[..., None, None, :].unbind(-1)
    return torch.sin(u * x + v * y + phase).movedim(2, -1).flatten(1, 3)


@pytest.mark.parametrize("shift", [(0.5, 0.0), (0.0, -0.5), (0.3, 0.4), (0.0, 0.0)])
@pytest.mark.parametrize("window", [3, 5, 31])
def test_recovers_a_shift(shift, window):
    moved = displacement(pattern(0, 0), pattern(*shift), GRID, window)
    assert moved.shape == (1, *GRID, 2)
    inside = moved[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inside, torch.tensor(shift).expand_as(inside), rtol=0, atol=0.08)


def test_lanes_and_frames_move_apart():
    before, now = pattern(0, 0, lanes=2), pattern(0, 0, lanes=2)
    now.view(2, *GRID, 8)[1, 0] = pattern(0.5, 0, lanes=2).view(2, *GRID, 8)[1, 0]
    moved = displacement(before, now, GRID, 5)[:, :, 4:-4, 4:-4].mean((2, 3))
    expected = torch.zeros(2, 2, 2)
    expected[1, 0, 0] = 0.5
    torch.testing.assert_close(moved, expected, rtol=0, atol=0.08)


def test_where_nothing_varies_nothing_moves():
    flat = torch.ones(1, 2 * 12 * 16, 8)
    assert displacement(flat, 2 * flat, GRID, 5).abs().max() == 0


def test_warp_by_whole_tokens():
    values = torch.arange(12.0).view(1, 12, 1)  # one frame of 3 rows and 4 columns
    right = torch.tensor([1.0, 0.0]).expand(1, 1, 3, 4, 2)
    expected = [0.0, 0, 1, 2, 4, 4, 5, 6, 8, 8, 9, 10]  # the left border repeats
    torch.testing.assert_close(warp(values, right).flatten(), torch.tensor(expected))
    down = torch.tensor([0.0, 1.0]).expand(1, 1, 3, 4, 2)
    torch.testing.assert_close(warp(values, down).flatten(), torch.tensor([0.0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7]))


def test_warping_what_was_before_gives_what_is_now():
    before, now = pattern(0, 0), pattern(0.5, 0.25)
    carried = warp(before, displacement(before, now, GRID, 5))
    inside = [x.view(1, *GRID, 8)[:, :, 2:-2, 2:-2] for x in (before, now, carried)]
    assert (inside[2] - inside[1]).abs().mean() < 0.3 * (inside[0] - inside[1]).abs().mean()


def test_no_motion_changes_nothing():
    values = pattern(0, 0)
    torch.testing.assert_close(warp(values, torch.zeros(1, *GRID, 2)), values)
