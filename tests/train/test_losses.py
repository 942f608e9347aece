"""Training on a few tokens of every frame is training on all of them, seen through a window."""

from __future__ import annotations

import pytest
import torch

from tiny_recipe import tiny_recipe
from wcsim.backbones.cosmos2.tiny import tiny_parts, tiny_state_model
from wcsim.train.losses import StateReader, TransformerLearner, control_of, patches, thin
from wcsim.train.windows import Window


@pytest.fixture
def window():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 4, 8, generator=generator)
    features = tiny_parts()[0].action.num_features
    return Window(torch.randn(3, 4, 4, 12, 12, generator=generator), torch.randn(3, 4, features, generator=generator),
                  torch.ones(3, 4, dtype=torch.bool), states, torch.diff(states, dim=1, prepend=states[:, :1]), 2)


def losses(window, kept=None, state_model=None, control_channels=0):
    _, model, _ = tiny_parts(control_channels=control_channels)
    torch.manual_seed(0)
    learner = TransformerLearner(model, StateReader(model.width, 8), tiny_recipe("x").transformer, state_model)
    generator = torch.Generator().manual_seed(1)
    found = learner(window, torch.rand(3, generator=generator), torch.randn(3, 4, 4, 12, 12, generator=generator),
                    torch.full((3,), 0.05), kept)
    return model, found


def test_patches_are_those_that_tokens_are_made_of():
    latents = torch.arange(2 * 3 * 4 * 6 * 6).view(2, 3, 4, 6, 6)
    seen = patches(latents, (1, 2, 3), torch.tensor([5, 0]))
    assert seen.shape == (2, 3, 4, 4, 3)
    assert seen[..., :2, :].equal(latents[..., 4:6, 3:6])
    assert seen[..., 2:, :].equal(latents[..., 0:2, 0:3])


@torch.no_grad()
def test_all_places_kept_are_all_tokens(window):
    whole = losses(window)[1]
    kept = losses(window, torch.randperm(16, generator=torch.Generator().manual_seed(2)))[1]
    for name in ("loss", "velocity", "robot_state"):
        torch.testing.assert_close(kept[name], whole[name], atol=1e-5, rtol=1e-5)
    assert not torch.isclose(losses(window, torch.tensor([3, 8]))[1]["velocity"], whole["velocity"])


def test_the_state_model_sees_the_context_alone_and_learns_nothing(window):
    dynamics = tiny_state_model()
    told = control_of(dynamics, window.latents[:, :2], window.actions, window.known)
    assert told.shape == (3, 4, 4, 12, 12)
    model, found = losses(window, state_model=dynamics, control_channels=4)
    found["loss"].backward()
    assert model.control_embedder.proj.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in dynamics.parameters())


@torch.no_grad()
def test_what_is_left_out_is_not_seen():
    _, model, _ = tiny_parts()
    latents = torch.randn(2, 4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    given = (torch.full((2, 3), 0.5), torch.zeros(2, 3, model.config.action_features), torch.ones(2, 3),
             torch.zeros(2, 1, 8), torch.zeros(3), model.position(latents))
    tokens, conditioning = model.embed(latents, *given)
    kept = torch.tensor([1, 3])
    few, seen = thin(tokens, conditioning, kept)
    assert few.shape == (2, 3 * 2, model.width)
    assert seen.grid == (3, 2, 1)
    assert few.unflatten(1, (3, 2)).equal(tokens.unflatten(1, (3, -1))[:, :, kept])
    assert model.unembed(model.run_blocks(few, 0, model.depth, seen), seen).shape[:3] == (2, 4, 3)
