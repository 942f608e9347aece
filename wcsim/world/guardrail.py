"""A guardrail, for whom it may concern: it sees prompts before they are encoded and frames before they are shown.

None is built in and none is on unless asked for: `World.load(..., guardrail=...)`, or for every world of a
process `WCSIM_GUARDRAIL=module:function`, whose function takes nothing and returns a `Guardrail`.  Easy to get wrong:
it checks what leaves a world as frames (`World.decode`); latents, which planners read, pass unseen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from typing import Any, Self

import numpy as np

from wcsim.errors import ConfigError, GuardrailError

VARIABLE = "WCSIM_GUARDRAIL"


@dataclass(frozen=True, slots=True)
class Guardrail:
    """prompt: whether a text may be imagined.  frames: uint8 `[T, H, W, 3]` to the frames that may be shown, of the
    same shape (faces blurred, say) and in an array of their own, or None to refuse them.  name: in manifests, on pages
    and in `info`."""

    prompt: Callable[[str], bool] = lambda text: True
    frames: Callable[[np.ndarray], np.ndarray | None] = lambda frames: frames
    name: str = "unnamed"

    @classmethod
    def of(cls, checker: Any) -> Self:
        """From an object with `check_text_safety` and `check_video_safety`, as diffusers' pipelines take it."""
        return cls(checker.check_text_safety, checker.check_video_safety, type(checker).__name__)

    def check_prompt(self, text: str) -> None:
        """Raise GuardrailError where the text may not be imagined."""
        if not self.prompt(text):
            raise GuardrailError(f"the guardrail refuses the prompt {text!r}")

    def check_frames(self, frames: np.ndarray) -> np.ndarray:
        """Frames `[..., H, W, 3]` as they may be shown; GuardrailError where they may not."""
        if not frames.size:
            return frames
        shown = self.frames(frames.reshape(-1, *frames.shape[-3:]).copy())
        if shown is None:
            raise GuardrailError(f"the guardrail refuses {frames.size // np.prod(frames.shape[-3:])} imagined frames")
        if shown.shape[1:] != frames.shape[-3:] or shown.size != frames.size or shown.dtype != np.uint8:
            raise ConfigError(f"the guardrail turned uint8 frames {list(frames.shape)} into {shown.dtype} "
                              f"{list(shown.shape)}")
        return shown.reshape(frames.shape)


@lru_cache(maxsize=1)
def named_guardrail(name: str) -> Guardrail:
    """What `module:function` returns; ConfigError where that is no guardrail."""
    module, colon, function = name.partition(":")
    try:
        made = getattr(import_module(module), function)() if colon else None
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{VARIABLE} is {name!r}: {error}") from error
    if not isinstance(made, Guardrail):
        raise ConfigError(f"{VARIABLE} is {name!r}; it must be module:function, which returns a Guardrail")
    return replace(made, name=name) if made.name == "unnamed" else made


def default_guardrail() -> Guardrail | None:
    """The one that `WCSIM_GUARDRAIL` names."""
    name = os.environ.get(VARIABLE)
    return named_guardrail(name) if name else None


def guardrail_name() -> dict[str, str]:
    """`guardrail: name` for the manifest of a run whose worlds are watched; empty where they are not."""
    guardrail = default_guardrail()
    return {} if guardrail is None else {"guardrail": guardrail.name}
