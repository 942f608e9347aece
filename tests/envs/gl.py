"""Whether this machine can draw the arm."""

from __future__ import annotations

import pytest

from wcsim.envs.cube_rendering import context_class
from wcsim.errors import ConfigError


def need_gl() -> None:
    """Skip the test where MuJoCo or OpenGL without a display is missing."""
    pytest.importorskip("ogbench")
    try:
        context_class()
    except ConfigError as error:
        pytest.skip(str(error))
