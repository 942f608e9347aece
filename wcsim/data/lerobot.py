"""LeRobotDataset v3.0, v2.1 and v2.0 as recordings, without the package `lerobot`.

A dataset has as many rows as frames, each with the action taken there; the last action leads to no frame and is
dropped.  Easy to get wrong: frames are counted from the episode's first one, since timestamps of real sets begin at 0,
at 1/fps or elsewhere; `wcsim data check` says where video and table drift apart.

Shapes: T actions, n frames, H W frame, A action, R robot state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.cameras import Camera, Cameras
from wcsim.data.guarded import guarded
from wcsim.data.lerobot_meta import FileIndex, Meta, Place, names_of, read_meta, read_places, read_tasks
from wcsim.data.pictures import read_pictures
from wcsim.data.recordings import EpisodeRow, RecordedEpisode, RecordingsSpec, Signal, check_camera
from wcsim.data.tables import columns_of, numbers, read_json, read_table
from wcsim.data.video import VideoFile, VideoFiles
from wcsim.errors import DataError

ACTION, STATE, MAX_KEPT = "action", "observation.state", 64


@guarded
class LeRobotRecordings:
    """A dataset in a folder.  fps: to take instead of what meta/info.json says."""

    format = "lerobot"

    def __init__(self, path: Path, *, fps: float | None = None) -> None:
        self.path = path
        self._meta: Meta = read_meta(path)
        self._fps = fps if fps is not None else self._meta.fps
        self._index, self._left_out = FileIndex(self._meta), list[DataError]()
        self._videos = VideoFiles()
        self._kept: OrderedDict[int, RecordedEpisode] = OrderedDict()
        if ACTION not in self._meta.features:
            raise DataError(f"{path}/meta/info.json has no feature {ACTION!r}; it has "
                            f"{', '.join(self._meta.features)}")
        self._announced = read_places(self._meta)
        self._places = self._whole(self._announced)
        if not self._places:
            raise DataError(f"{path} has no episode whose files are there: "
                            f"{self._left_out[0] if self._left_out else 'meta names none'}")

    @staticmethod
    def matches(path: Path) -> bool:
        """Whether a folder is such a dataset."""
        return (path / "meta/info.json").is_file()

    @property
    def left_out(self) -> Sequence[DataError]:
        """Episodes without a table, cameras without videos."""
        _ = self.spec
        return self._left_out

    @cached_property
    def spec(self) -> RecordingsSpec:
        """Sizes of frames and numbers are those of the first episode's files."""
        meta, first = self._meta, self._rows(0)
        path, name = self._data_file(self._places[0]), self._name(0)
        there = columns_of(path)
        self._left_out += [
            DataError(f"{path} has no column {key!r}, which meta/info.json announces") for key, told in
            meta.features.items() if key not in there and told.get("dtype") not in ("video", "image")]
        dims = {key: numbers(first, key, path, name).shape[1] for key in (ACTION, STATE) if key in first.column_names}
        signals = {key: self._signal(key, dim) for key, dim in dims.items()}
        cameras = tuple(camera for short, key in meta.cameras.items() if (camera := self._camera(short, key)))
        if not cameras:
            raise DataError(f"{self.path} has no camera with files; features of dtype video or image: "
                            f"{', '.join(meta.cameras) or 'none'}")
        return RecordingsSpec(self._fps, Cameras(cameras), signals[ACTION], signals.get(STATE), meta.robot,
                              dict(meta.notes.get("conversion", {})))

    @cached_property
    def episodes(self) -> Sequence[EpisodeRow]:
        """Those whose table is there."""
        return [EpisodeRow(self._name(number), place.rows if place.rows is not None else self._rows(number).num_rows,
                           place.tasks[0] if place.tasks else "") for number, place in enumerate(self._places)]

    def episode(self, number: int) -> RecordedEpisode:
        """See `Recordings`."""
        if number not in self._kept:
            self._kept[number] = self._read(number)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def frames(self, number: int, camera: str, ticks: Sequence[int]) -> np.ndarray:
        """See `Recordings`."""
        check_camera(self, camera)
        place, key = self._places[number], self._meta.cameras[camera]
        rows = place.rows if place.rows is not None else self._rows(number).num_rows
        for tick in ticks:
            if not 0 <= tick < rows:
                raise DataError(f"{self.path} episode {place.index} has frames 0 to {rows - 1}, asked for {tick}",
                                episode=self._name(number))
        try:
            if self._meta.features[key].get("dtype") == "image":
                return read_pictures(self._data_file(place), key, place.index, ticks, self.path)
            video, first = self.video(number, camera)
            return video.read([first + tick for tick in ticks])
        except DataError as error:
            raise DataError(f"episode {self._name(number)}: {error}", kind=error.kind,
                            episode=self._name(number)) from error

    def video(self, number: int, camera: str) -> tuple[VideoFile, int]:
        """The video of an episode, and the number of the episode's first frame in it."""
        place, key = self._places[number], self._meta.cameras[camera]
        path = self._index.video(place, key)
        if path is None:
            raise DataError(f"{self.path} has no video of camera {key!r} for episode {place.index} by "
                            f"{self._meta.video_path!r}", episode=self._name(number))
        return self._videos.get(path, self._rate), self._first(place, key)

    def span_s(self, number: int, camera: str) -> float | None:
        """Seconds that meta says the episode's video lasts; None where it does not say."""
        place, key = self._places[number], self._meta.cameras[camera]
        if key not in place.start_s or key not in place.end_s:
            return None
        return place.end_s[key] - place.start_s[key]

    def files(self) -> list[Path]:
        """All but caches."""
        return sorted(path for folder in ("meta", "data", "videos", "images")
                      for path in (self.path / folder).rglob("*") if path.is_file())

    @property
    def _rate(self) -> float:
        """Frames per second by which the videos count, whatever fps the caller gave."""
        return self._meta.fps if self._meta.fps is not None else self.spec.rate

    def _first(self, place: Place, key: str) -> int:
        if key in place.start_s:
            return round(place.start_s[key] * self._rate)
        if "{episode_index" in self._meta.video_path:
            return 0
        return place.first - min(other.first for other in self._announced if other.videos[key] == place.videos[key])

    def _name(self, number: int) -> str:
        return str(self._places[number].index)

    def _whole(self, places: Sequence[Place]) -> list[Place]:
        whole = []
        for place in places:
            if self._index.data(place) is not None:
                whole.append(place)
            else:
                self._left_out.append(DataError(
                    f"{self.path} has no table for episode {place.index} by {self._meta.data_path!r}",
                    episode=str(place.index)))
        return whole

    def _data_file(self, place: Place) -> Path:
        path = self._index.data(place)
        assert path is not None, "only episodes with a table are listed"
        return path

    def _rows(self, number: int) -> Any:
        """The numbers of an episode, in the order of time."""
        place = self._places[number]
        path = self._data_file(place)
        there = columns_of(path)
        if ACTION not in there:
            raise DataError(f"{path} has no column {ACTION!r}, needed for episode {place.index}; it has "
                            f"{', '.join(there)}", episode=str(place.index))
        wanted = [name for name in (ACTION, STATE, "timestamp", "frame_index", "task_index", "next.success")
                  if name in there]
        if "episode_index" in there:
            table = read_table(path, wanted, episode=place.index)
        else:
            table = read_table(path, wanted)
            begin = min(other.first for other in self._announced if other.data == place.data)
            if self._meta.version == "v3" and place.rows is not None:
                table = table.slice(place.first - begin, place.rows)
        return table.sort_by("frame_index") if "frame_index" in wanted else table

    def _read(self, number: int) -> RecordedEpisode:
        place, name, table = self._places[number], self._name(number), self._rows(number)
        path = self._data_file(place)
        if not table.num_rows or (place.rows is not None and place.rows != table.num_rows):
            raise DataError(f"{path} has {table.num_rows} rows of episode {name}, meta says {place.rows}",
                            kind="action_count" if table.num_rows else "missing", episode=name)
        values = {key: numbers(table, key, path, name) for key in table.column_names}
        for key, signal in ((ACTION, self.spec.action), (STATE, self.spec.state)):
            if signal is not None and (key not in values or values[key].shape[1] != signal.dim):
                given = values[key].shape[1] if key in values else "no"
                raise DataError(f"{path} episode {name} has {given} numbers in {key!r}; the first episode has "
                                f"{signal.dim}", episode=name)
        tasks = place.tasks or ((self._tasks.get(int(values["task_index"][0, 0]), ""),)
                                if "task_index" in values else ("",))
        told = self._meta.notes.get("episodes", {}).get(name, {})
        success = bool(np.nan_to_num(values["next.success"]).any()) if "next.success" in values else None
        return RecordedEpisode(
            name, values[ACTION][:-1].astype(np.float32),
            values[STATE].astype(np.float32) if self.spec.state is not None else None, tasks[0],
            values["timestamp"][:, 0] if "timestamp" in values else None, told.get("seed"), success)

    @cached_property
    def _tasks(self) -> Mapping[int, str]:
        return read_tasks(self._meta)

    def _signal(self, key: str, dim: int) -> Signal:
        told = self._meta.notes.get("signals", {}).get(key)
        if told is not None and len(told["names"]) == dim:
            return Signal.from_json(told)
        modality = self.path / "meta/modality.json"
        if modality.is_file():
            slices = read_json(modality).get("action" if key == ACTION else "state", {})
            names = _sliced(slices, dim)
            if names:
                return Signal(names)
        return Signal(names_of(self._meta.features.get(key, {}), dim, key.split(".")[-1]))

    def _camera(self, short: str, key: str) -> Camera | None:
        """A camera and the size of its first frame; None where it has no files."""
        meta = self._meta
        if meta.features[key].get("dtype") == "image":
            there = key in columns_of(self._data_file(self._places[0]))
            if there:
                first = read_pictures(self._data_file(self._places[0]), key, self._places[0].index, [0], self.path)
                return Camera(short, *first.shape[1:3])
        for place in self._places if meta.features[key].get("dtype") == "video" else ():
            path = self._index.video(place, key)
            if path is not None:
                return Camera(short, *self._videos.get(path, self._meta.fps or self._fps).size)
        self._left_out.append(DataError(f"{self.path} has no files of camera {key!r}"))
        return None


def _sliced(slices: Mapping[str, Mapping[str, int]], dim: int) -> tuple[str, ...]:
    """Names by GR00T's modality.json, as left_arm_0; none where its slices do not cover all numbers once."""
    names: dict[int, str] = {}
    for name, told in slices.items():
        start, end = int(told.get("start", 0)), int(told.get("end", 0))
        for number in range(start, min(end, start + dim + 1)):
            if number in names:
                return ()
            names[number] = f"{name}_{number - int(told['start'])}"
    return tuple(names[number] for number in range(dim)) if set(names) == set(range(dim)) else ()
