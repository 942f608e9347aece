"""What the environment bench says on a quiet machine, held to its bounds: `pytest -m bench`."""

from __future__ import annotations

import pytest

from wcsim.experiments.bench.env import bench_env


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_lanes_pay_and_little_is_spent_outside_the_model(tmp_path):
    summary = bench_env("pusht-96", out=tmp_path, lanes=32, rounds=3, steps=None, caches=["wcsim", "none"], starts=1,
                        ticks=2, fewer_steps=14, deadline_ms=100.0)
    for told in summary["caches"].values():
        assert told["ratio"]["low"] > 1.0
        assert told["single"]["outside"] < 0.05
        assert told["lanes"]["outside"] < 0.05
