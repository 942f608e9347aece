from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wcsim.envs.pusht import SCENE
from wcsim.envs.pusht_disc import REACH_PX, DrawnDisc
from wcsim.envs.pusht_scene import Patch
from wcsim.envs.pusht_truth import PushTTruth, start_at

BLUE = np.array([0.0, 0.0, 1.0 / SCENE.agent_colour[2]], dtype=np.float32)
DISC = DrawnDisc(SCENE, BLUE)


def table_of(x: int, y: int) -> np.ndarray:
    """The hue of a table that is black but for the agent's discs, `[512, 512]`."""
    table = np.zeros((512, 512), dtype=np.float32)
    left, top = np.array([x, y]) + SCENE.agent_drawn
    distance = np.hypot(np.arange(512) - left, np.arange(512)[:, None] - top)
    for radius, colour in SCENE.agent_discs:
        table[distance <= radius] = colour @ BLUE
    return table


def located(frame: np.ndarray, guess: np.ndarray) -> np.ndarray:
    patch = Patch.cut(SCENE, frame[None], np.ones_like(frame[None]), guess[None], DISC.half)
    return DISC.locate(patch, np.zeros_like(patch.value), guess[None])[0]


@settings(max_examples=40, deadline=None)
@given(x=st.integers(20, 491), y=st.integers(20, 491), off=st.tuples(*[st.floats(-4.4, 4.4)] * 2))
def test_a_drawn_disc_is_found_to_less_than_a_table_pixel(x, y, off):
    frame = cv2.resize(table_of(x, y), (96, 96))
    guess = np.array([x, y]) + SCENE.agent_drawn + off
    np.testing.assert_allclose(located(frame, guess), [x, y], atol=0.4)


def test_what_lies_beyond_the_frame_does_not_count():
    for x, y in ((9, 300), (505, 8), (3, 3)):
        frame = cv2.resize(table_of(x, y), (96, 96))
        np.testing.assert_allclose(located(frame, np.array([x + 2.0, y - 2.0])), [x, y], atol=1.5)


def test_a_frame_that_says_nothing_leaves_the_guess_about_where_it_was():
    flat = located(np.full((96, 96), 0.5, dtype=np.float32), np.array([250.0, 251.0]))
    assert np.abs(flat - [250.5, 251.5]).max() < REACH_PX


def test_discs_are_those_of_the_simulator():
    truth = PushTTruth()
    frame = truth.reset(start=start_at(np.array([101.2, 380.7]), np.array([300.0, 200.0, 0.4]))).pixels
    truth.close()
    table = np.full((512, 512, 3), 255, dtype=np.uint8)
    for radius, colour in SCENE.agent_discs:
        table[np.hypot(np.arange(512) - 100.5, np.arange(512)[:, None] - 380.5) <= radius] = colour
    apart = np.abs(cv2.resize(table, (96, 96)).astype(int) - frame)[66:77, 13:25]
    assert apart.max() < 60
    assert apart.mean() < 1.0
    assert SCENE.agent_colour == (72, 116, 241)


@pytest.mark.parametrize("guess", [(-30.0, 250.0), (540.0, 540.0)])
def test_a_guess_beyond_the_frame_stays_there(guess):
    assert np.abs(located(np.zeros((96, 96), dtype=np.float32), np.array(guess)) - guess).max() < REACH_PX + 1
