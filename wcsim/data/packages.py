"""The packages of the extra `lerobot`, imported only when a video or a table is touched."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from wcsim.errors import ConfigError


def package(name: str) -> ModuleType:
    """The module `av`, `pyarrow` or one below them.  ConfigError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"recordings need the extra lerobot (pip install 'wcsim[lerobot]'): {error}") from error
