"""Views joined and split again are the views, and the rest of a mosaic is black."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wcsim.cameras import Camera, Cameras
from wcsim.errors import ConfigError

sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)


@given(sizes, st.lists(st.integers(1, 3), max_size=2), st.integers(0, 9))
def test_split_is_the_reverse_of_join(sizes, lead, seed):
    cameras = Cameras(tuple(Camera(f"c{n}", *size) for n, size in enumerate(sizes)))
    rng = np.random.default_rng(seed)
    views = {camera.name: rng.integers(1, 256, (*lead, camera.height, camera.width, 3)).astype(np.uint8)
             for camera in cameras.cameras}
    mosaic = cameras.join(views)
    assert mosaic.shape == (*lead, *cameras.frame_size, 3)
    assert (mosaic > 0).sum() == sum(view.size for view in views.values())
    seen = cameras.split(mosaic)
    if len(sizes) == 1:
        assert seen is mosaic
        np.testing.assert_array_equal(cameras.join(seen), mosaic)
    else:
        assert isinstance(seen, dict)
        assert list(seen) == list(views)
        for name, view in views.items():
            np.testing.assert_array_equal(seen[name], view)


def test_misuse_is_named():
    two = Cameras((Camera("front", 4, 4), Camera("wrist", 2, 2)))
    front, wrist = np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ConfigError, match="pixels are of front; the cameras are front, wrist"):
        two.join({"front": front})
    with pytest.raises(ConfigError, match=r"camera .wrist. has frames uint8 \[2, 2, 4\]; allowed: uint8"):
        two.join({"front": front, "wrist": np.zeros((2, 2, 4), np.uint8)})
    with pytest.raises(ConfigError, match="has frames float64"):
        two.join({"front": front, "wrist": wrist / 255})
    with pytest.raises(ConfigError, match="different names, got front, front"):
        Cameras((Camera("front", 4, 4),) * 2)
    with pytest.raises(ConfigError, match="one camera or more, of different names, got none"):
        Cameras(())
