"""A policy server that misbehaves, without a socket: every wrong answer is one error, after which all is well."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest

from linear_world import SPEC, frame_at
from wcsim.agents.adapters import ChunkedPolicy
from wcsim.agents.remote import RemoteSource, _loopback, _secret
from wcsim.config import validate
from wcsim.errors import ConfigError, RemoteError
from wcsim.estimate import Episode
from wcsim.experiments.policies import OpenPIPolicyConfig
from wcsim.messages import pack, unpack

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


def sent(actions: Any) -> Any:
    return lambda seen: pack({"actions": actions})


WRONG = [
    (lambda seen: "Traceback\nKeyError: 'image'\n", "failed: KeyError: 'image'"),
    (lambda seen: "", "failed: no reason given"),
    (lambda seen: " \n", "failed: no reason given"),
    (lambda seen: "\x1b[2J" + "x" * 10**6, r"failed: x+$"),
    (lambda seen: "a\x1b[2Jb\x07", r"failed: a\?\[2Jb\?$"),
    (lambda seen: pack({"action": 1, b"b": 2}), r"without actions: \['action', \"b'b'\"\]"),
    (lambda seen: msgpack.packb([1]), "sent a list, not a mapping"),
    (lambda seen: msgpack.packb(None), "sent a NoneType, not a mapping"),
    (lambda seen: pack({"actions": np.zeros((2, 2))})[:-1], "sent no msgpack message"),
    (lambda seen: bytes(range(256)), "sent no msgpack message"),
    (lambda seen: b"", "sent no msgpack message"),
    (lambda seen: b"\x81" * 10**5, "sent no msgpack message"),
    (lambda seen: pack({"actions": np.zeros(2**17)}), "sent a message of 10486.. bytes, allowed: 1048576"),
    (lambda seen: pack({"actions": {b"__ndarray__": True, b"dtype": "|O", b"shape": [1], b"data": bytes(8)}}),
     r"sent an array or number of type '\|O', allowed"),
    (sent(None), "actions that are a NoneType"),
    (sent("left"), "actions that are a str"),
    (sent(1.0), "actions that are a float"),
    (sent({"x": 1}), "actions that are a dict"),
    (sent(["left", 1.0]), "not all numbers"),
    (sent([[1.0], [None]]), "not all numbers"),
    (sent([True, False]), "not all numbers"),
    (sent(np.array([True])), "not all numbers"),
    (sent([{"x": 1}]), "not all numbers"),
    (sent([[1.0], [1.0, 2.0]]), "actions that are no array"),
    (sent([1.0, [2.0]]), "actions that are no array"),
    (sent([1.0, float("nan")]), "NaN or infinity"),
    (sent(np.array([[np.inf, 1]], np.float16)), "NaN or infinity"),
    (sent(np.float32(1)), "actions that are a float32"),
    (sent(np.array(1.0)), r"shape \[\], not"),
    (sent(np.zeros((1, 2, 2))), r"shape \[1, 2, 2\], not"),
    (sent([]), r"shape \[0\], not"),
    (sent(np.zeros((0, 2))), r"shape \[0, 2\], not"),
]
"""What a server may say instead of actions, and what the error says of it."""


@pytest.mark.parametrize(("answer", "message"), WRONG)
def test_what_is_no_chunk_is_an_error_and_the_next_call_connects_again(answer: Any, message: str) -> None:
    lines = [Loopback(answer), Loopback(ahead)]
    source = RemoteSource("ws://nowhere:1", connect=iter(lines).__next__, max_message_mb=1)
    with pytest.raises(RemoteError, match=message) as caught:
        source(SEEN)
    assert str(caught.value).startswith("the policy server at ws://nowhere:1 ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert lines[0].closed
    assert source(SEEN).shape == (3, 2)


def test_metadata_is_checked_as_well() -> None:
    line = Loopback(ahead)
    line.waiting = [msgpack.packb({"name": {b"__ndarray__": True}})]
    with pytest.raises(RemoteError, match="sent an array or number with other keys"):
        RemoteSource("ws://nowhere:1", connect=lambda: line)(SEEN)
    assert line.closed
    assert line.heard == []


@pytest.mark.parametrize(("given", "shape"), [
    ([1, 2.5], (2,)), ([[1, 2], [3, 4]], (2, 2)), ([np.float32(1), 2**64 - 1], (2,)), ([np.zeros(2), [1, 2]], (2, 2)),
    (np.zeros((3, 2), np.int16), (3, 2)), (np.zeros(7, np.float16), (7,))])
def test_actions_may_be_lists_or_arrays(given: Any, shape: tuple[int, ...]) -> None:
    line = Loopback(sent(given))
    assert RemoteSource("ws://nowhere:1", connect=lambda: line)(SEEN).shape == shape


@pytest.mark.parametrize("raised", [OSError("gone"), EOFError(), ValueError("bad"), OverflowError(), MemoryError(),
                                    RecursionError(), KeyError("x"), RuntimeError("lock"), KeyboardInterrupt()])
def test_whatever_a_connection_raises_closes_it(raised: BaseException) -> None:
    class Broken(Loopback):
        def send(self, message: bytes) -> None:
            raise raised

        def close(self) -> None:
            super().close()
            raise OSError("closed already")

    line = Broken(ahead)
    expected = RemoteError if isinstance(raised, Exception) else KeyboardInterrupt
    with pytest.raises(expected, match="does not answer: ." if expected is RemoteError else None):
        RemoteSource("ws://nowhere:1", connect=lambda: line)(SEEN)
    assert line.closed


def test_an_observation_that_lacks_a_name_is_an_error_before_anything_is_sent() -> None:
    line = Loopback(ahead)
    source = RemoteSource("ws://nowhere:1", connect=lambda: line, names={"x": "wrist", "y": "pixels"})
    with pytest.raises(ConfigError, match="a policy reads 'wrist'; the observation has pixels, agent_pos"):
        source(SEEN)
    assert len(line.waiting) == 1


def mutated(rng: np.random.Generator) -> bytes:
    """A message as a careless or a hostile server may send it."""
    def pick(values: list[Any]) -> Any:
        return values[rng.integers(len(values))]

    shape = [int(rng.integers(-1, 4)) for _ in range(rng.integers(4))]
    dtype = pick(["<f4", "|O", "|V8", "<M8[ns]", "|b1", "<i8", b"<u2", "O" * int(rng.integers(99)), None, 3])
    bad = {b"__ndarray__": True, b"dtype": dtype, b"shape": pick([shape, None, [2**40] * 3]),
           b"data": rng.bytes(int(rng.integers(40)))}
    good = {"infer_ms": 1.5, b"raw": [1, None]}
    number = {b"__npgeneric__": pick([True, 1]), b"dtype": dtype, b"data": pick([1, 0.5, b"x", None])}
    value = pick([np.zeros((2, 2), np.float32), bad, [bad], number, [number],
                  rng.normal(size=(2, 2)).tolist(), "text", {"deep": [[[bad]]]}])
    message = {pick(["actions", "actions", "action"]): value, "state": pick([good, good, bad])}
    whole = bytearray(pack(message) if rng.random() < 0.9 else msgpack.packb(good))
    for _ in range(rng.integers(6)):
        whole[rng.integers(len(whole))] = rng.integers(256)
    whole = whole[: rng.integers(len(whole) + 1)] if rng.random() < 0.2 else whole
    return pick([bytes(whole), bytes(whole), bytes(whole), rng.bytes(int(rng.integers(200)))])  # type: ignore[no-any-return]


def plain(value: Any) -> bool:
    """Whether a value and all in it are of the types that a message may hold."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biuf" and not value.flags.writeable | (value.dtype.itemsize > 8)
    if isinstance(value, dict):
        return all(isinstance(key, str | bytes) and plain(item) for key, item in value.items())
    return all(map(plain, value)) if type(value) is list else type(value) in (type(None), bool, int, float, str, bytes)


@pytest.mark.parametrize("count", [
    pytest.param(500, marks=pytest.mark.timeout(30)),
    pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_random_messages_are_values_or_one_error(count: int) -> None:
    rng, told = np.random.default_rng(7), {"values": 0, "actions": 0}
    for _ in range(count):
        message = mutated(rng)
        with suppress(RemoteError):
            assert plain(unpack(message))
            told["values"] += 1
        line = Loopback(lambda seen, message=message: message)
        with suppress(RemoteError):
            actions = RemoteSource("ws://nowhere:1", connect=lambda line=line: line)(SEEN)  # type: ignore[misc]
            assert np.isfinite(actions).all()
            assert actions.ndim in (1, 2)
            told["actions"] += 1
            continue
        assert line.closed
    assert min(told.values()) > count // 100  # not every message is refused at its first byte


def test_silence_is_an_error_and_the_next_call_connects_again() -> None:
    lines = [Loopback(ahead), Loopback(ahead)]
    lines[0].waiting.clear()
    source = RemoteSource("ws://nowhere:1", connect=iter(lines).__next__)
    with pytest.raises(RemoteError, match="does not answer: timed out"):
        source(SEEN)
    assert lines[0].closed
    assert source(SEEN).shape == (3, 2)


def test_packages_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ConfigError, match="needs the extra serve or openpi"):
        RemoteSource("ws://localhost:1")(SEEN)


@pytest.mark.parametrize("address", [
    "localhost:8000", "http://host:1", "ws://", "ws://:80", "ws://[::1", "ws://host:abc", "ws://host:99999", "",
    "ws://host:80\n", "ws://me:secret@host:80"])
def test_addresses_are_checked_and_no_password_is_repeated(address: str) -> None:
    with pytest.raises(ConfigError, match="ws://host:port or wss://host:port, got") as caught:
        RemoteSource(address)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("setting", [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"timeout_s": 1e300},
                                     {"max_message_mb": 0}, {"max_message_mb": 1e9}])
def test_limits_are_checked(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(setting))} must be above 0 and at most"):
        RemoteSource("ws://host:1", **setting)  # type: ignore[arg-type]


@pytest.mark.parametrize(("host", "local"), [
    ("localhost", True), ("a.localhost", True), ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True),
    ("::ffff:127.0.0.1", True), ("0.0.0.0", True), ("10.0.0.1", False), ("example.org", False), ("::2", False)])
def test_this_machine_is_known(host: str, local: bool) -> None:
    assert _loopback(host) is local


def test_a_key_may_be_in_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICY_KEY", "s3cret")
    assert (_secret("env:POLICY_KEY"), _secret("plain")) == ("s3cret", "plain")
    with pytest.raises(ConfigError, match="variable 'NO_SUCH_KEY', which is not set"):
        _secret("env:NO_SUCH_KEY")
    for key in ("s3cret\r\nHost: evil", "s3cret\u00e9", ""):
        with pytest.raises(ConfigError, match="printable ASCII, and not empty$"):
            _secret(key)
    settings = {"name": "far", "address": "ws://h:1", "key": "s3cret"}
    assert "s3cret" not in repr(validate(OpenPIPolicyConfig, settings))


@pytest.mark.parametrize("wrong", [{"timeout_s": 0}, {"max_message_mb": -1}, {"key": ""}, {"timeout": 1}])
def test_settings_of_a_policy_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        validate(OpenPIPolicyConfig, {"name": "far", "address": "ws://h:1", **wrong})
