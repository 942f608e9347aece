"""What recordings are, whatever the format: episodes with frames, actions and perhaps the robot's state.

`open_recordings` finds the reader.  Numbers of an episode are read whole; frames only when they are asked for.  Easy to
get wrong: an episode of T actions has T + 1 frames and states; a format with an action in every row loses its last one.

Shapes: T actions, n frames, H W of a camera, A action, R robot state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from wcsim.cameras import Cameras
from wcsim.errors import ConfigError, DataError
from wcsim.registry import Registry


@dataclass(frozen=True, slots=True)
class Signal:
    """Numbers that are recorded at every tick.

    names: one each.  units: in words, empty where nobody says.  low, high: bounds, empty where nobody says.  absolute:
    names of those that are a value to hold; the others are changes, as in `wcsim.types.ActionSpec`.
    """

    names: tuple[str, ...]
    units: str = ""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    absolute: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """How many numbers."""
        return len(self.names)

    @property
    def told(self) -> bool:
        """Whether the names say anything, unlike action_0, action_1, ..."""
        return not all(name.endswith(f"_{number}") for number, name in enumerate(self.names))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"names": list(self.names), "units": self.units, "low": list(self.low), "high": list(self.high),
                "absolute": list(self.absolute)}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """What `to_json` made."""
        return cls(tuple(told["names"]), told["units"], *(tuple(told[key]) for key in ("low", "high", "absolute")))


@dataclass(frozen=True, slots=True)
class RecordingsSpec:
    """What all episodes have in common.

    fps: frames per second, None where the format does not say.  state: of the robot, None where none is recorded.
    robot: its kind, as the recordings call it.  notes: what conversions have written about themselves.
    """

    fps: float | None
    cameras: Cameras
    action: Signal
    state: Signal | None = None
    robot: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The fps; DataError where it is not known."""
        if self.fps is None:
            raise DataError("these recordings do not say their fps; say it (fps=, or --fps)", kind="fps")
        return self.fps


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """What is known of an episode before it is read.  name: its id.  frames: T + 1."""

    name: str
    frames: int
    instruction: str = ""


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """The numbers of one episode.

    actions: `[T, A]` float32, the t-th leads from frame t to t + 1.  state: `[T+1, R]` float32 or None.  times: `[T+1]`
    float64 in seconds, as recorded, or None.  seed, success: None where nobody says.
    """

    name: str
    actions: np.ndarray
    state: np.ndarray | None
    instruction: str = ""
    times: np.ndarray | None = None
    seed: int | None = None
    success: bool | None = None

    @property
    def frames(self) -> int:
        """T + 1."""
        return len(self.actions) + 1


class Recordings(Protocol):
    """Episodes in the order of their numbers, 0 to `len(episodes) - 1`.

    path: folder or file.  format: the reader's name.
    """

    path: Path
    format: str

    @property
    def spec(self) -> RecordingsSpec: ...

    @property
    def episodes(self) -> Sequence[EpisodeRow]: ...

    @property
    def left_out(self) -> Sequence[DataError]:
        """What the files announce and do not hold: episodes without files, cameras without videos."""
        ...

    def episode(self, number: int) -> RecordedEpisode:
        """The numbers of an episode; DataError where they are not what the format promises."""
        ...

    def frames(self, number: int, camera: str, ticks: Sequence[int]) -> np.ndarray:
        """Frames `[n, H, W, 3]` uint8 of a camera at some ticks, in their order.

        Decodes from the last key frame before each run of ticks.  DataError where a frame is not there.
        """
        ...

    def files(self) -> list[Path]:
        """Every file that is read, for fingerprints."""
        ...


RECORDINGS = Registry("recordings format", "wcsim.recordings", {
    "lerobot": "wcsim.data.lerobot:LeRobotRecordings",
    "cosmos": "wcsim.data.cosmos:CosmosRecordings",
    "npz": "wcsim.data.npz:NpzRecordings",
})
"""Readers by name.  A reader has `matches(path)` and is called with the path and `fps`, which replaces what the files
say where it is not None."""

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+@[\w./-]+")


def open_recordings(path: str | Path, *, form: str | None = None, fps: float | None = None) -> Recordings:
    """The recordings in a folder or file, or of a dataset on the Hugging Face Hub by `repo_id@revision`.

    form: of `RECORDINGS`; None: the first reader that knows the folder.  fps: to take instead of what the files say.
    Raises DataError where nothing can be read there, and says what is needed.
    """
    if fps is not None and not fps > 0:
        raise ConfigError(f"fps is {fps}; allowed: more than 0")
    reader, folder = find_reader(path, form)
    opened: Recordings = reader(folder, fps=fps)
    return opened


def find_reader(path: str | Path, form: str | None = None) -> tuple[Any, Path]:
    """The class that reads a folder or file, and that folder, fetched where it is on the Hub.  DataError where there is
    none; nothing but names of files is looked at."""
    folder = Path(path)
    if not folder.exists():
        if not HUB_NAME.fullmatch(str(path)):
            raise DataError(f"{path} does not exist; give a folder, or repo_id@revision of a dataset on the Hub")
        from wcsim.data.hub import fetch

        folder = fetch(str(path))
    names = [form] if form is not None else [*RECORDINGS.shipped, *sorted(set(RECORDINGS.names()) -
                                                                          set(RECORDINGS.shipped))]
    for name in names:
        reader = RECORDINGS.load(name)
        if form is not None or reader.matches(folder):
            return reader, folder
    raise DataError(f"{folder} holds no recordings; needed are meta/info.json (LeRobotDataset), annotation/*/*.json "
                    "(Cosmos annotations) or .npz files with `frames` and `actions`")


def check_camera(recordings: Recordings, camera: str) -> None:
    """DataError where there is no such camera."""
    names = [one.name for one in recordings.spec.cameras.cameras]
    if camera not in names:
        raise DataError(f"{recordings.path} has no camera {camera!r}; it has {', '.join(names)}")


def read_mosaic(recordings: Recordings, number: int, ticks: Sequence[int]) -> np.ndarray:
    """Frames `[n, H, W, 3]` in which all cameras are joined, as a world imagines them."""
    cameras = recordings.spec.cameras
    return cameras.join({camera.name: recordings.frames(number, camera.name, ticks) for camera in cameras.cameras})


def number_of(recordings: Recordings, name: str | int) -> int:
    """The number of the episode that is called so; DataError where there is none."""
    for number, row in enumerate(recordings.episodes):
        if row.name == str(name):
            return number
    known = ", ".join(row.name for row in recordings.episodes[:8])
    more = ", ..." if len(recordings.episodes) > 8 else ""
    raise DataError(f"{recordings.path} has no episode {str(name)!r}; it has {known}{more}", episode=str(name))
