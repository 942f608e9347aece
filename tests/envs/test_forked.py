"""Environments in forked processes, which lose the threads of their parent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import gymnasium as gym, numpy as np, torch, wcsim
settings = {"world": FOLDER, "fidelity": {"steps": 2, "cache": "none"}}
env = gym.make("wcsim/PushT-v0", **settings)
env.reset(seed=0)
env.step(np.zeros(2, np.float32))                       # starts the threads that a fork loses
a = torch.ones(600, 600) @ torch.ones(600, 600)
results = []
for mode in ("async", "sync"):
    envs = gym.make_vec("wcsim/PushT-v0", num_envs=2, vectorization_mode=mode, **settings)
    envs.reset(seed=[3, 4])
    results.append(envs.step(np.full((2, 2), 100, np.float32)))
    envs.close()
np.testing.assert_array_equal(results[0][0]["pixels"], results[1][0]["pixels"])
np.testing.assert_array_equal(results[0][1], results[1][1])
assert torch.get_num_threads() == 2, torch.get_num_threads()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks here")
def test_an_asynchronous_vector_environment_does_not_hang(folder):
    program = PROGRAM.replace("FOLDER", repr(folder))
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "2"}, timeout=200,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
