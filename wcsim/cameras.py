"""The cameras of a task, and the one frame in which a world imagines all of them.

Easy to get wrong: inside the engine a frame is always the mosaic `[H, W, 3]`; it becomes several images only in an
observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from wcsim.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera.  height, width: of its frames, in pixels."""

    name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Cameras:
    """The cameras of a task.  A world imagines all of them in one frame, their mosaic: side by side from left to right,
    black below those that are less high."""

    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"a task has one camera or more, of different names, got {', '.join(names) or 'none'}")

    @classmethod
    def single(cls, height: int, width: int, name: str = "pixels") -> Self:
        """One camera that fills the frame."""
        return cls((Camera(name, height, width),))

    @property
    def frame_size(self) -> tuple[int, int]:
        """H, W of the mosaic."""
        return max(camera.height for camera in self.cameras), sum(camera.width for camera in self.cameras)

    def split(self, frames: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
        """Mosaics `[..., H, W, 3]` to what observations call `pixels`: the frames of the only camera, or a mapping."""
        if len(self.cameras) == 1:
            return frames
        views, left = {}, 0
        for camera in self.cameras:
            views[camera.name] = frames[..., : camera.height, left : left + camera.width, :]
            left += camera.width
        return views

    def join(self, pixels: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        """The reverse of `split`.  Raises ConfigError where a camera is missing or its frames have another size."""
        if not isinstance(pixels, Mapping):
            pixels = {self.cameras[0].name: pixels}
        if set(pixels) != {camera.name for camera in self.cameras}:
            raise ConfigError(f"pixels are of {', '.join(pixels)}; the cameras are "
                              f"{', '.join(camera.name for camera in self.cameras)}")
        height, width = self.frame_size
        lead = next(iter(pixels.values())).shape[:-3]
        frames, left = np.zeros((*lead, height, width, 3), np.uint8), 0
        for camera in self.cameras:
            view = pixels[camera.name]
            if view.dtype != np.uint8 or view.shape != (*lead, camera.height, camera.width, 3):
                raise ConfigError(f"camera {camera.name!r} has frames {view.dtype} {list(view.shape)}; allowed: uint8 "
                                  f"[..., {camera.height}, {camera.width}, 3]")
            frames[..., : camera.height, left : left + camera.width, :] = view
            left += camera.width
        return frames
