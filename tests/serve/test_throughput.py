"""Sessions that step at once against sessions that step one after another, and a served step against a local one."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.remote import RemoteEnv

FIDELITY = {"steps": 12, "cache": "wcsim"}
SESSIONS, STEPS, ROUNDS = 8, 4, 5
pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server of the shipped world in a process of its own, on two cores."""
    command = [sys.executable, "-u", "-m", "wcsim.cli", "serve", "pusht-96", "--port", "0", "--cores", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            found = re.search(r'address="(ws://127\.0\.0\.1:\d+)"', process.stdout.readline())
            assert found is not None
            yield found[1]
        finally:
            process.kill()


def play(env: Any, seed: int) -> str:
    """A digest of all frames of some steps."""
    rng, told = np.random.default_rng(seed), sha256(env.reset(seed=seed)[0]["pixels"].tobytes())
    for _ in range(STEPS):
        told.update(env.step(rng.uniform(0, 512, 2).astype(np.float32))[0]["pixels"].tobytes())
    return told.hexdigest()


def test_eight_at_once_against_one_after_another(address: str) -> None:
    envs = [RemoteEnv(address, fidelity=FIDELITY) for _ in range(SESSIONS)]
    ratios, rates = [], []
    with ThreadPoolExecutor(SESSIONS) as pool:
        list(pool.map(play, envs, range(SESSIONS)))  # warm
        for seed in range(0, ROUNDS * SESSIONS, SESSIONS):
            seeds = range(seed, seed + SESSIONS)
            time.sleep(0.6)  # the server waits for no session of before
            began = time.perf_counter()
            alone = [pool.submit(play, env, one).result() for env, one in zip(envs, seeds, strict=True)]
            between = time.perf_counter()
            together = list(pool.map(play, envs, seeds))
            ended = time.perf_counter()
            assert alone == together
            ratios.append((between - began) / (ended - between))
            rates.append(SESSIONS * STEPS / (ended - between))
    for env in envs:
        env.close()
    print(f"\n{SESSIONS} sessions at once: {np.median(rates):.1f} steps/s, {np.median(ratios):.2f} times as many as "
          f"one after another ({min(ratios):.2f} to {max(ratios):.2f})")
    assert np.median(ratios) >= 2.5


def test_what_the_server_adds_to_a_step(address: str) -> None:
    remote = RemoteEnv(address, fidelity=FIDELITY)
    local = ImaginedEnv("pusht", "pusht-96", fidelity=FIDELITY)
    for env in (remote, local):
        env.reset(seed=0)
    took: list[tuple[float, float]] = []
    added = []
    for action in np.random.default_rng(0).uniform(0, 512, (40, 2)).astype(np.float32):
        times = []
        for env in (remote, local):
            began = time.perf_counter()
            env.step(action)
            times.append(1e3 * (time.perf_counter() - began))
        took.append((times[0], times[1]))
        added.append(times[0] - remote.last_timing["step"])
    remote.close()
    whole, alone = np.median(np.array(took)[5:], axis=0)
    print(f"\na step takes {whole:.1f} ms served and {alone:.1f} ms here; transport and queue take "
          f"{np.median(added):.1f} ms, {np.median(added) / whole:.1%}")
    assert np.median(added) < 0.05 * whole
