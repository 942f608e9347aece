"""A policy server on this machine, and one that misbehaves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from threading import Thread
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.sync.server import serve

from linear_world import SPEC, frame_at
from wcsim.agents.adapters import ChunkedPolicy
from wcsim.agents.remote import RemoteError, RemoteSource, pack, unpack
from wcsim.errors import ConfigError
from wcsim.estimate import Episode

SEEN = {"pixels": frame_at(7, 9), "agent_pos": np.array([1.0, 2.0], np.float32)}


class Loopback:
    """A connection whose far end is here: it answers by `answer`, after its metadata."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.waiting, self.closed = answer, [pack({"name": "loopback"})], False
        self.heard: list[dict[str, Any]] = []

    def send(self, message: bytes) -> None:
        self.heard.append(unpack(message))
        self.waiting.append(self.answer(self.heard[-1]))

    def recv(self, timeout: float | None = None) -> str | bytes:
        if not self.waiting:
            raise TimeoutError("timed out")
        return self.waiting.pop(0)

    def close(self) -> None:
        self.closed = True


def ahead(seen: dict[str, Any]) -> bytes:
    """Three actions that walk away from where the agent is."""
    return pack({"actions": seen["observation/state"] + np.arange(3, dtype=np.float32)[:, None], "server_timing": {}})


def test_messages_keep_their_arrays() -> None:
    message = {"image": np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "one": np.float32(0.5), "prompt": "push",
               "list": [1, 2.5, None], "empty": np.zeros((0, 2))}
    again = unpack(pack(message))
    assert again.keys() == message.keys()
    assert np.array_equal(again["image"], message["image"])
    assert (again["image"].dtype, again["empty"].shape, again["one"].dtype) == (np.uint8, (0, 2), np.float32)
    assert (again["list"], again["prompt"]) == ([1, 2.5, None], "push")
    with pytest.raises(RemoteError, match="not ndarray"):
        pack({"objects": np.array([object()])})


def test_arrays_travel_as_openpi_packs_them() -> None:
    wire = msgpack.unpackb(pack({"state": np.array([1.0], np.float32)}))
    assert wire["state"] == {b"__ndarray__": True, b"data": b"\x00\x00\x80?", b"dtype": "<f4", b"shape": [1]}


def test_a_server_sees_what_the_policy_sees_and_its_chunk_is_played() -> None:
    line = Loopback(ahead)
    source = RemoteSource("ws://nowhere:1", prompt="push the T", connect=lambda: line)
    policy = ChunkedPolicy(source, SPEC.action, execute=2)
    policy.reset(Episode(0, 0))
    assert [policy.act(SEEN).tolist() for _ in range(3)] == [[1.0, 2.0], [2.0, 3.0], [1.0, 2.0]]
    assert source.metadata == {"name": "loopback"}
    assert len(line.heard) == 2
    assert line.heard[0]["prompt"] == "push the T"
    assert np.array_equal(line.heard[0]["observation/image"], SEEN["pixels"])


@pytest.mark.parametrize(("answer", "message"), [
    (lambda seen: "Traceback\nKeyError: 'image'\n", "failed: KeyError: 'image'"),
    (lambda seen: pack({"action": 1}), r"without actions: \['action'\]"),
])
def test_what_is_no_chunk_is_an_error(answer: Any, message: str) -> None:
    line = Loopback(answer)
    with pytest.raises(RemoteError, match=message):
        RemoteSource("ws://nowhere:1", connect=lambda: line)(SEEN)


def test_silence_is_an_error_and_the_next_call_connects_again() -> None:
    lines = [Loopback(ahead), Loopback(ahead)]
    lines[0].waiting.clear()
    source = RemoteSource("ws://nowhere:1", connect=iter(lines).__next__)
    with pytest.raises(RemoteError, match="does not answer: timed out"):
        source(SEEN)
    assert lines[0].closed
    assert source(SEEN).shape == (3, 2)


def test_addresses_and_packages_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="ws://host:port"):
        RemoteSource("localhost:8000")
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ConfigError, match="needs the extra openpi"):
        pack({})


@pytest.fixture
def server() -> Iterator[str]:
    """openpi's side of the protocol on a free port of this machine."""

    def handle(connection: Any) -> None:
        connection.send(pack({"name": "local"}))
        for message in connection:
            seen = unpack(message)
            connection.send("ValueError: no image\n" if seen["prompt"] == "fail" else ahead(seen))

    with serve(handle, "localhost", 0, compression=None, max_size=None) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield f"ws://localhost:{running.socket.getsockname()[1]}"
        running.shutdown()
        thread.join()


def test_a_local_server_is_asked_over_a_real_websocket(server: str) -> None:
    source = RemoteSource(server, prompt="push", timeout_s=20)
    assert source(SEEN).tolist() == [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]
    assert source.metadata == {"name": "local"}
    source.close()
    assert source(SEEN).shape == (3, 2)
    source.close()
    failing = RemoteSource(server, prompt="fail", timeout_s=20)
    with pytest.raises(RemoteError, match="ValueError: no image"):
        failing(SEEN)


def test_nobody_listening_is_an_error() -> None:
    with pytest.raises(RemoteError, match="does not answer"):
        RemoteSource("ws://localhost:9", timeout_s=5)(SEEN)
