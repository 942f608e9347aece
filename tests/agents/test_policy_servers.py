"""Policy servers on this machine, over real websockets: good, slow, silent and hostile ones."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import serve as serve_async
from websockets.exceptions import ConnectionClosed
from websockets.server import ServerProtocol
from websockets.sync.server import serve

from linear_world import frame_at
from wcsim.agents.remote import RemoteSource
from wcsim.config import validate
from wcsim.envs.tasks import make_task
from wcsim.errors import ConfigError, RemoteError
from wcsim.estimate import Episode
from wcsim.experiments.policies import OpenPIPolicyConfig, PolicyContext
from wcsim.messages import pack, unpack

SEEN = {"pixels": frame_at(7, 9), "agent_pos": np.array([1.0, 2.0], np.float32)}


def ahead(seen: Any) -> bytes:
    """Three actions that walk away from where the agent is."""
    return pack({"actions": seen["observation/state"] + np.arange(3, dtype=np.float32)[:, None], "server_timing": {}})


@contextmanager
def listening(handle: Callable[[Any], None], **options: Any) -> Iterator[str]:
    """The address of a server on a free port of this machine."""
    with serve(handle, "localhost", 0, compression=None, max_size=None, **options) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield f"ws://localhost:{running.socket.getsockname()[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[str]:
    """openpi's side of the protocol on a free port of this machine."""

    def handle(connection: Any) -> None:
        connection.send(pack({"name": "local"}))
        for message in connection:
            seen = unpack(message)
            connection.send("ValueError: no image\n" if seen["prompt"] == "fail" else ahead(seen))

    with listening(handle) as address:
        yield address


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
    task = make_task("pusht")
    config = validate(OpenPIPolicyConfig, {"name": "far", "address": server, "prompt": "push"})
    policy = config.build(PolicyContext(task, None, num_lanes=2))
    robots = np.array([[100.0, 50.0], [7.0, 9.0]], np.float32)
    seen = {"pixels": np.zeros((2, 96, 96, 3), np.uint8), "agent_pos": robots, "task": ["push", "push"]}
    policy.reset(np.ones(2, bool), [Episode(0, 1), Episode(1, 2)])
    assert policy.act(seen).tolist() == [[100.0, 50.0], [7.0, 9.0]]
    policy.lanes[0]._source.close()  # a connection is a thread, which a test must end


def test_nobody_listening_is_an_error() -> None:
    with pytest.raises(RemoteError, match="does not answer"):
        RemoteSource("ws://localhost:9", timeout_s=5)(SEEN)


def answers(*said: str | bytes) -> Callable[[Any], None]:
    """A handler that answers a connection's requests with what is said, then with good chunks."""
    def handle(connection: Any) -> None:
        connection.send(pack({"name": "local"}))
        for number, message in enumerate(connection):
            connection.send(said[number] if number < len(said) else ahead(unpack(message)))

    return handle


@pytest.mark.parametrize("garbage", [
    b"", b"\xc1", np.random.default_rng(5).bytes(1000), b"\x91" * 10**5, "failed\n", pack({"action": [1.0]}),
    pack({"actions": {b"__ndarray__": True, b"dtype": "|O", b"shape": [1], b"data": bytes(8)}}), bytes(2**21)],
    ids=["empty", "malformed", "random", "deep", "text", "no actions", "objects", "too large"])
@pytest.mark.timeout(60)
def test_garbage_after_a_good_chunk_is_one_error_and_the_next_call_connects_again(garbage: str | bytes) -> None:
    seen: list[Any] = []

    def handle(connection: Any) -> None:
        seen.append(connection)
        said = [garbage] if len(seen) == 1 else []
        answers(pack({"actions": [1.0, 2.0]}), *said)(connection)

    with listening(handle) as address:
        source = RemoteSource(address, timeout_s=20, max_message_mb=1)
        assert source(SEEN).tolist() == [1.0, 2.0]
        used: Any = source._connection
        with pytest.raises(RemoteError, match=f"the policy server at {address} "):
            source(SEEN)
        assert source._connection is None
        assert used.socket.fileno() == -1  # closed
        assert source(SEEN).tolist() == [1.0, 2.0]
        assert len(seen) == 2
        source.close()


def test_the_key_is_sent_and_a_proxy_does_not_catch_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "WS_PROXY", "ws_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    heard: list[str | None] = []

    def handle(connection: Any) -> None:
        heard.append(connection.request.headers.get("Authorization"))
        answers()(connection)

    with listening(handle) as address:
        source = RemoteSource(address, key="abc", timeout_s=20)
        assert source(SEEN).shape == (3, 2)
        source.close()
    assert heard == ["Api-Key abc"]
    with pytest.raises(ConfigError, match="not set"):
        RemoteSource(address, key="env:NO_SUCH_KEY")(SEEN)


@pytest.mark.timeout(60)
def test_a_server_that_is_silent_or_reads_no_more_is_given_up_in_time() -> None:
    done = Event()

    def handle(connection: Any) -> None:
        connection.send(pack({"name": "local"}))
        done.wait(40)

    with listening(handle) as address:
        began = time.monotonic()
        with pytest.raises(RemoteError, match="does not answer: timed out"):
            RemoteSource(address, timeout_s=0.5)(SEEN)
        assert time.monotonic() - began < 10
        done.set()
    with socket.create_server(("localhost", 0)) as quiet:
        Thread(target=greet, args=(quiet, done)).start()
        done.clear()
        source = RemoteSource(f"ws://localhost:{quiet.getsockname()[1]}", timeout_s=1, names={"big": "big"})
        began = time.monotonic()
        with pytest.raises(RemoteError, match="does not answer"):
            source({"big": np.zeros(2**26, np.uint8)})
        assert time.monotonic() - began < 10
        done.set()


@pytest.mark.timeout(60)
def test_an_answer_in_endless_fragments_is_given_up_in_time() -> None:
    def handle(connection: Any) -> None:
        def trickle() -> Iterator[bytes]:
            for _ in range(300):
                time.sleep(0.1)
                yield b"\xc0"

        connection.send(pack({"name": "local"}))
        connection.recv()
        with suppress(ConnectionClosed):
            connection.send(trickle())

    with listening(handle) as address:
        began = time.monotonic()
        with pytest.raises(RemoteError, match="does not answer"):
            RemoteSource(address, timeout_s=1)(SEEN)
        assert time.monotonic() - began < 10


def greet(listener: socket.socket, done: Event) -> None:
    """The handshake, the metadata, and then nothing is read."""
    line, _ = listener.accept()
    protocol = ServerProtocol()
    protocol.receive_data(line.recv(65536))
    request: Any = protocol.events_received()[0]
    protocol.send_response(protocol.accept(request))
    protocol.send_binary(pack({"name": "quiet"}))
    line.sendall(b"".join(protocol.data_to_send()))
    done.wait(40)
    line.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_first_answer_may_take_45_seconds_in_which_the_server_answers_no_ping() -> None:
    """openpi's server computes in its event loop, where a model's first call compiles for long."""
    port: list[int] = []
    ready, done = Event(), asyncio.Event()

    async def handle(connection: Any) -> None:
        await connection.send(pack({"name": "slow"}))
        message = await connection.recv()
        time.sleep(45)  # on purpose: as openpi's server does
        await connection.send(ahead(unpack(message)))
        await connection.wait_closed()
        done.set()

    async def main() -> None:
        async with serve_async(handle, "localhost", 0, compression=None, ping_interval=None) as running:
            port.append(next(iter(running.sockets)).getsockname()[1])
            ready.set()
            await done.wait()

    thread = Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait(20)
    source = RemoteSource(f"ws://localhost:{port[0]}", timeout_s=60)
    assert source(SEEN).shape == (3, 2)
    source.close()
    thread.join(20)
