"""Video files: some frames of them by number, and whole ones written.

Frame k of a video is the one that is shown at k / fps, so numbers count on the recordings' fps, not on the container's.
Easy to get wrong: a seek lands on the key frame before, and in damaged files behind; decoding then begins anew.

Shapes: n frames, H W frame.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.data.packages import package
from wcsim.errors import DataError

MAX_GAP = 16
"""Frames that are decoded and dropped rather than sought over."""

MAX_OPEN = 8
"""Files that a reader holds open."""

LOSSLESS_PX = 128
"""Frames up to this size are written without loss; larger ones lose little by halved colour."""


class VideoFile:
    """One open video.  rate: frames per second as the recordings count them; None: as the container says."""

    def __init__(self, path: Path, rate: float | None = None) -> None:
        if not path.is_file():
            raise DataError(f"{path} does not exist; a video with the frames of these recordings is needed")
        self.path, self._av = path, package("av")
        try:
            self._container: Any = self._av.open(str(path))
            self._stream: Any = self._container.streams.video[0]
        except (self._av.error.FFmpegError, IndexError, OSError) as error:
            raise DataError(f"{path} cannot be opened as a video ({error}); it is damaged or of an unknown codec"
                            ) from error
        self._stream.codec_context.thread_count = 1
        self.own_rate = float(self._stream.average_rate or 0)
        self.rate = rate if rate is not None else self.own_rate

    @property
    def size(self) -> tuple[int, int]:
        """H, W."""
        return self._stream.codec_context.height, self._stream.codec_context.width

    @property
    def count(self) -> int:
        """Frames that the container says it holds, 0 where it does not say."""
        return int(self._stream.frames)

    @property
    def seconds(self) -> float | None:
        """How long it lasts, None where the container does not say."""
        if self._stream.duration is None:
            return None
        return float(self._stream.duration * self._stream.time_base)

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """Frames `[n, H, W, 3]` uint8 by number, in the given order.  DataError where one is not there."""
        wanted = sorted(set(numbers))
        found: dict[int, np.ndarray] = {}
        for run in _runs(wanted):
            found.update(self._read_run(run))
        missing = [number for number in wanted if number not in found]
        if missing:
            raise DataError(f"{self.path} has no frame {missing[0]} ({missing[0] / self.rate:.3f} s); the "
                            f"container says {self.count} frames at {self.own_rate:g} fps", kind="drift")
        return np.stack([found[number] for number in numbers]) if numbers else np.zeros((0, *self.size, 3), np.uint8)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _read_run(self, run: Sequence[int]) -> dict[int, np.ndarray]:
        found = self._decode(run, run[0])
        if run[0] not in found and run[0] > 0:
            found = self._decode(run, 0)
        return found

    def _decode(self, run: Sequence[int], start: int) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        wanted = set(run)
        try:
            self._container.seek(round(start / self.rate / self._stream.time_base), stream=self._stream)
            for frame in self._container.decode(self._stream):
                number = round(frame.time * self.rate)
                if number in wanted and number not in found:
                    found[number] = frame.to_ndarray(format="rgb24")
                if number >= run[-1]:
                    break
        except self._av.error.EOFError:
            pass
        except self._av.error.FFmpegError as error:
            raise DataError(f"{self.path} cannot be decoded near frame {start} ({error}); it is damaged") from error
        return found


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers in runs, each read after one seek."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number - runs[-1][-1] <= MAX_GAP:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


class VideoFiles:
    """Open videos by path, the least recently used closed first.  A copy in another process opens its own."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[Path, float | None], VideoFile] = OrderedDict()

    def get(self, path: Path, rate: float | None = None) -> VideoFile:
        """The video, open."""
        key = (path, rate)
        if key not in self._open:
            self._open[key] = VideoFile(path, rate)
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        return self._open[key]

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open = OrderedDict()


def is_lossless(height: int, width: int) -> bool:
    """Whether frames of this size are written without loss."""
    return max(height, width) <= LOSSLESS_PX


class VideoWriter:
    """Writes one mp4 frame by frame: RGB without loss where frames are small, else H.264 at yuv420p.

    A key frame every second frame keeps single frames cheap to read.
    """

    def __init__(self, path: Path, *, fps: float, size: tuple[int, int]) -> None:
        from fractions import Fraction

        self._av = package("av")
        lossless = is_lossless(*size)
        height, width = size
        if not lossless and (height % 2 or width % 2):
            raise DataError(f"frames of {height}x{width} cannot be written as yuv420p; height and width must be even")
        self._file: Any = self._av.open(str(path), "w", options={"movflags": "faststart"})
        options = {"g": "2", "bf": "0", "crf": "0" if lossless else "18", "preset": "veryfast"}
        self._stream: Any = self._file.add_stream("libx264rgb" if lossless else "libx264",
                                                  rate=Fraction(fps).limit_denominator(1001), options=options)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        self._stream.codec_context.thread_count = 1

    def add(self, frames: Iterable[np.ndarray]) -> None:
        """Append frames `[H, W, 3]` uint8."""
        for frame in frames:
            picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            self._file.mux(self._stream.encode(picture))

    def close(self) -> None:
        """Write what is left."""
        self._file.mux(self._stream.encode())
        self._file.close()
