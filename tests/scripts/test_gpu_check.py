"""What docs/gpu.md asks for, rehearsed on the CPU: every check runs, and gives what it should give."""

from __future__ import annotations

import json

import pytest

from test_training import run
from wcsim.backbones.cosmos2.tiny import tiny_clip_world
from wcsim.world.checkpoints import save_world


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_rehearsal_passes_every_check(tmp_path):
    world = tiny_clip_world()
    save_world(tmp_path / "world", world.spec, world.transformer, world.codec)
    run("gpu_check.py", tmp_path, "--device", "cpu", "--quick", "--world", str(tmp_path / "world"), "--out", "out")
    told = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert not {name: result["failed"] for name, result in told.items() if "failed" in result}
    assert told["threshold_zero_is_no_cache"]["equal"]
    assert told["converted_world"]["uncached"] > 0
