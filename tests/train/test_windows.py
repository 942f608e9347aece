"""Windows of footage: whole, inside their episode, and drawn where the picture changes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_recipe import tiny_recipe
from wcsim.train.footage import LatentFootage, changes
from wcsim.train.windows import Windows


def footage(lengths: list[int]) -> LatentFootage:
    """Frames whose only latent is their number in the episode plus 100 times the episode's; the last one jumps."""
    first = np.cumsum([0, *lengths])
    number = np.concatenate([np.arange(length) for length in lengths])
    episode = np.repeat(np.arange(len(lengths)), lengths)
    latents = (100.0 * episode + number).astype(np.float16).reshape(-1, 1, 1, 1)
    known = number > 0
    return LatentFootage(latents, torch.from_numpy(number.astype(np.float32))[:, None], torch.from_numpy(known),
                         changes(latents, known), np.repeat(first[1:], lengths) - np.arange(first[-1]),
                         np.repeat(first[:-1], lengths), torch.zeros(first[-1], 0), torch.zeros(first[-1], 0))


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.integers(0, 2**31), st.booleans())
def test_a_window_is_consecutive_frames_of_one_episode(lengths, seed, imagined):
    windows = Windows(footage(lengths), tiny_recipe("x").transformer)
    window = windows.draw(16, np.random.default_rng(seed), imagined)
    values = window.latents[..., 0, 0, 0]
    assert (values.diff(dim=1) == 1).all()
    assert (window.actions[..., 0] == values % 100).all()
    assert 1 <= window.context < window.latents.shape[1]
    assert not window.known[values % 100 == 0].any()


def test_change_is_zero_where_an_episode_begins():
    found = footage([3, 4])
    assert found.change.tolist() == [0, 1, 1, 0, 1, 1, 1]


def test_windows_follow_what_changes():
    still = footage([400])
    still.change[:] = 0.0
    still.change[200] = 1.0
    recipe = tiny_recipe("x", "transformer.moving_share=1.0", "transformer.start_share=0.0").transformer
    window = Windows(still, recipe).draw(64, np.random.default_rng(0))
    new = window.latents[:, window.context :, 0, 0, 0]
    assert ((new == 200).any(dim=1)).all()
