"""The figures of the world bench, by hand."""

import numpy as np
import pytest

from wcsim.experiments.world_bench import HeldOut, by_horizon, constant_velocity, pose_errors, valid_horizon


@pytest.fixture
def truth():
    """Two episodes of 32 ticks: in the first the block goes right by 3 px a tick, in the second nothing moves."""
    poses = np.zeros((2, 33, 5))
    poses[0, :, 2] = 3.0 * np.arange(33)
    return HeldOut(np.zeros((2, 33, 4, 4, 3), np.uint8), np.zeros((2, 32, 2)), poses)


def test_only_a_block_that_moves_is_evidence(truth):
    assert truth.moving[0].all()
    assert not truth.moving[1].any()
    table = by_horizon(pose_errors(np.zeros((2, 32, 5)), truth), truth)
    assert table["8"]["block_px"] == 24.0
    assert table["8"]["block_px_n"] == 1
    assert table["8"]["agent_px_n"] == 2


def test_constant_velocity_goes_on_as_it_was(truth):
    errors = pose_errors(constant_velocity(truth, lead=0), truth)
    assert errors["block_px"][0, 7] == 24.0
    shifted = HeldOut(truth.frames[:, 1:], truth.actions[:, 1:], truth.poses[:, 1:])
    assert pose_errors(constant_velocity(truth, lead=1)[:, :31], shifted)["block_px"].max() == 0.0


def test_a_lost_block_has_passed_every_bound(truth):
    poses = np.array(truth.poses[:, 1:])
    assert valid_horizon(pose_errors(poses, truth), truth) == 32
    poses[0, 4:] = np.nan
    errors = pose_errors(poses, truth)
    assert np.isinf(errors["block_px"][0, 4:]).all()
    assert valid_horizon(errors, truth) == 5
