"""The open forward equals diffusers' own, and blocks may be run in any split."""

import pytest
import torch
from diffusers import CosmosTransformer3DModel

from wcsim.backbones.cosmos2.tiny import tiny_parts
from wcsim.backbones.cosmos2.transformer import OWN_ARGUMENTS, ActionCosmosTransformer


def inputs(model, *, lanes=2, frames=5, context=2, text_tokens=1):
    generator = torch.Generator().manual_seed(0)
    sigma = torch.full((lanes, frames), 0.7)
    sigma[:, :context] = 1e-4
    return {
        "latents": torch.randn(lanes, 4, frames, 12, 12, generator=generator),
        "sigma_NT": sigma,
        "actions_NTF": torch.randn(lanes, frames, model.config.action_features, generator=generator),
        "known_NT": torch.ones(lanes, frames, dtype=torch.bool),
        "text_NSE": torch.randn(lanes, text_tokens, 8, generator=generator),
        "clean_T": (torch.arange(frames) < context).float(),
    }


def stock_of(model):
    """Diffusers' own class on the same weights.  Its padding-mask branch needs torchvision, so the zero mask is given
    as one more input channel instead; that is the same arithmetic."""
    config = {k: v for k, v in model.config.items() if not k.startswith("_") and k not in OWN_ARGUMENTS}
    config |= {"in_channels": config["in_channels"] + 1, "concat_padding_mask": False, "extra_pos_embed_type": None}
    stock = CosmosTransformer3DModel(**config).eval()
    left_over = stock.load_state_dict(model.state_dict(), strict=False)
    assert not left_over.missing_keys
    assert all(key.startswith("action_embedder") for key in left_over.unexpected_keys)
    return stock


@pytest.mark.parametrize("text_tokens", [1, 3])
@torch.no_grad()
def test_equals_diffusers_forward_where_no_action_is_known(text_tokens):
    _, model, _ = tiny_parts()
    given = inputs(model, text_tokens=text_tokens)
    given["known_NT"][:] = False
    latents = given.pop("latents")
    ours = model(latents, **given)
    mask = given["clean_T"].view(1, 1, -1, 1, 1).expand(2, 1, -1, 12, 12)
    theirs = stock_of(model)(
        torch.cat([latents, mask, torch.zeros_like(mask)], dim=1),
        timestep=given["sigma_NT"][:, None, :, None, None], encoder_hidden_states=given["text_NSE"],
    ).sample
    # Float32 rounding: with one text token the value is projected once instead of once per token.
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_any_split_of_the_blocks_is_the_same_bit_for_bit():
    _, model, _ = tiny_parts(layers=4)
    given = inputs(model)
    position = model.position(torch.zeros(2, 4, 5, 12, 12))
    tokens, conditioning = model.embed(given.pop("latents"), position=position, **given)
    whole = model.run_blocks(tokens, 0, 4, conditioning)
    for split in range(1, 4):
        parts = model.run_blocks(model.run_blocks(tokens, 0, split, conditioning), split, 4, conditioning)
        assert torch.equal(whole, parts)


@torch.no_grad()
def test_an_action_changes_the_output_and_an_unknown_one_does_not():
    _, model, _ = tiny_parts()
    given = inputs(model)
    latents = given.pop("latents")
    before = model(latents, **given)
    other = given | {"actions_NTF": given["actions_NTF"] + 1.0}
    assert not torch.allclose(before, model(latents, **other))
    nothing = {"known_NT": torch.zeros(2, 5, dtype=torch.bool)}
    assert torch.equal(model(latents, **(given | nothing)), model(latents, **(other | nothing)))


@torch.no_grad()
def test_conditioning_of_some_lanes_gives_those_lanes():
    _, model, _ = tiny_parts()
    given = inputs(model, lanes=3)
    position = model.position(torch.zeros(3, 4, 5, 12, 12))
    tokens, conditioning = model.embed(given.pop("latents"), position=position, **given)
    whole = model.run_blocks(tokens, 0, 3, conditioning)
    some = torch.tensor([2, 0])
    part = model.run_blocks(tokens[some], 0, 3, conditioning.select(some))
    # Matrix products may round differently at another batch size.
    torch.testing.assert_close(whole[some], part, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_sample_is_turned_into_the_velocity_that_leads_to_it():
    _, model, _ = tiny_parts()
    given = inputs(model)
    latents, sigma = given.pop("latents"), given["sigma_NT"]
    predicted = model(latents, **given)
    assert model.velocity(predicted, latents, sigma) is predicted
    model.register_to_config(prediction="sample")
    velocity = model.velocity(predicted, latents, sigma)
    torch.testing.assert_close((latents - sigma[:, None, :, None, None] * velocity)[:, :, 2:], predicted[:, :, 2:])


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="prediction is 'noise'; known: velocity, sample"):
        ActionCosmosTransformer(num_layers=1, num_attention_heads=1, attention_head_dim=16, prediction="noise")
