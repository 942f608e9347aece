"""Hours in minutes: many sessions, many faults, and in the end nothing is left and no pixel is wrong.  Slow."""

from __future__ import annotations

import gc
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.client import connect

from served import served
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.remote import RemoteEnv
from wcsim.errors import RemoteError
from wcsim.messages import pack

FIDELITY = {"steps": 3, "cache": "none"}
FULL = "WCSIM_SOAK" in os.environ
SESSIONS, STEPS, FAULTS = (50, 200, 500) if FULL else (20, 100, 150)
TOKEN = "soak-soak-soak-soak"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def resident():
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def digest(env, seed):
    """Of all frames of an episode; a session breaks its own line now and then."""
    rng, told = np.random.default_rng(seed), sha256(env.reset(seed=seed)[0]["pixels"].tobytes())
    for step in range(STEPS):
        action = rng.uniform(0, 512, 2).astype(np.float32)
        if step % 70 == 69 and isinstance(env, RemoteEnv):
            env.session.line._socket.close()
        told.update(env.step(action)[0]["pixels"].tobytes())
    return told.hexdigest()


def fault(address, kind, rng):
    """One dropped socket, garbage, an oversized or a slow message, or a wrong token."""
    if kind == 0:
        with suppress(RemoteError):
            RemoteEnv(address, token="wrong-wrong-wrong-wrong")
        return
    with suppress(Exception), connect(f"{address}/session", additional_headers={
            "Authorization": f"Bearer {TOKEN}"}) as line:
        line.recv()
        if kind == 1:
            line.send(rng.bytes(int(rng.integers(1, 500))))
        elif kind == 2:
            line.send(bytes(2**20 + 1))
        else:
            line.send(pack({"id": 0, "op": "open", "fidelity": FIDELITY}))
            line.recv()
            line.send(pack({"id": 1, "op": "reset", "session": 0, "seed": 1}))
            moves = np.zeros((8, 2), np.float32)
            moves[0, 0] = np.nan if kind == 3 else 0
            line.send(pack({"id": 2, "op": "step", "session": 0, "actions": moves}))
            if kind == 4:
                line.socket.close()
                return
        line.recv(timeout=5)


def test_many_steps_and_faults(folder):
    def honest(seed):
        env = RemoteEnv(address, token=TOKEN, fidelity=FIDELITY)
        try:
            return digest(env, seed)
        finally:
            env.close()

    def hostile(number):
        rng = np.random.default_rng(number)
        time.sleep(float(rng.uniform(0, 0.2)))
        fault(address, number % 5, rng)

    with served(folder, token=TOKEN, message_bytes=2**20) as (address, service):
        with ThreadPoolExecutor(4) as good, ThreadPoolExecutor(2) as bad:
            early = list(good.map(honest, range(10)))
            gc.collect()
            before = resident()
            faults = [bad.submit(hostile, number) for number in range(FAULTS)]
            digests = early + list(good.map(honest, range(10, SESSIONS)))
            for one in faults:
                one.result()
        until = time.monotonic() + 20
        while service.meter.sessions or service.meter.connections:
            assert time.monotonic() < until, service.meter.summary()
            time.sleep(0.05)
        assert not service.batcher._lately
        assert service.meter.waiting == 0
        assert service.meter.malformed > FAULTS // 5
        gc.collect()
        assert resident() - before < 64 * 2**20
    local = ImaginedEnv("pusht", folder, fidelity=FIDELITY)
    assert digests == [digest(local, seed) for seed in range(SESSIONS)]
