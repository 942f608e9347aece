"""What `reset` is asked for, checked before anything moves.

Easy to get wrong: Gymnasium takes Python's own integers alone and touches the generator before it reads options;
here numpy's integers count as well, and a refusal leaves generators and lanes as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from wcsim.errors import ConfigError

Seeds = int | np.integer[Any] | Sequence[int | None] | np.ndarray | None

HIGHEST_SEED = 2**63 - 1
"""Seeds number the noise as int64."""

IGNORED = ("lerobot_new_rollout",)
"""Options that change nothing: LeRobot's evaluation says that a new rollout begins, which every reset does."""


def check_seed(seed: Any) -> int | None:
    """The seed as Python's integer; gymnasium.error.Error unless it is None or an integer from 0 to 2^63 - 1."""
    if seed is None:
        return None
    if isinstance(seed, bool | np.bool_) or not isinstance(seed, int | np.integer) or not 0 <= seed <= HIGHEST_SEED:
        raise gym.error.Error(f"a seed is an integer from 0 to 2**63 - 1, or None; got {seed!r}")
    return int(seed)


def check_seeds(seed: Seeds, lanes: int) -> list[int | None]:
    """A seed per lane: `seed`, `seed + 1` and so on for an integer; raises as `check_seed`, and ConfigError where a
    sequence has not one per lane."""
    if seed is None:
        return [None] * lanes
    if isinstance(seed, str | bytes) or not isinstance(seed, int | np.integer | Sequence | np.ndarray):
        raise gym.error.Error(f"a seed is an integer from 0 to 2**63 - 1, or a sequence with one a lane; got {seed!r}")
    if isinstance(seed, int | np.integer):
        first = check_seed(seed)
        assert first is not None
        return [check_seed(first + lane) for lane in range(lanes)]
    each = list(seed)
    if len(each) != lanes:
        raise ConfigError(f"{lanes} lanes need as many seeds, got {len(each)}")
    return [check_seed(one) for one in each]


def check_options(options: Mapping[str, Any] | None, known: Sequence[str]) -> dict[str, Any]:
    """The options that say something, as a new mapping; gymnasium.error.Error names those that are unknown."""
    if options is not None and not isinstance(options, Mapping):
        raise gym.error.Error(f"reset options are a mapping, got {type(options).__name__}")
    given = dict(options or {})
    for name in given:
        if name not in (*known, *IGNORED):
            raise gym.error.Error(f"reset option {name!r} is unknown; known: {', '.join(known)}")
    return {name: value for name, value in given.items() if name in known}
