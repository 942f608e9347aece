"""Modulation made ahead is modulation made step by step."""

from __future__ import annotations

import pytest
import torch

from wcsim.backbones.cosmos2.modulation import Modulation, Modulations, steps_at_once
from wcsim.backbones.cosmos2.tiny import tiny_world


def transformer():
    return tiny_world(seed=3).transformer


def pieces(model, *, steps=6, lanes=2, frames=5):
    generator = torch.Generator().manual_seed(0)
    sigma = torch.rand(steps, lanes, frames, generator=generator)
    actions = torch.randn(lanes, frames, model.config.action_features, generator=generator)
    latents = torch.randn(lanes, 4, frames, 12, 12, generator=generator)
    known = torch.ones(lanes, frames, dtype=torch.bool)
    return sigma, model.prepare(latents, actions, known, torch.zeros(1, 1, model.text_width))


def test_ahead_is_step_by_step():
    model = transformer()
    sigma, constants = pieces(model)
    for level, ahead in zip(sigma, model.modulations(sigma, constants), strict=True):
        assert ahead.made is not None
        alone = Modulation(*model.time_and_action(level, constants.action))
        for index, norm in enumerate([model.transformer_blocks[0].norm1, model.transformer_blocks[0].norm2]):
            torch.testing.assert_close(ahead.of(norm, index), alone.of(norm, index))
            norm_out, x = alone.of(norm, index).chunk(3, -1), torch.randn(2, 5, 7, model.width)
            stock, gate = norm(x, alone.time, alone.shared)
            torch.testing.assert_close(norm.norm(x) * (1 + norm_out[1]) + norm_out[0], stock)
            torch.testing.assert_close(norm_out[2], gate)
        shift, scale = ahead.of_last(model.norm_out).chunk(2, -1)
        torch.testing.assert_close(ahead.of_last(model.norm_out), alone.of_last(model.norm_out))
        stock = model.norm_out(x, alone.time, alone.shared)
        torch.testing.assert_close(model.norm_out.norm(x) * (1 + scale) + shift, stock)


def test_lanes_are_picked_and_repeated():
    model = transformer()
    sigma, constants = pieces(model, steps=2)
    norm = model.transformer_blocks[1].norm3
    for made in (True, False):
        ahead = model.modulations(sigma, constants)[0]
        modulation = ahead if made else Modulation(ahead.time, ahead.shared)
        whole = ahead.of(norm, 5)
        lane = torch.tensor([1])
        torch.testing.assert_close(modulation.select(lane).of(norm, 5), whole[1:])
        torch.testing.assert_close(modulation.repeat(2).of(norm, 5), torch.cat([whole, whole]))
        last = ahead.of_last(model.norm_out)
        torch.testing.assert_close(modulation.select(lane).of_last(model.norm_out), last[1:])
        torch.testing.assert_close(modulation.repeat(2).of_last(model.norm_out), torch.cat([last, last]))


def test_steps_of_a_static_schedule_are_made_together_and_others_by_themselves():
    model = transformer()
    sigma, constants = pieces(model, steps=20)
    whole, some = model.modulations(sigma, constants), model.modulations(sigma, constants, [0, 3, 17])
    assert len(some) == 20
    for step in (0, 3, 17, 5, 3):
        torch.testing.assert_close(some[step].made, whole[step].made)
        torch.testing.assert_close(some[step].time, whole[step].time)
        torch.testing.assert_close(some[step].last, whole[step].last)


@pytest.mark.parametrize(("rows", "steps"), [(1, 64), (5, 12), (32, 2), (33, 1), (500, 1)])
def test_steps_at_once(rows, steps):
    assert steps_at_once(rows) == steps


def test_many_lanes_make_nothing_ahead():
    calls = []

    def embed(sigma, action):
        calls.append(len(sigma))
        return sigma[..., None, None], sigma[..., None, None].repeat(1, 1, 1, 3)

    steps = Modulations(embed, transformer().make_modulations, torch.rand(3, 40, 4), None, [0, 2])
    assert steps[2].made is None
    assert calls == [40]
    assert all(step.made is None for step in steps)
    assert calls == [40, 40, 40, 40]
