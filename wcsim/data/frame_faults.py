"""Faults of frames: frozen, black, missing, and videos that do not last as long as their table.

Easy to get wrong: a robot that rests shows the same frame for long, so frames are frozen only where the numbers move.

Shapes: T actions, n frames, H W frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wcsim.data.convert import batches
from wcsim.data.faults import Fault
from wcsim.data.recordings import RecordedEpisode, Recordings
from wcsim.data.video import VideoFile
from wcsim.errors import DataError

BLACK_MEAN, BLACK_MAX = 3.0, 24
FROZEN_S, FROZEN_FRAMES = 0.5, 4
MOVING = 0.25
"""Share of an episode's usual pace from which on the numbers move."""


def find_drift(recordings: Recordings, number: int, episode: RecordedEpisode) -> dict[str, list[Fault]]:
    """By camera: videos that are missing, or shorter or longer than their table says."""
    find: Callable[[int, str], tuple[VideoFile, int]] | None = getattr(recordings, "video", None)
    found: dict[str, list[Fault]] = {}
    for camera in recordings.spec.cameras.cameras if find is not None else ():
        assert find is not None
        faults = found.setdefault(camera.name, [])
        try:
            file, first = find(number, camera.name)
        except KeyError:  # of pictures in the table
            continue
        except DataError as error:
            faults.append(Fault(error.kind, episode.name, str(error)))
            continue
        if file.size != (camera.height, camera.width):
            faults.append(Fault("drift", episode.name, f"{file.path} has frames of {file.size[0]}x{file.size[1]}, "
                                f"those of the first episode are {camera.height}x{camera.width}"))
        faults += _length(recordings, number, camera.name, episode, file, first)
    return found


def _length(recordings: Recordings, number: int, camera: str, episode: RecordedEpisode, file: VideoFile, first: int
            ) -> list[Fault]:
    span_s: Callable[[int, str], float | None] = getattr(recordings, "span_s", lambda number, camera: None)
    span = span_s(number, camera)
    rate, needed = file.rate, first + episode.frames
    if file.own_rate and abs(file.own_rate / rate - 1.0) > 0.01:
        return [Fault("drift", episode.name, f"{file.path} runs at {file.own_rate:g} fps, the table at {rate:g}")]
    if span is not None and abs(span * rate - episode.frames) > 1.5:
        return [Fault("drift", episode.name, f"meta says {span:.3f} s of {camera}, which are {span * rate:.1f} frames; "
                      f"the table has {episode.frames}")]
    if file.count and file.count < needed:
        return [Fault("drift", episode.name, f"{file.path} has {file.count} frames; the table needs {needed}")]
    if file.count > needed and span is None and first == 0 and file.count > episode.frames + 1:
        return [Fault("drift", episode.name, f"{file.path} has {file.count} frames; the table has {episode.frames}")]
    return []


def look(recordings: Recordings, number: int, episode: RecordedEpisode, cameras: Sequence[str]
         ) -> tuple[list[Fault], np.ndarray | None]:
    """Faults in the frames of some cameras, and how much the first one's picture changes `[T]`."""
    faults, motion = [], None
    pace = pace_of(episode)
    for camera in cameras:
        try:
            black, moves = _watch(recordings, number, camera, episode.frames)
        except DataError as error:
            faults.append(Fault(error.kind, episode.name, str(error)))
            continue
        if black:
            faults.append(Fault("black_frames", episode.name, f"{camera} is black in {len(black)} frames, the "
                                f"first is {black[0]}"))
        faults += _frozen(camera, episode, moves, pace, recordings.spec.fps)
        motion = moves if motion is None else motion
    return faults, motion


def pace_of(episode: RecordedEpisode) -> np.ndarray:
    """How fast the numbers move at each of T ticks, as shares of the episode's usual pace: the state's, else the
    actions'."""
    values = episode.state if episode.state is not None else np.vstack([episode.actions[:1], episode.actions])
    values = np.nan_to_num(values.astype(np.float64))
    pace = np.abs(np.diff(values, axis=0) / np.maximum(values.std(0), 1e-9)).sum(1)
    moving = pace[pace > 0]
    shares: np.ndarray = pace / np.median(moving) if len(moving) else pace
    return shares


def _watch(recordings: Recordings, number: int, camera: str, count: int) -> tuple[list[int], np.ndarray]:
    """Which frames are black, and the mean change of grey levels between frames `[T]`; -1 where nothing changes."""
    black, moves, last, tick = [], [], None, 0
    for batch in batches(recordings, number, camera, count):
        step = max(min(batch.shape[1:3]) // 64, 1)
        for frame in batch[:, ::step, ::step].astype(np.int16):
            if frame.mean() < BLACK_MEAN and frame.max() < BLACK_MAX:
                black.append(tick)
            if last is not None:
                apart = np.abs(frame - last)
                moves.append(float(apart.mean()) if apart.max() > 1 else -1.0)
            last, tick = frame, tick + 1
    return black, np.array(moves)


def _frozen(camera: str, episode: RecordedEpisode, moves: np.ndarray, pace: np.ndarray, fps: float | None
            ) -> list[Fault]:
    """The longest run in which the picture stays while the numbers move."""
    least = max(FROZEN_FRAMES, round(FROZEN_S * fps) if fps is not None else FROZEN_FRAMES)
    best, begin = (0, 0), 0
    for tick in range(len(moves) + 1):
        if tick == len(moves) or moves[tick] >= 0:
            if tick - begin > best[0] and pace[begin:tick].mean() > MOVING:
                best = tick - begin, begin
            begin = tick + 1
    if best[0] < least:
        return []
    return [Fault("frozen_frames", episode.name, f"{camera} shows the same frame from {best[1]} to {sum(best)} while "
                  "the robot moves")]
