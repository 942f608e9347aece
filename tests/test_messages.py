"""Messages from a stranger: the right ones come through whole, every other one is a RemoteError."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest

from wcsim import messages
from wcsim.errors import ConfigError, RemoteError
from wcsim.messages import DTYPES, pack, unpack


def array(**changed: Any) -> dict[bytes, Any]:
    """An array of two float32 as openpi packs it, with changes."""
    told = {b"__ndarray__": True, b"dtype": "<f4", b"shape": [2], b"data": bytes(8)}
    return told | {key.encode(): value for key, value in changed.items()}


def scalar(dtype: Any, data: Any) -> dict[bytes, Any]:
    return {b"__npgeneric__": True, b"dtype": dtype, b"data": data}


def refused(value: Any, match: str = "") -> None:
    with pytest.raises(RemoteError, match=match) as caught:
        unpack(msgpack.packb({"actions": value}))
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_messages_keep_their_arrays() -> None:
    message = {"image": np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "one": np.float32(0.5), "prompt": "push",
               "list": [1, 2.5, None], "empty": np.zeros((0, 2)), "bytes": b"\xff", "point": np.array(3.0)}
    again: Any = unpack(pack(message))
    assert again.keys() == message.keys()
    assert np.array_equal(again["image"], message["image"])
    assert (again["image"].dtype, again["empty"].shape, again["one"].dtype) == (np.uint8, (0, 2), np.float32)
    assert (again["list"], again["prompt"], again["bytes"]) == ([1, 2.5, None], "push", b"\xff")
    assert (again["point"].shape, float(again["point"])) == ((), 3.0)


@pytest.mark.parametrize("value", [np.array([object()]), np.array(["a"]), np.array([1j]), np.array([1], ">i4"),
                                   np.zeros(1, "M8[ns]"), np.zeros(1, np.longdouble), object(), 2**64, "\ud800"])
def test_what_could_not_be_read_is_not_sent(value: Any) -> None:
    with pytest.raises(RemoteError, match="not (ndarray|object|int)|cannot hold"):
        pack({"value": value})


@pytest.mark.parametrize("name", DTYPES)
def test_every_allowed_type_comes_back_and_cannot_be_written_to(name: str) -> None:
    given = np.array([[0, 1, 1]], name)
    for dtype in (name, name.encode()):
        again: Any = unpack(msgpack.packb(array(dtype=dtype, shape=[1, 3], data=given.tobytes())))
        assert again.dtype == given.dtype
        assert np.array_equal(again, given)
        assert not again.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            again[0, 0] = 1
    number: Any = unpack(pack({"number": given[0, 1]}))["number"]  # type: ignore[call-overload,index]
    assert (np.asarray(number).dtype, number) == (given.dtype, 1)  # a float64 travels as msgpack's own float


def test_arrays_travel_as_openpi_packs_them() -> None:
    wire = msgpack.unpackb(pack({"state": np.array([1.0], np.float32)}))
    assert wire["state"] == {b"__ndarray__": True, b"data": b"\x00\x00\x80?", b"dtype": "<f4", b"shape": [1]}


def test_a_bool_is_false_or_true() -> None:
    again: Any = unpack(msgpack.packb(array(dtype="|b1", shape=[3], data=b"\x00\x01\x07")))
    assert again.tobytes() == b"\x00\x01\x01"


@pytest.mark.parametrize("dtype", [
    "|O", b"|O", "O", "object", "|V8", "<M8[ns]", "<m8[ns]", "<U2", "|S8", "<c8", "<f16", ">f4", "f4", "float32", "",
    "<f4,<f4", "f" * 10**6, b"f" * 10**6, "\x1b[2J", None, 7, ["<f4"],
    {"names": ["a"], "formats": ["O"]}, [["a", "O"]]])
def test_only_plain_types_are_read(dtype: Any) -> None:
    refused(array(dtype=dtype), "of type .* allowed: .*<f4")
    refused(scalar(dtype, 1.0), "of type .* allowed: .*<f4")


@pytest.mark.parametrize("shape", [
    [-1], [-2, -1], [3], [1], [2, 2], [2**31], [2**32, 2**32], [2**62, 4], [2**63, 2], [0, 2**62], [0, 2**64 - 1], [],
    [2.0], [True, 2], ["2"], [None], [b"2" * 10**6], None, 2, {}, "2", [1] * 9, [1] * 10_000, [[2]],
    [0] + [2**31 - 1] * 7])
def test_only_the_shape_that_the_bytes_fill_is_read(shape: Any) -> None:
    refused(array(shape=shape), "an array of shape")
    refused(array(shape=shape, data=b"") if shape != [] else array(data=b""), "an array of shape")


@pytest.mark.parametrize("data", ["text8888", None, [0] * 8, 8, bytes(7), bytes(9), b"", {}])
def test_only_bytes_are_an_array(data: Any) -> None:
    refused(array(data=data), r"an array of shape \[2\] and type <f4 in ")


@pytest.mark.parametrize(("dtype", "data"), [
    ("|u1", 256), ("|i1", -129), ("<u8", -1), ("<i8", 2**63), ("<i4", 1.0), ("<f4", 1), ("<f4", 1e300), ("<f2", 7e4),
    ("|b1", 1), ("<i4", True), ("<f8", "1"), ("<f8", b"1"), ("<f8", None), ("<f8", [1.0])])
def test_only_numbers_of_their_type_are_read(dtype: str, data: Any) -> None:
    refused(scalar(dtype, data), f"a number of type {dtype[1:]}|a number of type .{dtype[1:]}")


def test_scalars_that_are_not_finite_stay_so() -> None:
    assert np.isinf(unpack(msgpack.packb(scalar("<f2", float("-inf")))))  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["dtype", "shape", "data"])
def test_an_array_has_all_of_its_keys_and_no_other(missing: str) -> None:
    refused({key: value for key, value in array().items() if key != missing.encode()}, "other keys than")
    refused(array() | {b"descr": b"x" * 10**6}, "other keys than")


@pytest.mark.parametrize("data", [
    b"", b"\xc1", b"\xc0\xc0", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff", b"\xa2\xff\xff", b"\x81\x01\x02", b"\x81\x90\xc0", b"\xd4\x05\x00", b"\xc7\x00\x05",
    b"\xd6\xff\x00\x00\x00\x00", b"\xd7\xff" + b"\xff" * 8, b"\xc7\x00\xff", b"\x91" * 10**5, b"\x81\xa0" * 10**5,
    b"\x91" * 40 + b"\xc0", b"\x81\xa0" * 40 + b"\xc0", b"\xdd\x00\x01\x86\xa0" * 1000,
    b"\xdc\x40\x01" + b"\xc0" * (2**14 + 1)])
def test_bad_bytes_are_one_error(data: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        unpack(data)
    assert str(caught.value).isprintable()


def test_every_beginning_of_a_message_is_refused() -> None:
    whole = pack({"actions": np.arange(6, dtype=np.float32).reshape(3, 2), "server_timing": {"infer_ms": 1.5}})
    for end in range(len(whole)):
        with pytest.raises(RemoteError):
            unpack(whole[:end])


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    message = pack({"actions": np.zeros(100)})
    with pytest.raises(RemoteError, match=f"{len(message)} bytes, allowed: 99"):
        unpack(message, max_bytes=99)
    assert unpack(message, max_bytes=len(message))
    monkeypatch.setattr(messages, "MAX_VALUES", 5)
    assert unpack(msgpack.packb([1, 2, 3, 4])) == [1, 2, 3, 4]
    with pytest.raises(RemoteError, match="more than 5 values"):
        unpack(msgpack.packb([1, [2, 3], [4]]))


@pytest.mark.timeout(60)
def test_small_items_cannot_fill_the_memory() -> None:
    """Empty lists take one byte each on the wire, and 64 times as much as objects."""
    data = (b"\xdc\x3f\xff" + b"\x90" * 0x3FFF) * 0x3FF
    bomb = b"\xdc\x03\xff" + data
    tracemalloc.start()
    with pytest.raises(RemoteError, match="values"):
        unpack(bomb)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 200e6


def test_packages_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    for call in (lambda: pack({}), lambda: unpack(b"\x80")):
        with pytest.raises(ConfigError, match="needs the extra serve or openpi"):
            call()
