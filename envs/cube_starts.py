"""Starts of the arm that ship with wcsim, so that its worlds are played and planned in without MuJoCo.

They are the simulator's own starts of 64 held-out seeds: frame and snapshot, and one frame in which the cube is where
it belongs.  Made by `scripts/ship_starts.py`.  Easy to get wrong: a shipped start does not belong to the seed that an
environment is reset with; seed s begins at the start number s modulo their number, so 64 seeds in a row differ.

Shapes: K starts.
"""

from __future__ import annotations

import hashlib
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from wcsim.envs.cube_truth import CubeSnapshot
from wcsim.envs.tasks import Start
from wcsim.errors import ConfigError

STARTS = Path(__file__).parent / "cube_starts.npz"
SHA256 = "cc0a1293dfac5acb25b173fbf38e1a7502211f1e339a8da76b15237a7280f095"
FIRST_SEED, COUNT = 600_000, 64
"""Of the simulator's starts that ship."""
PARTS = ("frames", "state", "site_xpos", "site_xmat", "goal_frame")
"""Frames `[K, 96, 96, 3]` uint8, the numbers of `CubeSnapshot` `[K, ...]` float64, and a frame `[96, 96, 3]`."""


@cache
def shipped(path: Path = STARTS, digest: str = SHA256) -> dict[str, np.ndarray]:
    """All that ships, by `PARTS`, read-only.  ConfigError where the file is not the one that was shipped."""
    if not path.is_file() or hashlib.sha256(packed := path.read_bytes()).hexdigest() != digest:
        raise ConfigError(f"{path} is missing or damaged: install wcsim again")
    with np.load(BytesIO(packed)) as read:
        parts = {name: read[name] for name in PARTS}
    for part in parts.values():
        part.setflags(write=False)
    return parts


def shipped_start(seed: int, action_size: int) -> Start:
    """The shipped start that `seed` begins at, one frame."""
    parts = shipped()
    at = seed % len(parts["frames"])
    snapshot = CubeSnapshot(parts["state"][at], parts["site_xpos"][at], parts["site_xmat"][at])
    return Start(parts["frames"][at, None], np.zeros((0, action_size), dtype=np.float32), snapshot)
