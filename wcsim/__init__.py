"""wcsim: closed-loop robot simulation inside action-conditioned Cosmos video world models, made affordable by caching.

Importing wcsim registers its Gymnasium ids and is light: torch is loaded when a world is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import wcsim.envs  # noqa: F401  registers the ids

if TYPE_CHECKING:
    from wcsim.world.world import World

__all__ = ["World", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "World":
        from wcsim.world.world import World

        return World
    raise AttributeError(f"module 'wcsim' has no attribute {name!r}")
