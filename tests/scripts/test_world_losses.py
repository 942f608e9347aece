"""Training on a few tokens of every frame is training on all of them, seen through a window."""

import sys
from pathlib import Path

import pytest
import torch

from wcsim.backbones.cosmos2.tiny import tiny_parts, tiny_state_model
from wcsim.world.body_dynamics import BodyDynamicsConfig, Estimator

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from recipe import Recipe
from train_dynamics import pose_loss
from world_losses import StateReader, Window, control_of, losses_of, patches, thin


@pytest.fixture
def training():
    return Recipe.load(Path(__file__).parents[2] / "configs" / "train_tiny.yaml").transformer


@pytest.fixture
def window():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 4, 8, generator=generator)
    return Window(torch.randn(3, 4, 4, 12, 12, generator=generator), torch.randn(3, 4, 18, generator=generator),
                  torch.ones(3, 4, dtype=torch.bool), states, torch.diff(states, dim=1, prepend=states[:, :1]), 2)


def test_patches_are_those_that_tokens_are_made_of():
    latents = torch.arange(2 * 3 * 4 * 6 * 6).view(2, 3, 4, 6, 6)
    seen = patches(latents, (1, 2, 3), torch.tensor([5, 0]))
    assert seen.shape == (2, 3, 4, 4, 3)
    assert seen[..., :2, :].equal(latents[..., 4:6, 3:6])
    assert seen[..., 2:, :].equal(latents[..., 0:2, 0:3])


@torch.no_grad()
def test_all_places_kept_are_all_tokens(training, window):
    _, model, _ = tiny_parts()
    window.actions.resize_(3, 4, model.config.action_features)
    reader = StateReader(model.width, 8)
    _, _, rows, columns = window.latents.shape[1:]
    places = rows * columns // (model.config.patch_size[1] * model.config.patch_size[2])
    whole = losses_of(model, reader, window, training, torch.Generator().manual_seed(1))
    kept = losses_of(model, reader, window, training, torch.Generator().manual_seed(1), places)
    torch.testing.assert_close(kept, whole, atol=1e-5, rtol=1e-5)
    few = losses_of(model, reader, window, training, torch.Generator().manual_seed(1), 2)
    assert not torch.isclose(few[0], whole[0])


def test_the_dynamics_see_the_context_alone_and_learn_nothing(training, window):
    _, model, _ = tiny_parts(control_channels=4)
    window.actions.resize_(3, 4, model.config.action_features)
    dynamics, reader = tiny_state_model(), StateReader(model.width, 8)
    told = control_of(dynamics, window.latents[:, :2], window.actions, window.known)
    assert told.shape == (3, 4, 4, 12, 12)
    losses = losses_of(model, reader, window, training, torch.Generator().manual_seed(1), dynamics=dynamics)
    losses[0].backward()
    assert model.control_embedder.proj.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in dynamics.parameters())


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("angled", [(False, False), (False, True)])
def test_the_estimator_learns_to_read(angled):
    estimator = Estimator(BodyDynamicsConfig(angled, (4, 12, 12), 2, width=64))
    poses = torch.rand(2, sum(2 + angle for angle in angled)) - 0.5
    latents = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    optimizer, losses = torch.optim.Adam(estimator.parameters(), 1e-2), []
    for _ in range(40):
        losses.append(pose_loss(estimator, latents, poses))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


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
