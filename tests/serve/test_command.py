"""The command: it serves, says where, refuses what it must, and ends in order."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from wcsim.cli import app
from wcsim.envs.remote import RemoteEnv
from wcsim.errors import RemoteError


def test_it_serves_until_it_is_interrupted(folder):
    command = [sys.executable, "-u", "-m", "wcsim.cli", "serve", folder, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            play(process)
        finally:
            process.kill()


def play(process):
    first, second = process.stdout.readline(), process.stdout.readline()
    assert first.startswith("tiny is served. Open http://127.0.0.1:")
    found = re.search(r'address="(ws://127\.0\.0\.1:\d+)"', second)
    env = RemoteEnv(found[1], fidelity={"steps": 2, "cache": "none"}, retry_s=0.1)
    env.reset(seed=0)
    env.step(np.full(2, 100.0))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    with pytest.raises(RemoteError):
        env.step(np.full(2, 100.0))
    env.close()


def refused(*words):
    done = CliRunner().invoke(app, ["serve", *words])
    assert done.exit_code == 2
    return " ".join(done.output.split())


def test_what_it_refuses(folder):
    assert "give a --token" in refused(folder, "--host", "0.0.0.0")
    assert "at least 16 characters" in refused(folder, "--token", "short")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot listen on 127.0.0.1" in refused(folder, "--port", str(taken.getsockname()[1]))
    assert "error:" in refused("no-such-world", "--port", "0")
    assert "--cores is for --device cpu" in refused(folder, "--port", "0", "--device", "cuda", "--cores", "2")
    for task in ("nobody_here:Task", "wcsim.envs.pendulum:Pendulum"):  # a module named here needs no --allow
        told = refused(folder, "--port", "0", "--task", task)
        assert "may not load" not in told
        assert ("PYTHONPATH" in told) == (task == "nobody_here:Task")
