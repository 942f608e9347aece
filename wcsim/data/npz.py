"""`.npz` files as recordings: one per episode, `frames` `[T+1, H, W, 3]` uint8 and `actions` `[T, A]`.

Optional beside them: `state` `[T+1, R]`, `fps`, `instruction`, `seed`, `success`, `action_names`, `state_names`.  Easy
to get wrong: only arrays that `np.savez` wrote (not `savez_compressed`) give single frames without reading all.

Shapes: T actions, n frames, H W frame, A action, R robot state.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.cameras import Cameras
from wcsim.data.recordings import EpisodeRow, RecordedEpisode, RecordingsSpec, Signal, check_camera
from wcsim.errors import DataError

CAMERA = "pixels"


class NpzRecordings:
    """The files of a folder in the order of their names, or one file."""

    format = "npz"

    def __init__(self, path: Path, *, fps: float | None = None) -> None:
        self.path, self._fps = path, fps
        self._paths = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not self._paths:
            raise DataError(f"{path} holds no recordings; needed are .npz files with `frames` and `actions`")

    @staticmethod
    def matches(path: Path) -> bool:
        """Whether there is such a file."""
        return path.suffix == ".npz" if path.is_file() else any(path.glob("*.npz"))

    @property
    def left_out(self) -> Sequence[DataError]:
        """Nothing is announced."""
        return ()

    @cached_property
    def spec(self) -> RecordingsSpec:
        """That of the first file."""
        path = self._paths[0]
        shapes, small = _shapes(path), _small(path)
        height, width = self._frames_shape(path)[1:3]
        fps = self._fps if self._fps is not None else _number(small.get("fps"))
        state = _signal(small, "state", shapes["state"][-1]) if "state" in shapes else None
        return RecordingsSpec(fps, Cameras.single(height, width, CAMERA),
                              _signal(small, "action", shapes["actions"][-1]), state)

    @cached_property
    def episodes(self) -> Sequence[EpisodeRow]:
        """One per file, called by its stem."""
        return [EpisodeRow(path.stem, self._frames_shape(path)[0], str(_small(path).get("instruction", "")))
                for path in self._paths]

    def episode(self, number: int) -> RecordedEpisode:
        """See `Recordings`."""
        path = self._paths[number]
        count = self._frames_shape(path)[0]
        small = _small(path)
        with np.load(path, allow_pickle=False) as arrays:
            actions = np.asarray(arrays["actions"], np.float32)
            state = np.asarray(arrays["state"], np.float32) if "state" in arrays.files else None
        if actions.ndim != 2 or len(actions) != count - 1:
            raise DataError(f"{path} has {count} frames and actions {list(actions.shape)}; needed are frames "
                            "[T+1, H, W, 3] and actions [T, A]", kind="action_count", episode=path.stem)
        if state is not None and len(state) != count:
            raise DataError(f"{path} has {count} frames and state {list(state.shape)}; needed is [T+1, R]",
                            kind="action_count", episode=path.stem)
        seed, success = small.get("seed"), small.get("success")
        return RecordedEpisode(path.stem, actions, state, str(small.get("instruction", "")),
                               seed=None if seed is None else int(seed),
                               success=None if success is None else bool(success))

    def frames(self, number: int, camera: str, ticks: Sequence[int]) -> np.ndarray:
        """See `Recordings`."""
        check_camera(self, camera)
        path = self._paths[number]
        shape = self._frames_shape(path)
        for tick in ticks:
            if not 0 <= tick < shape[0]:
                raise DataError(f"{path} has frames 0 to {shape[0] - 1}, asked for {tick}", episode=path.stem)
        stored = _mapped(path, "frames.npy")
        if stored is None:
            with np.load(path, allow_pickle=False) as arrays:
                stored = arrays["frames"]
        return np.array(stored[np.asarray(ticks, np.int64)])

    def files(self) -> list[Path]:
        """The files."""
        return self._paths

    def _frames_shape(self, path: Path) -> tuple[int, ...]:
        shapes = _shapes(path)
        missing = [name for name in ("frames", "actions") if name not in shapes]
        if missing:
            raise DataError(f"{path} has no {' and no '.join(missing)}; it has {', '.join(shapes) or 'nothing'}",
                            episode=path.stem)
        frames = shapes["frames"]
        if len(frames) != 4 or frames[-1] != 3 or frames[0] < 1 or _dtype(path, "frames") != np.uint8:
            raise DataError(f"{path} has frames {_dtype(path, 'frames')} {list(frames)}; needed are uint8 "
                            "[T+1, H, W, 3]", episode=path.stem)
        return frames


def write_npz(path: Path, frames: np.ndarray, episode: RecordedEpisode, spec: RecordingsSpec) -> None:
    """One episode as a file; it appears whole or not at all."""
    arrays: dict[str, Any] = {"frames": frames, "actions": episode.actions, "instruction": episode.instruction,
                              "action_names": np.array(spec.action.names), "fps": spec.rate}
    if spec.state is not None and episode.state is not None:
        arrays |= {"state": episode.state, "state_names": np.array(spec.state.names)}
    arrays |= {key: value for key, value in (("seed", episode.seed), ("success", episode.success)) if value is not None}
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array, from its header alone."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    read = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                            else np.lib.format.read_array_header_2_0)
                    shape, _, dtype = read(member)
                    found[name.removesuffix(".npy")] = shape, dtype
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no whole .npz file ({error}); it is damaged", episode=path.stem) from error
    return found


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, (shape, _) in _headers(path).items()}


def _dtype(path: Path, name: str) -> np.dtype[Any]:
    return _headers(path)[name][1]


def _small(path: Path) -> dict[str, Any]:
    """The arrays that describe the others."""
    names = ("fps", "instruction", "seed", "success", "action_names", "state_names")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names if name in arrays.files}


def _signal(small: dict[str, Any], kind: str, dim: int) -> Signal:
    names = tuple(str(name) for name in small.get(f"{kind}_names", ()))
    return Signal(names if len(names) == dim else tuple(f"{kind}_{number}" for number in range(dim)))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _mapped(path: Path, member: str) -> np.ndarray | None:
    """An array that is stored without compression, mapped instead of read; None where it is compressed."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        file.seek(info.header_offset + 30 + name + extra)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if fortran:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape)
