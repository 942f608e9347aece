"""What a person drove, as files: a video of all places side by side, and the arrays.

Easy to get wrong: sides of a video must be even, and small frames are enlarged a whole number of times.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wcsim.errors import RemoteError
from wcsim.report.video import encode_mp4

SIDE_PX = 384


def film(names: Sequence[str], frames: Sequence[Sequence[np.ndarray]], actions: Sequence[np.ndarray], fps: float,
         about: Mapping[str, str]) -> dict[str, bytes]:
    """`mp4` and `npz` of places that played the same `actions` `[T, A]`: T + 1 frames each."""
    count = len(actions) + 1
    if count < 2 or any(len(each) != count for each in frames):
        raise RemoteError("there is no recorded episode: open sessions with record, and play the same in all")
    arrays = {f"frames_{name}": np.stack(each) for name, each in zip(names, frames, strict=True)}
    scale = max(1, SIDE_PX // frames[0][0].shape[1])
    pictures = (enlarge(np.concatenate([each[n] for each in frames], axis=1), scale) for n in range(count))
    written = io.BytesIO()
    texts = {name: np.array(text) for name, text in about.items()}
    everything: dict[str, Any] = {"actions": np.stack(actions), "fps": np.array(fps), **arrays, **texts}
    np.savez_compressed(written, **everything)
    return {"mp4": encode_mp4(pictures, fps), "npz": written.getvalue()}


def enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    """`[H, W, 3]` a whole number of times as large, with even sides."""
    large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.pad(large, [(0, large.shape[0] % 2), (0, large.shape[1] % 2), (0, 0)], mode="edge")
