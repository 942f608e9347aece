"""Where things are in a frame, told to every token."""

import torch

from wcsim.backbones.cosmos2.embedders import moments
from wcsim.backbones.cosmos2.tiny import tiny_parts
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer


def test_white_noise_has_moments_of_variance_one():
    noise = torch.randn(400, 4, 2, 12, 10, generator=torch.Generator().manual_seed(0))
    said = moments(noise)
    assert said.shape == (400, 2, 12)
    torch.testing.assert_close(said.std((0, 1)), torch.ones(12), atol=0.12, rtol=0)


def test_moments_by_hand():
    frame = torch.zeros(1, 2, 1, 3, 4)
    frame[0, 1, 0, 2, 0] = 5.0
    (said,) = moments(frame)[0]
    row, column = (2 / 3) ** -0.5, -((1 + 1 / 9) / 2) ** -0.5
    torch.testing.assert_close(said, torch.tensor([0, 0, 0, 5, 5 * row, 5 * column]) / 12**0.5)


@torch.no_grad()
def test_every_token_of_a_frame_is_told_the_same():
    _, plain, _ = tiny_parts()
    config = {name: value for name, value in plain.config.items() if not name.startswith("_")}
    told = ActionCosmosTransformer(**config | {"frame_summary": True})
    told.load_state_dict(plain.state_dict() | {k: v for k, v in told.state_dict().items() if "summary" in k})
    latents = torch.randn(2, 4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    given = {
        "sigma_NT": torch.full((2, 3), 0.5), "actions_NTF": torch.zeros(2, 3, plain.config.action_features),
        "known_NT": torch.ones(2, 3), "text_NSE": torch.zeros(2, 1, 8), "clean_T": torch.zeros(3),
        "position": plain.position(latents),
    }
    difference = (told.embed(latents, **given)[0] - plain.embed(latents, **given)[0]).unflatten(1, (3, -1))
    assert (difference.abs().amax((2, 3)) > 1e-3).all()
    torch.testing.assert_close(difference, difference[:, :, :1].expand_as(difference), atol=1e-6, rtol=1e-5)
