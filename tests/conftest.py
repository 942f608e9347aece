"""Settings for the whole suite: no display, no network, the same examples on every machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Read when matplotlib, SDL and huggingface_hub are first imported, hence before any test module is.
os.environ.update(MPLBACKEND="Agg", SDL_VIDEODRIVER="dummy", HF_HUB_OFFLINE="1")
# The worlds of tests are tiny: a second thread spins more than it helps.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Scripts import each other by their bare names, and so do tests the helpers beside them.
TESTS = Path(__file__).parent
sys.path[:0] = map(str, [TESTS.parent / "scripts", *sorted(folder for folder in TESTS.iterdir() if folder.is_dir())])

settings.register_profile("wcsim", deadline=None, derandomize=True)
settings.load_profile("wcsim")

pytest_plugins = ["fabricated_run"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A world of random weights, on disk."""
    from wcsim.backbones.cosmos2.tiny import tiny_parts
    from wcsim.world.checkpoints import save_world

    path = tmp_path_factory.mktemp("worlds") / "tiny"
    save_world(path, *tiny_parts(task="pusht"))
    return str(path)


@pytest.fixture(scope="session")
def predicting_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with a state model."""
    from wcsim.backbones.cosmos2.tiny import tiny_parts, tiny_state_model
    from wcsim.world.checkpoints import save_world

    path = tmp_path_factory.mktemp("worlds") / "tiny"
    save_world(path, *tiny_parts(task="pusht", control_channels=4), state_model=tiny_state_model())
    return str(path)
