"""YAML as everybody reads it who reads YAML 1.2: the core schema, without duplicate keys, and within bounds.

PyYAML does the parsing; what a scalar means, and how much of it there may be, is decided here.  Easy to get wrong:
PyYAML by itself speaks YAML 1.1, in which `1:30` is 90, `no` is false and `1e-4` is text, so whoever writes YAML that
is read back here uses `dump_yaml`.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from wcsim.errors import ConfigError

MAX_BYTES, MAX_DEPTH, MAX_NODES = 2**20, 32, 100_000
"""Of a text; of nodes within each other; of nodes once every alias stands for what it names."""
MAX_INTEGER = 2**63

CORE = "tag:yaml.org,2002:"
MERGE = CORE + "merge"
SCALARS = {
    CORE + "null": re.compile(r"(?:null|Null|NULL|~|)\Z"),
    CORE + "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    CORE + "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    CORE + "float": re.compile(r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
                               r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"),
    MERGE: re.compile(r"<<\Z"),
}
"""YAML 1.2.2, section 10.3.2: the first expression that a plain scalar matches says what it is; else it is text.  Merge
keys are not in it, and kept."""


def parse_yaml(content: bytes | str, *, what: str) -> Any:
    """What one YAML document holds: mappings, lists, text, numbers, booleans and null.

    Raises ConfigError in one line, which `what` begins, for text that is not UTF-8, is no YAML or holds more than one
    document, for tags, duplicate keys, keys that are not scalars, integers beyond 64 bits, decimals beyond a float,
    and for more than 1 MiB, 32 levels or 100,000 nodes.
    """
    try:
        raw = content.encode() if isinstance(content, str) else content
        if len(raw) > MAX_BYTES:
            raise ConfigError(f"{what} has {len(raw)} bytes of YAML; at most {MAX_BYTES} are read")
        return yaml.load(raw.decode("utf-8-sig"), _Loader)
    except UnicodeError as error:
        raise ConfigError(f"{what} is not UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} is not YAML: {_one_line(error)}") from error


def dump_yaml(value: Any) -> str:
    """YAML that `parse_yaml` and readers of YAML 1.1 take for the same, keys in their order.

    Raises ConfigError for what YAML cannot hold.
    """
    try:
        text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    except yaml.representer.RepresenterError as error:
        raise ConfigError(f"the configuration holds a value that YAML cannot keep: {error.args[0]}") from error
    return text


class _Loader(yaml.SafeLoader):
    """Counts as it composes, so that nothing large is ever made.  Nodes stay alive until it ends, so ids are theirs."""

    yaml_implicit_resolvers = {None: list(SCALARS.items())}  # noqa: RUF012 -- as the base class has it
    yaml_constructors = {  # noqa: RUF012 -- likewise; other tags are refused
        tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag in {CORE + "str", CORE + "seq", CORE + "map", None}}

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._deepest = self._nodes = 0
        self._known: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node; an alias counts for all that it stands for, in number and in depth."""
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._known:
                raise self._refusal("a value holds itself")
            self._count(*self._known[id(node)])
            return node
        nodes, deepest, self._deepest = self._nodes, self._deepest, 0
        self._count(1, 1)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._known[id(node)] = self._nodes - nodes, self._deepest - self._depth
        self._deepest = max(self._deepest, deepest)
        return node

    def _count(self, nodes: int, levels: int) -> None:
        self._nodes, self._deepest = self._nodes + nodes, max(self._deepest, self._depth + levels)
        if self._deepest > MAX_DEPTH:
            raise self._refusal(f"more than {MAX_DEPTH} levels within each other")
        if self._nodes > MAX_NODES:
            raise self._refusal(f"more than {MAX_NODES} values")

    def compose_mapping_node(self, anchor: Any) -> Any:
        """A mapping; its keys are scalars, and each is there once."""
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._refusal("a key is neither text nor a number", key)
            if (key.tag, key.value) in seen:
                raise self._refusal(f"the key {key.value[:60]!r} is there twice", key)
            seen.add((key.tag, key.value))
        return node

    def construct_core(self, node: Any) -> Any:
        """A null, boolean or number."""
        text = self.construct_scalar(node)
        if not SCALARS[node.tag].match(text):
            raise self._refusal(f"{text[:60]!r} is no {node.tag.removeprefix(CORE)}", node)
        return {"null": lambda _: None, "bool": lambda text: text.lower() == "true", "int": self._integer,
                "float": self._decimal}[node.tag.removeprefix(CORE)](text)

    def _integer(self, text: str) -> int:
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        number = int(text[2:] if base != 10 else text, base) if len(text) <= 100 else MAX_INTEGER
        if not -MAX_INTEGER <= number < MAX_INTEGER:
            raise self._refusal(f"the integer {text[:20]}{'...' if len(text) > 20 else ''} has more than 64 bits")
        return number

    def _decimal(self, text: str) -> float:
        plain = text.lower().replace(".inf", "inf").replace(".nan", "nan")
        number = float(plain) if len(text) <= 100 else math.inf
        if math.isinf(number) and "inf" not in plain:
            raise self._refusal(f"the number {text[:20]}{'...' if len(text) > 20 else ''} is beyond what a float holds")
        return number

    def _refusal(self, problem: str, node: Any = None) -> ConstructorError:
        return ConstructorError(None, None, problem, node.start_mark if node is not None else self.get_mark())


for _kind in ("null", "bool", "int", "float"):
    _Loader.add_constructor(CORE + _kind, _Loader.construct_core)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would take for something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012 -- as the base class has it
        **{first: [*found] for first, found in yaml.SafeDumper.yaml_implicit_resolvers.items()},
        None: list(SCALARS.items())}


def _one_line(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the excerpt over several lines."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    text = " ".join(str(problem or error).split())[:300]
    return text if mark is None else f"{text}, in line {mark.line + 1}, column {mark.column + 1}"
