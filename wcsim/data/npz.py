"""`.npz` files as recordings: one per episode, `frames` `[T+1, H, W, 3]` uint8 and `actions` `[T, A]`.

Optional beside them: `state` `[T+1, R]`, `fps`, `instruction`, `seed`, `success`, `action_names`, `state_names`.  Easy
to get wrong: only arrays that `np.savez` wrote (not `savez_compressed`) give single frames without reading all.

Shapes: T actions, n frames, H W frame, A action, R robot state.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.cameras import Cameras
from wcsim.data.guarded import guarded
from wcsim.data.recordings import EpisodeRow, RecordedEpisode, RecordingsSpec, Signal, check_camera
from wcsim.errors import DataError

CAMERA = "pixels"
RULES = {
    "frames": ("u", 4, "uint8 [T+1, H, W, 3]"), "actions": ("fiu", 2, "numbers [T >= 1, A >= 1]"),
    "state": ("fiu", 2, "numbers [T+1, R >= 1]"), "fps": ("fiu", 0, "a number"), "instruction": ("US", 0, "a text"),
    "seed": ("iu", 0, "an integer"), "success": ("biu", 0, "true or false"), "action_names": ("US", 1, "texts [A]"),
    "state_names": ("US", 1, "texts [R]"),
}
"""Kinds of numpy types, number of axes, and both in words, of every array that is read."""
UNREADABLE = (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


@guarded
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
        height, width = shapes["frames"][1:3]
        fps = self._fps if self._fps is not None else _rate(path, small.get("fps"))
        state = _signal(small, "state", shapes["state"][-1]) if "state" in shapes else None
        return RecordingsSpec(fps, Cameras.single(height, width, CAMERA),
                              _signal(small, "action", shapes["actions"][-1]), state)

    @cached_property
    def episodes(self) -> Sequence[EpisodeRow]:
        """One per file, called by its stem."""
        return [EpisodeRow(path.stem, _shapes(path)["frames"][0], str(_small(path).get("instruction", "")))
                for path in self._paths]

    def episode(self, number: int) -> RecordedEpisode:
        """See `Recordings`."""
        path = self._paths[number]
        _check_counts(path)
        self._check_alike(path)
        small, found = _small(path), _read(path, ("actions", "state"))
        actions = np.asarray(found["actions"], np.float32)
        state = np.asarray(found["state"], np.float32) if "state" in found else None
        seed, success = small.get("seed"), small.get("success")
        return RecordedEpisode(path.stem, actions, state, str(small.get("instruction", "")),
                               seed=None if seed is None else int(seed),
                               success=None if success is None else bool(success))

    def frames(self, number: int, camera: str, ticks: Sequence[int]) -> np.ndarray:
        """See `Recordings`."""
        check_camera(self, camera)
        path = self._paths[number]
        shape = _shapes(path)["frames"]
        for tick in ticks:
            if not 0 <= tick < shape[0]:
                raise DataError(f"{path} has frames 0 to {shape[0] - 1}, asked for {tick}", episode=path.stem)
        try:
            stored = _mapped(path, "frames.npy")
        except UNREADABLE as error:
            raise _damaged(path, error) from error
        if stored is None:
            stored = _read(path, ("frames",))["frames"]
        return np.array(stored[np.asarray(ticks, np.int64)])

    def files(self) -> list[Path]:
        """The files."""
        return self._paths

    def _check_alike(self, path: Path) -> None:
        here, first = _shapes(path), _shapes(self._paths[0])
        for name in ("frames", "actions", "state"):
            if here.get(name, ())[1:] != first.get(name, ())[1:]:
                raise DataError(f"{path} has {name} {list(here.get(name, ()))}, {self._paths[0].name} has "
                                f"{list(first.get(name, ()))}; all files need the same", episode=path.stem)


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
                    shape, _, dtype = _header(member)
                    found[name.removesuffix(".npy")] = shape, dtype
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    return found


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _damaged(path: Path, error: Exception) -> DataError:
    told = str(error).partition("\n")[0][:200] or type(error).__name__
    return DataError(f"{path} is no whole .npz file ({told}); it is damaged", episode=path.stem)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every array; DataError unless those that are read have the types and shapes that they must have."""
    found = _headers(path)
    missing = [name for name in ("frames", "actions") if name not in found]
    if missing:
        raise DataError(f"{path} has no {' and no '.join(missing)}; it has {', '.join(found) or 'nothing'}",
                        episode=path.stem)
    shapes = {name: shape for name, (shape, _) in found.items()}
    for name, (kinds, axes, needed) in RULES.items():
        shape, dtype = found.get(name, ((1,) * axes, np.dtype("u1")))
        if name in found and (dtype.kind not in kinds or len(shape) != axes or 0 in shape):
            raise DataError(f"{path} has {name} {dtype} {list(shape)}; needed is {needed}", episode=path.stem)
    if found["frames"][1] != np.uint8 or shapes["frames"][-1] != 3:
        raise DataError(f"{path} has frames {found['frames'][1]} {list(shapes['frames'])}; needed are uint8 "
                        "[T+1, H, W, 3]", episode=path.stem)
    return shapes


def _check_counts(path: Path) -> None:
    shapes = _shapes(path)
    count = shapes["frames"][0]
    if shapes["actions"][0] != count - 1:
        raise DataError(f"{path} has {count} frames and actions {list(shapes['actions'])}; needed are frames "
                        "[T+1, H, W, 3] and actions [T, A]", kind="action_count", episode=path.stem)
    if shapes.get("state", (count,))[0] != count:
        raise DataError(f"{path} has {count} frames and state {list(shapes['state'])}; needed is [T+1, R]",
                        kind="action_count", episode=path.stem)


def _read(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those arrays that are there, each of its type and shape; DataError where they cannot be read."""
    _shapes(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names if name in arrays.files}
    except UNREADABLE as error:
        raise _damaged(path, error) from error


def _small(path: Path) -> dict[str, Any]:
    """The arrays that describe the others."""
    return _read(path, ("fps", "instruction", "seed", "success", "action_names", "state_names"))


def _signal(small: dict[str, Any], kind: str, dim: int) -> Signal:
    names = tuple(str(name) for name in small.get(f"{kind}_names", ()))
    return Signal(names if len(names) == dim else tuple(f"{kind}_{number}" for number in range(dim)))


def _rate(path: Path, value: Any) -> float | None:
    fps = None if value is None else float(value)
    if fps is not None and not 0 < fps < np.inf:
        raise DataError(f"{path} has fps {fps}; needed is a number above 0", kind="fps", episode=path.stem)
    return fps


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
        shape, fortran, dtype = _header(file)
        if fortran:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape)
