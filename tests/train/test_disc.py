"""Which frames fine-tuning a codec draws, how it reads a displacement, and that a deeper codec starts as the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wcsim.config import validate
from wcsim.errors import ConfigError
from wcsim.train.disc import Discs, Views, deepened, displacement, kind_of
from wcsim.train.privileged_recipe import Disc
from wcsim.world.codec import Codec

RADIUS = 3.0
SETTINGS = {"schedule": {"steps": 1, "batch": 64, "learning_rate": 1e-3}, "radius_px": RADIUS, "hue": (-0.5, 0.0, 0.5)}
DISC = validate(Disc, SETTINGS)


def soft_disc(distance):
    return (0.5 - (distance - RADIUS) / 1.5).clamp(0, 1)


@pytest.mark.parametrize("centre", [(20.0, 17.3), (0.4, 12.0)], ids=["whole", "cut by the border"])
def test_a_small_displacement_is_read(centre):
    steps, moved = torch.arange(32) + 0.5, (0.15, -0.1)
    x, y = (part.expand(1, 32, 32) for part in (steps[None, None, :] - centre[0], steps[None, :, None] - centre[1]))
    views = Views(torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32), x, y, torch.hypot(x, y) + 1e-6)
    change = soft_disc(torch.hypot(x - moved[0], y - moved[1])) - soft_disc(views.distance)
    error = torch.stack([-change, 0 * change, change], dim=1)
    torch.testing.assert_close(displacement(error, views, DISC), torch.tensor([moved]), atol=0.04, rtol=0)


def test_a_disc_that_is_not_in_view_is_not_displaced():
    far = torch.full((1, 8, 8), 50.0)
    views = Views(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8), far, far, far * 2**0.5)
    assert not displacement(torch.ones(1, 3, 8, 8), views, DISC).any()


def test_where_a_disc_is():
    backdrop = np.zeros((32, 32, 3), np.int16)
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[13:19, 13:19] = 200
    centre, border = np.array([16.0, 16.0]), np.array([16.0, 2.0])
    assert kind_of(frame, centre, backdrop, RADIUS) == "free"
    assert kind_of(frame, border, backdrop, RADIUS) == "border"
    assert kind_of(frame, np.array([30.0, 2.0]), backdrop, RADIUS) == "corner"
    frame[16, 21] = frame[2, 21] = 200
    assert kind_of(frame, centre, backdrop, RADIUS) == "company"
    assert kind_of(frame, border, backdrop, RADIUS) == "beside"
    frame[16, 21], frame[16, 26] = 0, 200
    assert kind_of(frame, centre, backdrop, RADIUS) == "free"


def test_frames_are_drawn_by_kind():
    kinds = {"free": np.arange(6), "corner": np.array([6]), "border": np.array([7])}
    discs = Discs(np.zeros((8, 4, 4, 3), np.uint8), np.zeros((8, 2)), np.zeros((4, 4, 3), np.int16), kinds)
    drawn = discs.draw(validate(Disc, {**SETTINGS, "shares": {"corner": 0.5, "border": 0.5}}), np.random.default_rng(0))
    assert set(drawn) == {6, 7}
    assert 16 < (drawn == 6).sum() < 48


def test_shares_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="together at most 1"):
        validate(Disc, {**SETTINGS, "shares": {"corner": 0.7, "border": 0.5}})


def test_a_deeper_codec_begins_as_the_same_function():
    codec = Codec.new({"base_dim": 4, "dim_mult": [1, 1], "z_dim": 4, "num_res_blocks": 1, "is_residual": True,
                       "temperal_downsample": [False], "scale_factor_temporal": 1, "scale_factor_spatial": 2})
    deep, new = deepened(codec.vae, 2)
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert new
    assert deep.config.num_res_blocks == 2
    latents = codec.encode(frames)
    assert torch.equal(Codec(deep).encode(frames), latents)
    assert (Codec(deep).decode(latents) == codec.decode(latents)).all()
    with pytest.raises(ConfigError, match="2 residual blocks already; 1 would be fewer"):
        deepened(deep, 1)
