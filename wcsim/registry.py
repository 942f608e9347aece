"""Names to classes: what ships, what an installed package offers by an entry point, and `module:Class`.

One registry per kind of part (tasks, policies, caches, backbones), so that a part from outside needs no line in the
engine.  Easy to get wrong: a configuration may come from anybody, so `module:Class` goes through `attribute`, which
asks whether it is allowed; `imported` is for names that code gives.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from wcsim.errors import ConfigError

ALLOW = "WCSIM_ALLOW"
"""Environment variable: modules that configurations may name, separated by commas.  Where it is set, even to nothing,
this process and its workers load nothing else by `module:Class`; where it is not, the names come from Python code."""


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
            return imported(self.shipped[name], what=f"{self.kind} {name!r}")
        for point in entry_points(group=self.group):
            if point.name == name:
                return imported(point.value, what=f"{self.kind} {name!r}")
        if ":" in name:
            return attribute(name, what=f"{self.kind} {name!r}")
        raise ConfigError(f"{self.kind} {name!r} is unknown; known: {', '.join(self.names())}, or module:Class")


@contextmanager
def only_allowed(modules: Iterable[str]) -> Iterator[None]:
    """Within, `module:Class` is loaded from these modules and those in `WCSIM_ALLOW`, from installed entry points and
    from wcsim alone; processes started within do likewise.  ConfigError for what is no module's name."""
    before, given = os.environ.get(ALLOW), list(modules)
    for module in given:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError(f"--allow takes the name of a module, such as my_package, got {module!r}")
    os.environ[ALLOW] = ",".join([*([before] if before else []), *given])
    try:
        yield
    finally:
        os.environ.pop(ALLOW)
        if before is not None:
            os.environ[ALLOW] = before


def attribute(path: str, *, what: str) -> Any:
    """What `module:attribute` in a setting names, where it is allowed; of wcsim's own only classes.

    Raises ConfigError where it is not, before anything is imported, and where there is no such thing; `what` begins
    the message.
    """
    allowed = os.environ.get(ALLOW)
    if allowed is None or _is_allowed(path, allowed):
        return imported(path, what=what)
    module = path.partition(":")[0]
    found = imported(path, what=what) if _is_inside(module, "wcsim") else None
    if isinstance(found, type) and _is_inside(found.__module__, "wcsim"):
        return found
    raise ConfigError(
        f"{what} names {path!r}, which a configuration may not load: it is neither an installed entry point nor a "
        f"class of wcsim; if you trust all of {module!r}, add --allow {module}, or set {ALLOW}={module}")


def _is_allowed(path: str, allowed: str) -> bool:
    """Whether a user named the module of `path`, or one around it, or an installed package offers just this."""
    module = path.partition(":")[0]
    return any(_is_inside(module, name.strip()) for name in allowed.split(",")) or any(
        point.group.startswith("wcsim.") for point in entry_points(value=path))


def _is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def imported(path: str, *, what: str) -> Any:
    """What `module:attribute` names, whatever it is.  ConfigError where there is no such thing; `what` begins the
    message."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        hint = "; install its package, or add its folder to PYTHONPATH" if error.name == module.split(".")[0] else ""
        raise ConfigError(f"{what} cannot be loaded from {path!r}, given as module:Class: {error}{hint}") from error
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{what} cannot be loaded from {path!r}, given as module:Class: {error}") from error
