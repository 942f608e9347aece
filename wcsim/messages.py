"""Messages over a socket: msgpack, with arrays and numpy's scalars in openpi's own packing.

Easy to get wrong: a message comes from outside.  A dtype, a shape and bytes that a stranger chose must not reach numpy
before they are checked: dtype `O` would make pointers of the bytes.  Needs the extra `serve` or `openpi`, imported on
first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from math import isfinite, prod
from reprlib import repr as short
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from wcsim.errors import ConfigError, RemoteError

Value: TypeAlias = (
    "bool | int | float | str | bytes | list[Value] | dict[str | bytes, Value] | np.ndarray | np.generic | None")
"""What a message may hold."""

MAX_BYTES = 64 * 2**20
"""Of a message, unless set otherwise."""
MAX_LENGTH = 2**14
"""Items of one list or mapping."""
MAX_VALUES = 2**20
"""Items of all lists and mappings of a message: an item takes one byte on the wire, and far more as an object."""
MAX_DEPTH = 32
"""Lists and mappings within each other."""
MAX_DIMS, MAX_SIZE = 8, 2**31 - 1
"""Of an array: dimensions, and the length of one."""

DTYPES = {name: np.dtype(name) for name in (
    "|b1", "|i1", "|u1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<i8", "<u8", "<f8")}
"""The array types that travel, by `numpy.dtype.str`: numbers and bools of at most 8 bytes, little-endian."""

_ARRAY = {b"__ndarray__", b"dtype", b"shape", b"data"}
_SCALAR = {b"__npgeneric__", b"dtype", b"data"}


def pack(message: Mapping[str, Any]) -> bytes:
    """Bytes of a message.  RemoteError where it holds something else than text, numbers and arrays of `DTYPES`."""

    def plain(value: Any) -> dict[bytes, Any]:
        if not isinstance(value, np.ndarray | np.generic):
            raise RemoteError(f"a message holds numbers, text and arrays of them, not {type(value).__name__}")
        if value.dtype.str not in DTYPES:
            raise RemoteError(f"a message holds numbers, text and arrays of them, not {type(value).__name__} of "
                              f"{value.dtype}; allowed: {', '.join(DTYPES)}")
        header: dict[bytes, Any] = {b"dtype": value.dtype.str}
        if isinstance(value, np.ndarray):
            return header | {b"__ndarray__": True, b"data": value.tobytes(), b"shape": value.shape}
        return header | {b"__npgeneric__": True, b"data": value.item()}

    packb = package("msgpack").packb
    try:
        packed: bytes = packb(message, default=plain)
    except (ValueError, OverflowError) as error:  # a number beyond 64 bits, half a surrogate pair, endless nesting
        raise RemoteError(f"a message cannot hold this: {error}") from error
    return packed


def unpack(data: bytes, *, max_bytes: int = MAX_BYTES) -> Value:
    """The value that `pack` made: plain types, and arrays that are read-only.

    Checks everything before it builds anything: sizes, depth, kinds, and that an array's dtype is one of `DTYPES` and
    its bytes are as many as its shape needs.  RemoteError, and no other, for whatever is not such a message.
    """
    if len(data) > max_bytes:
        raise RemoteError(f"a message of {len(data)} bytes, allowed: {max_bytes}")
    unpackb, count = package("msgpack").unpackb, _Count()
    try:
        raw = unpackb(
            data, raw=False, strict_map_key=True, ext_hook=_extension, list_hook=count, object_hook=count,
            max_array_len=MAX_LENGTH, max_map_len=MAX_LENGTH, max_ext_len=0)
    except RemoteError:
        raise
    except Exception as error:  # msgpack's own kinds, ValueError, TypeError, RecursionError, MemoryError
        why = short(str(error)) if str(error) else "the bytes are malformed or too deeply nested"
        raise RemoteError(f"no msgpack message ({type(error).__name__}: {why})") from error
    return _value(raw, MAX_DEPTH)


def package(name: str) -> ModuleType:
    """A module of the extras `serve` and `openpi`.  ConfigError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"a connection needs the extra serve or openpi (pip install 'wcsim[serve]'): {error}") from error


class _Count:
    """Refuses a message while it is read, before too many small items fill the memory."""

    def __init__(self) -> None:
        self._values = 0

    def __call__(self, items: Any) -> Any:
        self._values += 1 + len(items)
        if self._values > MAX_VALUES:
            raise RemoteError(f"a message of more than {MAX_VALUES} values")
        return items


def _extension(code: int, data: bytes) -> Value:
    raise RemoteError(f"extension type {code}, allowed: none")


def _value(raw: Any, depth: int) -> Value:
    """What msgpack read, with arrays and scalars made of their mappings."""
    if raw is None or isinstance(raw, bool | int | float | str | bytes):
        return raw
    if depth == 0:
        raise RemoteError(f"lists and mappings nested deeper than {MAX_DEPTH}")
    if isinstance(raw, list):
        return [_value(item, depth - 1) for item in raw]
    if not isinstance(raw, dict):
        raise RemoteError(f"a value of type {type(raw).__name__}")
    if b"__ndarray__" in raw:
        return _array(raw)
    if b"__npgeneric__" in raw:
        return _scalar(raw)
    return {key: _value(item, depth - 1) for key, item in raw.items()}


def _array(raw: Mapping[Any, Any]) -> np.ndarray:
    """A read-only view of the message's own bytes, which cannot be written to."""
    dtype, shape, data = _dtype(raw, _ARRAY), raw[b"shape"], raw[b"data"]
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(
            type(n) is int and 0 <= n <= MAX_SIZE for n in shape):
        raise RemoteError(f"an array of shape {_named(shape)}, allowed: a list of at most {MAX_DIMS} sizes from 0 to "
                          f"{MAX_SIZE}")
    if not isinstance(data, bytes) or len(data) != prod(shape) * dtype.itemsize:
        size = f"{len(data)} bytes" if isinstance(data, bytes) else f"a {type(data).__name__}"
        raise RemoteError(f"an array of shape {_named(shape)} and type {dtype.str} in {size}")
    try:
        flat: np.ndarray = np.frombuffer(data, dtype)
        if dtype.kind == "b":
            flat = flat.view(np.uint8) != 0  # a bool of another byte than 0 or 1 is undefined
            flat.flags.writeable = False
        return flat.reshape(shape)
    except ValueError as error:  # no bytes, and sizes whose product without the 0 is beyond numpy
        raise RemoteError(f"an array of shape {_named(shape)}: {error}") from error


def _scalar(raw: Mapping[Any, Any]) -> np.generic:
    dtype, data = _dtype(raw, _SCALAR), raw[b"data"]
    python = {"b": bool, "i": int, "u": int, "f": float}[dtype.kind]
    if type(data) is not python or not _fits(raw[b"data"], dtype):
        value = repr(data) if isinstance(data, bool | int | float) else f"a {type(data).__name__}"
        raise RemoteError(f"a number of type {dtype.str} that is {value}")
    made: np.generic = dtype.type(data)
    return made


def _fits(number: float, dtype: np.dtype) -> bool:
    if dtype.kind == "f":
        return not isfinite(number) or abs(number) <= float(np.finfo(dtype).max)
    return dtype.kind == "b" or int(np.iinfo(dtype).min) <= number <= int(np.iinfo(dtype).max)


def _dtype(raw: Mapping[Any, Any], keys: set[bytes]) -> np.dtype:
    """The type that an array or a scalar names, as text or bytes."""
    if set(raw) != keys:
        raise RemoteError(f"an array or number with other keys than {sorted(keys)}")
    given = raw[b"dtype"]
    name = given[:8].decode("latin-1") if isinstance(given, bytes) else given
    if not isinstance(name, str) or len(given) > 8 or name not in DTYPES:
        raise RemoteError(f"an array or number of type {_named(given)}, allowed: {', '.join(DTYPES)}")
    return DTYPES[name]


def _named(value: Any) -> str:
    """A value from a message for an error: short, whatever it is, and without control characters."""
    if isinstance(value, list) and all(type(n) is int for n in value):
        return short(value)
    return short(value[:64]) if isinstance(value, str | bytes) else f"a {type(value).__name__}"
