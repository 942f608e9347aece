"""What docs/gpu.md asks for, rehearsed on the CPU: every check runs, and gives what it should give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wcsim.backbones.cosmos2.tiny import tiny_clip_world
from wcsim.world.checkpoints import save_world

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_rehearsal_passes_every_check(tmp_path):
    world = tiny_clip_world()
    save_world(tmp_path / "world", world.spec, world.transformer, world.codec)
    command = [sys.executable, str(ROOT / "scripts/gpu_check.py"), "--device", "cpu", "--quick", "--world",
               str(tmp_path / "world"), "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert not {name: result["failed"] for name, result in told.items() if "failed" in result}
    assert told["threshold_zero_is_no_cache"]["equal"]
    assert told["converted_world"]["uncached"] > 0
