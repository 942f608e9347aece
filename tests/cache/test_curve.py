"""The curve over the noise level, on a scripted stack of uneven steps."""

from __future__ import annotations

import pytest
import torch

from scripted import ScriptedStack
from wcsim.cache import parse_cache

SIGMAS = [1.0, 0.9, 0.7, 0.6, 0.3, 0.1]


def run(velocity: list[float], **settings: object) -> tuple[list[bool], list[float], list[float]]:
    """Hits, velocities and drifts where two blocks make this velocity of two lanes' tokens."""
    cache = parse_cache({"kind": "curve", "power": 1.0, **settings}).build()
    state, told = cache.init(2, len(SIGMAS)), []
    for step, (sigma, amount) in enumerate(zip(SIGMAS, velocity, strict=True)):
        stack = ScriptedStack(torch.ones(2, 1, 1), [torch.full((2, 1, 1), amount), -torch.ones(2, 1, 1)], sigma=sigma)
        output, state, decision = cache.forward(stack, step, state)
        assert decision.hit.tolist() == [stack.block_lanes == 0] * 2
        assert stack.embedded == (not decision.hit[0])
        assert torch.equal(output[0], output[1])
        told.append((bool(decision.hit[0]), output[0].item(), decision.drift[0].item()))
    hit, outputs, drifts = zip(*told, strict=True)
    return list(hit), list(outputs), list(drifts)


def test_a_full_pass_whenever_the_noise_has_fallen_far_enough():
    hit, _, drift = run([1.0] * 6, threshold=0.35)
    # Since .9: .2, .3, .6 miss; since .3: .2
    assert hit == [False, False, True, True, False, True]
    assert drift[2:] == pytest.approx([0.2, 0.3, 0.6, 0.2])


def test_so_many_skips_in_a_row_and_no_more():
    hit, _, _ = run([1.0] * 6, threshold=9.0, max_skips=2)
    assert hit == [False, False, True, True, False, True]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_exact_where_the_velocity_is_linear_in_the_noise_level(order):
    velocity = [5 - 3 * sigma for sigma in SIGMAS]
    hit, output, _ = run(velocity, threshold=0.35, order=order)
    assert sum(hit) == 3
    assert output == pytest.approx(velocity, abs=1e-5)


def test_exact_where_the_velocity_is_a_parabola_in_the_noise_level_once_three_are_known():
    velocity = [5 - 3 * sigma + 2 * sigma**2 for sigma in SIGMAS]
    hit, output, _ = run(velocity, threshold=0.35, min_warmup=3)
    assert hit == [False, False, False, True, False, True]
    assert output == pytest.approx(velocity, abs=1e-5)


def test_falls_count_for_more_near_the_end_and_so_does_the_curve():
    velocity = [5 - 3 * sigma**0.5 + 2 * sigma for sigma in SIGMAS]
    hit, output, drift = run(velocity, threshold=0.2, power=0.5, min_warmup=3)
    # Roots: 1, .949, .837, .775, .548, .316.
    assert hit == [False, False, False, True, False, False]
    assert drift[3:] == pytest.approx([0.0621, 0.2889, 0.2315], abs=1e-4)
    assert output == pytest.approx(velocity, abs=1e-5)


def test_order_zero_holds():
    _, output, _ = run([1.0, 2.0, 9.0, 9.0, 3.0, 9.0], threshold=0.35, order=0)
    assert output == [1.0, 2.0, 2.0, 2.0, 3.0, 3.0]
