"""The contract of backbones: found by name, sized by their geometry, opened without changing a bit."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from wcsim.backbones.backbone import BACKBONES, Backbone, releases
from wcsim.backbones.cosmos2.tiny import tiny_cosmos, tiny_parts
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.backbones.cosmos3.tiny import tiny_generator
from wcsim.backbones.cosmos3.transformer import Cosmos3Generator
from wcsim.errors import CheckpointError

FAMILIES = (ActionCosmosTransformer, Cosmos3Generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_found_by_the_class_that_it_writes(family: type) -> None:
    assert BACKBONES.load(family.__name__) is family
    assert {family.__name__ for family in FAMILIES} == set(BACKBONES.names())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in vars(Backbone) if not name.startswith("_")])
def test_a_family_has_what_the_contract_asks_for(name: str, family: type) -> None:
    found = inspect.getattr_static(family, name)
    wanted = inspect.getattr_static(Backbone, name)
    assert isinstance(found, property) == isinstance(wanted, property)


def test_released_models_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("WCSIM_WORLDS", str(tmp_path))
    found = releases()
    assert found
    for reference, release in found.items():
        assert release.spec.labels == "none"
        with pytest.raises(CheckpointError, match="is not on this machine"):
            release.find(reference)


@pytest.mark.parametrize("model", [tiny_parts()[1], tiny_cosmos()[0], tiny_generator()])
@torch.no_grad()
def test_the_geometry_is_that_of_what_runs(model: Any) -> None:
    size = model.geometry
    generator = torch.Generator().manual_seed(0)
    cut = 1 if size.pads else 0
    latents = torch.randn(1, size.latent_channels, 2, 4 * size.patch[0] - cut, 3 * size.patch[1], generator=generator)
    count = 5 if size.action_tokens else 2
    actions = torch.zeros(1, count, size.action_features) if size.action_features else None
    known = None if actions is None else torch.ones(1, count, dtype=torch.bool)
    constants = model.prepare(latents, actions, known, torch.zeros(1, 1, model.text_width))
    step = model.modulations(torch.full((1, 1, 2), 0.5), constants)[0]
    tokens, given = model.embed_step(latents, step, torch.zeros(2), constants)
    assert tokens.shape == (1, 2 * 4 * 3 + constants.tail, size.width)
    assert constants.tail == (count if size.action_tokens else 0)
    whole = model.run_blocks(tokens, 0, size.depth, given)
    parts = tokens
    for index in range(size.depth):
        parts = model.run_blocks(parts, index, index + 1, given)
    assert parts.equal(whole)
    assert model.modulated(tokens, given).shape == tokens.shape
    said = model.head(whole, given, latents, torch.full((1, 2), 0.5))
    assert said.shape == latents.shape
    hidden = 4 * 3  # the last frame alone
    last = model.head(whole[:, hidden:], given.since(1), latents[:, :, 1:], torch.full((1, 1), 0.5))
    torch.testing.assert_close(last, said[:, :, 1:])
