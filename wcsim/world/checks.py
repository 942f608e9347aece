"""What a world allows: frames of its size, and fidelities that it can run.  Checked before any call."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wcsim.errors import ConfigError, NotFiniteError, WcsimError
from wcsim.types import Fidelity, WorldSpec
from wcsim.world.sampler import check_solver


def check_start(spec: WorldSpec, frames: np.ndarray, actions: np.ndarray, seeds: list[int] | np.ndarray) -> None:
    """Raise WcsimError unless frames `[N, T, H, W, 3]` come with actions `[N, T-1, A]` and N seeds."""
    lanes, count = frames.shape[:2]
    if actions.shape[:2] != (lanes, count - 1) or len(seeds) != lanes:
        needed = [lanes, count - 1, spec.action.dim]
        raise WcsimError(f"{lanes} lanes of {count} frames need actions {needed} and {lanes} seeds; got "
                         f"{list(actions.shape)} and {len(seeds)}")
    if (np.asarray(seeds) < 0).any():
        raise WcsimError(f"seeds must not be negative, got {np.asarray(seeds).tolist()}")


def check_frames(spec: WorldSpec, frames: np.ndarray) -> None:
    """Raise WcsimError unless frames are uint8 `[..., H, W, 3]` of the world's size.  Floats in [0, 1], signed bytes,
    and four channels would all turn into other pictures."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim < 3 or frames.shape[-1] != 3:
        given = f"{frames.dtype} {list(frames.shape)}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise ConfigError(f"frames must be uint8 [..., {spec.frame_size[0]}, {spec.frame_size[1]}, 3], got {given}")
    if frames.shape[-3:-1] != spec.frame_size:
        raise WcsimError(f"frames are {list(frames.shape[-3:-1])} pixels; world {spec.name!r} takes "
                         f"{list(spec.frame_size)}")


def check_fidelity(spec: WorldSpec, fidelity: Fidelity) -> tuple[int, int]:
    """The context and chunk lengths that a fidelity means in a world; ConfigError where the world cannot do it."""
    check_solver(fidelity.solver, fidelity.steps)
    limits = {"context": (fidelity.context, spec.max_context), "chunk": (fidelity.chunk, spec.max_chunk)}
    for name, (asked, most) in limits.items():
        if asked is not None and not 1 <= asked <= most:
            raise ConfigError(f"fidelity.{name} is {asked}; world {spec.name!r} allows 1 to {most}")
    if fidelity.guidance < 0:
        raise ConfigError(f"fidelity.guidance is {fidelity.guidance:g}; it must be 0 or more")
    if not 0 <= fidelity.guidance_until <= 1 or (fidelity.guidance_until and not fidelity.guidance):
        raise ConfigError(f"fidelity.guidance_until is {fidelity.guidance_until:g} at guidance {fidelity.guidance:g}; "
                          "it must be a noise level from 0 to 1, and 0 where nothing is guided")
    if not 0 <= fidelity.context_refresh <= 1:
        raise ConfigError(f"fidelity.context_refresh is {fidelity.context_refresh:g}; it must be from 0 to 1")
    if spec.frames_per_latent > 1 and fidelity.chunk not in (None, spec.max_chunk):
        raise ConfigError(f"fidelity.chunk is {fidelity.chunk}; world {spec.name!r} makes chunks of {spec.max_chunk}")
    return fidelity.context or spec.max_context, fidelity.chunk or spec.max_chunk


def check_finite(spec: WorldSpec, values: Tensor, what: str) -> None:
    """Raise NotFiniteError, which names the world and `what` it was at, where a value is NaN or infinite."""
    if not torch.isfinite(values).all():
        raise NotFiniteError(f"world {spec.name!r} {what} values that are not finite; its weights may be damaged")


def check_imagined(spec: WorldSpec, latents: Tensor, frame: Tensor, fidelity: Fidelity) -> None:
    """Raise NotFiniteError where new latents `[N, k, ...]` are not finite.  frame: `[N]`, index of the one before."""
    if torch.isfinite(latents).all():
        return
    lane, offset = (~torch.isfinite(latents)).flatten(2).any(2).nonzero()[0].tolist()
    raise NotFiniteError(f"world {spec.name!r} imagined values that are not finite in frame "
                         f"{int(frame[lane]) + 1 + offset} of lane {lane}, {told(fidelity)}")


def told(fidelity: Fidelity) -> str:
    """A fidelity in the words of an error."""
    return (f"at fidelity steps={fidelity.steps}, solver={fidelity.solver}, context={fidelity.context}, "
            f"cache={type(fidelity.cache).__name__}")


def check_device(device: str) -> None:
    """Raise ConfigError unless torch has this device here; costs nothing for the CPU."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device {device!r} is unknown; give cpu, cuda or cuda:N") from error
    count = torch.cuda.device_count() if found.type == "cuda" else 0
    if found.type not in ("cpu", "cuda") or (found.type == "cuda" and (found.index or 0) >= count):
        here = ", ".join(["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))])
        raise ConfigError(f"device {device!r} is not on this machine; here are: {here}")
