"""YAML by the tables of its 1.2 core schema, and bounded: what is refused is refused in one line, and soon."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wcsim.errors import ConfigError
from wcsim.strict_yaml import dump_yaml, parse_yaml


def parse(text: str | bytes) -> Any:
    return parse_yaml(text, what="it")


@pytest.mark.parametrize(("text", "value"), [
    ("1:30", "1:30"), ("12:30:45", "12:30:45"), ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"),
    ("true", True), ("False", False), ("TRUE", True), ("null", None), ("~", None), ("", None), ("Null", None),
    ("1e-4", 1e-4), ("1E3", 1000.0), ("-.5", -0.5), ("1.", 1.0), ("+12", 12), ("010", 10), ("0o17", 15), ("0x1F", 31),
    ("1_000", "1_000"), ("0b11", "0b11"), ("2026-01-02", "2026-01-02"), (".inf", math.inf), ("-.Inf", -math.inf),
    ("'1'", "1"), ('"true"', "true"), ("=", "="), ("!!str 5", "5"), ("!!float 5", 5.0),
    ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63)),
])
def test_a_scalar_is_what_yaml_1_2_says(text: str, value: object) -> None:
    found = parse(text)
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(parse(".nan"))


def test_merge_keys_and_anchors_work() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: [*b, {z: 4, y: 9}], x: 5}\nd: *a\n"
    assert parse(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 5, "y": 3, "z": 4},
                           "d": {"x": 1, "y": 2}}


BOMB = "a: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "a: &a0 {x: 1}\n" + "".join(f"b{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
CHAIN = "a: &a0 [x]\n" + "".join(f"b{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(("text", "message"), [
    (BOMB, "more than 100000 values"), (MERGES, "more than 100000 values"),
    ("- \n" * 200_000, "more than 100000 values"),
    (CHAIN, "more than 32 levels"), ("[" * 5000, "more than 32 levels"), ("{a: " * 5000, "more than 32 levels"),
    ("- " * 5000, "more than 32 levels"), ("? " * 5000, "more than 32 levels"), ("[" * 33 + "]" * 33, "more than 32"),
    ("&a [*a]", "a value holds itself"), ("&a {b: *a}", "a value holds itself"), ("{<<: &a {<<: *a}}", "holds itself"),
    (b"\xff\xfea: 1", "it is not UTF-8"), (b"a: \x80", "it is not UTF-8"), ("a: \ud800", "it is not UTF-8"),
    ("a: 1\x00", "special characters are not allowed"),
    ("a: " + "x" * 2**20, "has 1048579 bytes of YAML; at most 1048576"),
    ("a: " + "9" * 5000, "integer 99999999999999999999... has more than 64 bits"), (str(2**63), "more than 64 bits"),
    ("0x" + "f" * 5000, "more than 64 bits"), ("1e999", "beyond what a float holds"), ("." + "1" * 5000, "beyond what"),
    ("a: 1\nb: 2\na: 3", "the key 'a' is there twice, in line 3, column 1"), ("{a: 1, a: 1}", "is there twice"),
    ("a: {<<: {x: 1}, <<: {x: 2}}", "'<<' is there twice"), ("[a]: 1", "a key is neither text nor a number"),
    ("a: 1\n--- \nb: 2", "it is not YAML: but found another document"), ("a: [1", "it is not YAML"),
    ("*a", "undefined alias"),
    ("!!python/object/apply:os.system [ls]", "could not determine a constructor"), ("!!int x", "'x' is no int"),
    ("!!bool yes", "'yes' is no bool"), ("!!timestamp 2026-01-02", "could not determine"), ("!!set {a}", "could not"),
    ("!!int [1]", "expected a scalar node"), ("!!map 1", "expected a mapping"), ("!!binary aa", "could not determine"),
    ("{<<: 1}", "for merging"), ("a: <<", "could not determine a constructor"), ("a:\t- b", "it is not YAML"),
])
def test_what_is_refused_is_refused_in_one_line_and_soon(text: str | bytes, message: str) -> None:
    started = perf_counter()
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert perf_counter() - started < 20


def test_the_bounds_themselves_are_allowed() -> None:
    assert parse("[" * 32 + "]" * 32)
    assert len(parse("a: [" + "1, " * 99_996 + "]")["a"]) == 99_996
    assert parse("\ufeffa: 1") == {"a": 1}


SCALARS: st.SearchStrategy[Any] = st.none() | st.booleans() | st.floats(allow_nan=False)
SCALARS |= st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20)
TRICKY = st.sampled_from(["1e-4", "1:30", "yes", "010", "0o7", "~", "", "<<", "=", "1_0", "2026-01-02", "null",
                           ".5", "-"])
VALUES = st.recursive(SCALARS | TRICKY, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.text(max_size=5) | TRICKY, inner, max_size=3), max_leaves=10)


@given(VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    written = dump_yaml(value)
    assert parse(written) == value
    assert yaml.safe_load(written) == value, "by readers of YAML 1.1, too"


def test_what_yaml_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="a value that YAML cannot keep"):
        dump_yaml({"a": object()})
