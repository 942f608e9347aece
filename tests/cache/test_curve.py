"""The curve over the noise level, on a scripted stack of uneven steps."""

from __future__ import annotations

import pytest
import torch

from scripted import ScriptedStack
from wcsim.cache import parse_cache

SIGMAS = [1.0, 0.9, 0.7, 0.6, 0.3, 0.1]


def run(residual: list[float], **settings: object) -> tuple[list[bool], list[float], list[float]]:
    """Hits, outputs and drifts where the embedded tokens are 1."""
    cache = parse_cache({"kind": "curve", **settings}).build()
    state, told = cache.init(1, len(SIGMAS)), []
    z = torch.ones(1, 1, 1)
    for step, (sigma, amount) in enumerate(zip(SIGMAS, residual, strict=True)):
        stack = ScriptedStack([torch.full((1, 1, 1), amount), torch.zeros(1, 1, 1)], sigma=sigma)
        output, state, decision = cache.forward(stack, step, z, state)
        told.append((bool(decision.hit), output.item(), decision.drift.item()))
    hit, outputs, drifts = zip(*told, strict=True)
    return list(hit), list(outputs), list(drifts)


def test_a_full_pass_whenever_the_noise_has_fallen_far_enough():
    hit, _, drift = run([1.0] * 6, threshold=0.35)
    # Since .9: .2, .3, .6 miss; since .3: .2
    assert hit == [False, False, True, True, False, True]
    assert drift[2:] == pytest.approx([0.2, 0.3, 0.6, 0.2])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_exact_where_the_residual_is_linear_in_the_noise_level(order):
    residual = [5 - 3 * sigma for sigma in SIGMAS]
    hit, output, _ = run(residual, threshold=0.35, order=order)
    assert sum(hit) == 3
    assert output == pytest.approx([1 + r for r in residual], abs=1e-5)


def test_exact_where_the_residual_is_a_parabola_in_the_noise_level_once_three_are_known():
    residual = [5 - 3 * sigma + 2 * sigma**2 for sigma in SIGMAS]
    hit, output, _ = run(residual, threshold=0.35, min_warmup=3)
    assert hit == [False, False, False, True, False, True]
    assert output == pytest.approx([1 + r for r in residual], abs=1e-5)


def test_order_zero_holds():
    _, output, _ = run([1.0, 2.0, 9.0, 9.0, 3.0, 9.0], threshold=0.35, order=0)
    assert output == [2.0, 3.0, 3.0, 3.0, 4.0, 4.0]
