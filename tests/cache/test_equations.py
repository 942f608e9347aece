"""The pure functions against answers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from wcsim.cache.drift import (
    adaptive_threshold,
    budget_growth,
    rate_factor,
    relative_drift,
    saliency,
    saliency_weights,
    schedule,
    velocity,
)
from wcsim.cache.window import Window, distance_gain, extrapolate, osi_gain, unexplained


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_drift_is_mean_change_over_mean_size():
    before = torch.tensor([[[1.0, -3.0]], [[2.0, 2.0]]])
    now = torch.tensor([[[2.0, -3.0]], [[2.0, 2.0]]])
    torch.testing.assert_close(relative_drift(now, before), torch.tensor([0.5 / 2.0, 0.0]))


def test_weighted_drift_counts_a_token_by_its_weight():
    before = torch.ones(1, 2, 1)
    now = torch.tensor([[[1.0], [2.0]]])
    drift = relative_drift(now, before, torch.tensor([[0.5, 1.5]]))
    torch.testing.assert_close(drift, torch.tensor([1.5 / 2]))


def test_drift_of_a_lane_does_not_depend_on_the_batch():
    before, now = drawn(5, 48, 64), drawn(5, 48, 64, seed=1)
    together = relative_drift(now, before)
    alone = torch.cat([relative_drift(now[i : i + 1], before[i : i + 1]) for i in range(5)])
    assert torch.equal(together, alone)


def test_half_precision_is_measured_in_float32():
    before = torch.full((1, 4096, 64), 1.0, dtype=torch.bfloat16)
    assert relative_drift(before * 1.5, before).item() == pytest.approx(0.5, rel=1e-5)


def test_velocity_is_change_per_step():
    torch.testing.assert_close(velocity(torch.tensor([0.6, 0.6]), torch.tensor([1, 3])), torch.tensor([0.6, 0.2]))


def test_threshold_by_hand():
    growth = schedule(step=14, num_steps=35, beta_d=4.0)
    assert growth == pytest.approx(1 + 4 * 0.4)
    threshold = adaptive_threshold(0.08, 2.0, torch.tensor([0.0, 0.5]), growth)
    torch.testing.assert_close(threshold, torch.tensor([0.208, 0.104]))


def test_schedule_starts_at_one():
    assert schedule(0, 35, 4.0) == 1


@pytest.mark.parametrize(("steps", "growth"), [(35, 4.0), (70, 5.0), (140, 8.0)])
def test_budget_growth_meets_its_three_points(steps, growth):
    assert budget_growth(steps) == pytest.approx(growth)


def test_saliency_forms_by_hand():
    # two frames, two places, two channels; variances 0, 1 in the first frame and 4, 1 in the second
    probe = torch.tensor([[[[5.0, 5.0], [1.0, 3.0]], [[1.0, 5.0], [0.0, 2.0]]]])
    torch.testing.assert_close(saliency(probe, "token"), torch.tensor([[[0.0, 0.25], [1.0, 0.25]]]))
    torch.testing.assert_close(saliency(probe, "deviation"), torch.tensor([[[0.0, 0.5], [1.0, 0.5]]]))
    torch.testing.assert_close(saliency(probe, "place"), torch.tensor([[[1.0, 0.0]]]))  # means 2, 1
    # joint: place 0 holds 5, 5, 1, 5 (variance 3), place 1 holds 1, 3, 0, 2 (variance 1.25)
    torch.testing.assert_close(saliency(probe, "joint"), torch.tensor([[[1.0, 0.0]]]))


@pytest.mark.parametrize("form", ["token", "deviation", "place", "joint"])
def test_equal_tokens_are_not_salient(form):
    assert saliency(torch.ones(2, 3, 4, 8), form).abs().max() == 0


@pytest.mark.parametrize("form", ["token", "deviation", "place", "joint"])
def test_normalised_weights_average_to_one(form):
    weights = saliency_weights(drawn(2, 3, 4, 8), 1.0, form, normalise=True)
    assert weights.shape == (2, 12)
    torch.testing.assert_close(weights.mean(1), torch.ones(2))


def test_printed_weights_only_add():
    weights = saliency_weights(drawn(2, 3, 4, 8), 0.5, "token", normalise=False)
    torch.testing.assert_close(weights.amin(1), torch.ones(2))
    torch.testing.assert_close(weights.amax(1), torch.full((2,), 1.5))


def test_gain_is_exact_on_a_straight_line():
    start, slope = drawn(3, 6, 8), drawn(3, 6, 8, seed=1)
    gain = osi_gain(start + 5 * slope, start + 4 * slope, start + 2 * slope, 0.0, 2.0)
    torch.testing.assert_close(gain, torch.full((3,), 1.5))
    deep, step = drawn(3, 6, 8, seed=2), drawn(3, 6, 8, seed=3)
    window = Window(deep + 4 * step, deep + 2 * step, start, start)
    tokens = drawn(3, 6, 8, seed=4)
    torch.testing.assert_close(extrapolate(tokens, window, gain), tokens + deep + 5 * step)


def test_gain_ignores_what_is_orthogonal():
    q2 = torch.zeros(1, 1, 2)
    q1 = torch.tensor([[[1.0, 0.0]]])
    assert osi_gain(torch.tensor([[[0.7, 9.0]]]), q1, q2, 0.0, 2.0).item() == pytest.approx(0.7)


@pytest.mark.parametrize(("position", "gain"), [(-3.0, 0.2), (9.0, 1.8)])
def test_gain_is_clamped(position, gain):
    q2, q1 = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    assert osi_gain(position * q1, q1, q2, 0.2, 1.8).item() == pytest.approx(gain)


def test_one_computation_repeats_its_residual_whatever_the_gain():
    r, tokens = drawn(2, 3, 4), drawn(2, 3, 4, seed=1)
    for gain in (0.0, 2.0):
        torch.testing.assert_close(extrapolate(tokens, Window(r, r, r, r), torch.full((2,), gain)), tokens + r)


def test_prediction_keeps_the_dtype():
    r = drawn(1, 2, 4).bfloat16()
    assert extrapolate(r, Window(r, r, r, r), torch.ones(1)).dtype == torch.bfloat16


def test_distance_gain_by_hand():
    q2, q1 = torch.zeros(3, 1, 2), torch.tensor([[[1.0, -1.0]], [[1.0, 1.0]], [[0.0, 0.0]]])
    q = torch.tensor([[[-1.5, 1.5]], [[9.0, 9.0]], [[1.0, 1.0]]])
    torch.testing.assert_close(distance_gain(q, q1, q2, 1.0, 2.0), torch.tensor([1.5, 2.0, 1.0]))


@pytest.mark.parametrize("solve", [osi_gain, distance_gain])
def test_a_gain_per_frame_is_that_of_the_frame_alone(solve):
    q, q1, q2 = (drawn(2, 3, 4, 5, seed=seed) for seed in range(3))
    together = solve(q, q1, q2, 0.0, 2.0)
    assert together.shape == (2, 3)
    for frame in range(3):
        torch.testing.assert_close(together[:, frame], solve(q[:, frame], q1[:, frame], q2[:, frame], 0.0, 2.0))


def test_gains_of_parts_move_their_parts():
    r1, r2, tokens = (drawn(1, 6, 2, seed=seed) for seed in range(3))
    got = extrapolate(tokens, Window(r1, r2, r1, r2), torch.tensor([[0.0, 2.0]]))
    torch.testing.assert_close(got[:, :3], (tokens + r2)[:, :3])
    torch.testing.assert_close(got[:, 3:], (tokens + 2 * r1 - r2)[:, 3:])


def test_unexplained_share_by_hand():
    q2 = torch.zeros(1, 1, 2)
    q1 = torch.tensor([[[1.0, 0.0]]])
    q = torch.tensor([[[1.5, 2.0]]])
    assert unexplained(q, q1, q2, torch.tensor([[1.5]])).item() == pytest.approx(2.0 / 2.5)
    assert unexplained(q1, q1, q2, torch.tensor([[1.0]])).item() == 0


def test_rate_factor_is_e_per_skip_owed():
    factor = rate_factor(0.5, 4, torch.tensor([1, 2, 3]))
    torch.testing.assert_close(factor, torch.tensor([1.0, 0.0, -1.0]).exp())
