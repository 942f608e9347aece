"""Reading windows is cheap beside training on them, and memory does not grow with the dataset."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from wcsim.data.recordings import RecordingsSpec, Signal, open_recordings

HERE = str(Path(__file__).parent)

CODE = f"""
import resource, sys
sys.path.insert(0, {HERE!r})
import numpy as np
from wcsim.data.recordings import open_recordings
read = open_recordings(sys.argv[1])
read.frames(0, "pixels", range(8)), read.episode(0)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rng = np.random.default_rng(0)
total = 0
for _ in range(400):
    number = int(rng.integers(len(read.episodes)))
    first = int(rng.integers(read.episodes[number].frames - 8))
    total += read.frames(number, "pixels", range(first, first + 8)).nbytes
    read.episode(number)
print(total, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used))
"""


def run(code: str, path: Path) -> str:
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout


def write_large(folder: Path, episodes: int, ticks: int) -> None:
    """Frames of slow waves, compressed well: small on disk, large in memory."""
    from wcsim.cameras import Cameras
    from wcsim.data.lerobot_writer import LeRobotWriter
    from wcsim.data.recordings import RecordedEpisode

    spec = RecordingsSpec(10.0, Cameras.single(128, 128), Signal(("a",)))
    ground = np.mgrid[:128, :128].sum(0)[None, ..., None] + np.zeros((1, 1, 1, 3), np.int64)
    with LeRobotWriter(folder, spec) as writer:
        for number in range(episodes):
            frames = ((ground + np.arange(ticks + 1)[:, None, None, None] + number) % 256).astype(np.uint8)
            writer.add(RecordedEpisode(str(number), np.zeros((ticks, 1), np.float32), None), {"pixels": [frames]})


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """20 episodes are 130 MB of frames; 400 random windows of them take a fraction of that."""
    write_large(tmp_path / "set", episodes=20, ticks=130)
    read, grown = (int(word) for word in run(CODE, tmp_path / "set").split())
    assert read == 400 * 8 * 128 * 128 * 3
    assert grown < 40e6, f"{grown / 1e6:.0f} MB more"


def test_an_npz_is_mapped_and_not_read(tmp_path: Path) -> None:
    """A file whose frames are larger than what may be read more is opened all the same."""
    frames = np.zeros((4001, 96, 96, 3), np.uint8)
    frames[:, 0, 0, 0] = np.arange(4001) % 251
    np.savez(tmp_path / "0.npz", frames=frames, actions=np.zeros((4000, 1)))
    code = CODE.replace("range(400)", "range(40)")
    assert int(run(code, tmp_path).split()[1]) < 40e6
    read = open_recordings(tmp_path).frames(0, "pixels", [4000, 7])
    assert read[:, 0, 0, 0].tolist() == [4000 % 251, 7]
