"""`import wcsim` in the folder that holds a clone called `wcsim`, which Python takes for the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

PROGRAM = """
from importlib.resources import files
import wcsim
assert wcsim.__version__ and wcsim.__spec__.origin.endswith("wcsim/wcsim/__init__.py"), wcsim
import wcsim.envs.tasks, wcsim.registry, gymnasium
assert wcsim.registry.Registry.__module__ == "wcsim.registry"
assert "wcsim/World-v0" in gymnasium.registry
assert files("wcsim.assets").joinpath("pusht-96").is_dir()
from wcsim import World
assert World.__module__ == "wcsim.world.world"
"""


def test_the_folder_above_a_clone_does_not_hide_the_package(tmp_path: Path) -> None:
    (tmp_path / "wcsim").symlink_to(ROOT, target_is_directory=True)
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
