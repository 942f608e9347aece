"""Names to classes: what ships, what an installed package offers by an entry point, and `module:Class`.

One registry per kind of part (tasks, policies, caches, backbones), so that a part from outside needs no line in the
engine.  Easy to get wrong: nothing is imported before it is asked for, so listing names stays light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from wcsim.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Registry:
    """Parts of one kind.

    kind: in messages, as `task`.  group: of the entry points, as `wcsim.tasks`.  shipped: name to `module:attribute`.
    """

    kind: str
    group: str
    shipped: Mapping[str, str]

    def names(self) -> list[str]:
        """Every name that `load` takes, `module:Class` apart."""
        return sorted({*self.shipped, *(point.name for point in entry_points(group=self.group))})

    def load(self, name: str) -> Any:
        """The class or function of that name.  ConfigError for an unknown one, and for one that cannot be imported."""
        if name in self.shipped:
            return attribute(self.shipped[name], what=f"{self.kind} {name!r}")
        for point in entry_points(group=self.group):
            if point.name == name:
                return attribute(point.value, what=f"{self.kind} {name!r}")
        if ":" in name:
            return attribute(name, what=f"{self.kind} {name!r}")
        raise ConfigError(f"{self.kind} {name!r} is unknown; known: {', '.join(self.names())}, or module:Class")


def attribute(path: str, *, what: str) -> Any:
    """What `module:attribute` names.  ConfigError where there is no such thing; `what` begins the message."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{what} cannot be loaded from {path!r}, given as module:Class: {error}") from error
