"""Rates of videos in the form that PyAV, imageio and Gymnasium take."""

from __future__ import annotations

import json
import warnings
from fractions import Fraction

import cv2
import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest

from tiny_worlds import save_world_of
from wcsim.envs.pendulum import Pendulum
from wcsim.envs.rates import Rate, rate
from wcsim.envs.wrappers import ChunkAction


def test_a_whole_rate_is_an_integer():
    assert type(rate(10.0)) is int
    assert rate(np.float32(30)) == 30


@pytest.mark.parametrize(("fps", "fraction"), [(29.97, Fraction(2997, 100)), (30000 / 1001, Fraction(30000, 1001)),
                                               (12.5, Fraction(25, 2))])
def test_another_is_both_a_float_and_a_fraction(fps, fraction, tmp_path):
    found = rate(fps)
    assert isinstance(found, float)
    assert np.issubdtype(type(found), np.floating)
    assert (found.numerator, found.denominator) == (fraction.numerator, fraction.denominator)
    assert json.loads(json.dumps(found)) == found == fps
    imageio.mimwrite(tmp_path / "film.mp4", np.zeros((3, 32, 32, 3), np.uint8), fps=found)
    assert cv2.VideoCapture(str(tmp_path / "film.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(fps, abs=0.01)


def test_pyav_takes_it(tmp_path):
    av = pytest.importorskip("av")
    for fps in (rate(10.0), rate(29.97)):
        with av.open(str(tmp_path / "film.mp4"), "w") as container:
            assert float(container.add_stream("mpeg4", rate=fps).codec_context.framerate) == pytest.approx(float(fps))


class Slow(Pendulum):
    """The pendulum at a rate that is not whole."""

    fps = 12.5


def test_every_environment_and_wrapper_says_the_same(tmp_path):
    settings = {"task": f"{__name__}:Slow", "world": save_world_of(Slow(), tmp_path / "slow"),
                "fidelity": {"steps": 2, "cache": "none"}, "render_mode": "rgb_array"}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        single = gym.make("wcsim/World-v0", **settings)
        single.reset(seed=0)
        single.render()
    assert not [one for one in told if "fps" in str(one.message)]
    vector = gym.make_vec("wcsim/World-v0", num_envs=1, vectorization_mode="vector_entry_point", **settings)
    synced = gym.make_vec("wcsim/World-v0", num_envs=1, vectorization_mode="sync", **settings)
    for env in (single, single.unwrapped, ChunkAction(single, 2), vector, vector.envs[0], synced):
        assert isinstance(env.metadata["render_fps"], Rate)
        assert env.metadata["render_fps"] == 12.5
