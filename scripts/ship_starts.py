"""Write the arm's starts that ship with wcsim: frames and snapshots of held-out seeds, and a frame of the goal.

    python scripts/ship_starts.py --out envs/cube_starts.npz

Prints the hash that `wcsim.envs.cube_starts.SHA256` must be.  The same versions of MuJoCo and OGBench write the same
bytes.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

from wcsim.envs.cube_exploration import hand_of
from wcsim.envs.cube_hand import PickAndPlace
from wcsim.envs.cube_starts import COUNT, FIRST_SEED
from wcsim.envs.cube_truth import GOAL_CM, CubeSnapshot, CubeTruth

TICKS, AWAY_TICKS = 80, 8
"""In which the cube must be put down, and after which the hand is out of the way."""


def goal_frame(truth: CubeTruth, snapshot: CubeSnapshot) -> np.ndarray:
    """A frame `[96, 96, 3]` uint8 of the cube at its goal, put there from a start, the hand above it."""
    truth.restore(snapshot)
    hand, away = PickAndPlace(np.array(GOAL_CM[:2])), 0
    for _ in range(TICKS):
        truth.advance(hand.act(hand_of(truth.state)))
        away += hand.phase == "leave"
        if away == AWAY_TICKS:
            break
    seen = truth.look()
    if not seen.estimate.success[0]:
        raise SystemExit(f"the cube is not at its goal after {TICKS} ticks: {seen.state.round(1)}")
    return seen.pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    told = parser.parse_args()
    truth, frames, snapshots = CubeTruth(), [], []
    for seed in range(FIRST_SEED, FIRST_SEED + COUNT):
        frames.append(truth.reset(seed).pixels)
        snapshots.append(truth.snapshot())
    state, site_xpos, site_xmat = (np.array([getattr(snapshot, name) for snapshot in snapshots])
                                   for name in ("state", "site_xpos", "site_xmat"))
    np.savez_compressed(told.out, frames=np.array(frames), goal_frame=goal_frame(truth, snapshots[0]), state=state,
                        site_xpos=site_xpos, site_xmat=site_xmat)
    truth.close()
    print(f"{told.out.stat().st_size} bytes, sha256 {hashlib.sha256(told.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
