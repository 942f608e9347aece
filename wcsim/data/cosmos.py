"""Action-conditioned annotations of Cosmos-Predict2.5 as recordings: `annotation/SPLIT/N.json` beside mp4 files.

Actions are made of the states by the rule of its inference code, in m and rad, before any scaling.  Easy to get wrong:
the gripper in `state` and `action` is 1 where open, `continuous_gripper_state`, which the model reads, 0 where open.

Shapes: T actions, n frames, H W frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wcsim.cameras import Camera, Cameras
from wcsim.data.guarded import guarded
from wcsim.data.recordings import EpisodeRow, RecordedEpisode, RecordingsSpec, Signal, check_camera
from wcsim.data.tables import read_json
from wcsim.data.video import VideoFile, VideoFiles
from wcsim.errors import DataError

ACTION = Signal(("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
                "m and rad in the gripper's frame one tick before; gripper 0 open to 1 closed", absolute=("gripper",))
STATE = Signal(("x", "y", "z", "roll", "pitch", "yaw", "gripper"), "m and rad; gripper 1 open to 0 closed")
TOLERANCE = 1e-3
"""By how much the actions of a file may differ from those made of its states; good files stay below 1e-5."""


def derive_actions(state: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """Actions float64 `[T, 7]` from states `[T+1, 7]` and how far the gripper is closed `[T+1]`; row k leads to frame
    k + 1.  Source: cosmos-predict2.5, action-conditioned inference."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("xyz", state[:, 3:6])
    move = turn[:-1].inv().apply(np.diff(state[:, :3], axis=0))
    return np.hstack([move, (turn[:-1].inv() * turn[1:]).as_euler("xyz"), closed[1:, None]])


@guarded
class CosmosRecordings:
    """A folder with `annotation/`.  fps: to take instead of the videos' own."""

    format = "cosmos"

    def __init__(self, path: Path, *, fps: float | None = None) -> None:
        self.path, self._fps, self._videos = path, fps, VideoFiles()
        paths = sorted((path / "annotation").rglob("*.json"), key=_order)
        if not paths:
            raise DataError(f"{path}/annotation holds no .json file; needed is annotation/SPLIT/N.json")
        several = len({one.parent for one in paths}) > 1
        self._paths = {f"{one.parent.name}/{one.stem}" if several else one.stem: one for one in paths}
        self._names = list(self._paths)

    @staticmethod
    def matches(path: Path) -> bool:
        """Whether there is an annotation."""
        return (path / "annotation").is_dir() and any((path / "annotation").rglob("*.json"))

    @property
    def left_out(self) -> Sequence[DataError]:
        """Nothing is announced but by the annotations themselves."""
        return ()

    @cached_property
    def spec(self) -> RecordingsSpec:
        """Cameras and fps are those of the first episode's videos."""
        told = self._annotation(0).get("videos") or ()
        files = [self.video(0, f"camera_{number}")[0] for number in range(len(told))]
        if not files:
            raise DataError(f"{self._path(0)} names no videos", episode=self._names[0])
        cameras = Cameras(tuple(Camera(f"camera_{number}", *file.size) for number, file in enumerate(files)))
        return RecordingsSpec(self._fps if self._fps is not None else files[0].own_rate or None, cameras, ACTION, STATE)

    @cached_property
    def episodes(self) -> Sequence[EpisodeRow]:
        """One per annotation."""
        return [EpisodeRow(name, len(told.get("state", ())), _text(told))
                for name, told in ((name, self._annotation(number)) for number, name in enumerate(self._names))]

    def episode(self, number: int) -> RecordedEpisode:
        """See `Recordings`; the times are not recorded."""
        state, closed = self._states(number)
        return RecordedEpisode(self._names[number], derive_actions(state, closed).astype(np.float32),
                               state.astype(np.float32), _text(self._annotation(number)))

    def _states(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """States float64 `[T+1, 7]`, and how far the gripper is closed `[T+1]`."""
        told, path, name = self._annotation(number), self._path(number), self._names[number]
        state = _array(told, "state", path, name)
        if state.ndim != 2 or state.shape[1] != STATE.dim or len(state) < 2:
            raise DataError(f"{path} has state {list(state.shape)}; needed is [T+1, 7]", episode=name)
        for what, length in (("continuous_gripper_state", len(state)), ("action", len(state) - 1)):
            if what in told and len(told[what]) != length:
                raise DataError(f"{path} has {len(told[what])} rows in {what!r} and {len(state)} states; needed are "
                                "T + 1 states, T + 1 gripper states and T actions", kind="action_count", episode=name)
        if "continuous_gripper_state" not in told:
            return state, 1.0 - state[:, 6]
        return state, _array(told, "continuous_gripper_state", path, name)

    def actions_between(self, number: int, ticks: np.ndarray) -> np.ndarray:
        """Actions float32 `[len(ticks) - 1, 7]` that lead from each of these ticks to the next."""
        state, closed = self._states(number)
        return derive_actions(state[ticks], closed[ticks]).astype(np.float32)

    def own_faults(self, number: int) -> list[DataError]:
        """Where the file's own actions and gripper say something else than its states."""
        told, path, name = self._annotation(number), self._path(number), self._names[number]
        episode, faults = self.episode(number), []
        assert episode.state is not None
        if "action" in told:
            own = _array(told, "action", path, name)
            apart = float(np.abs(own[:, :6] - episode.actions[:, :6]).max())
            if apart > TOLERANCE:
                faults.append(DataError(f"{path} has actions that differ from its states by up to {apart:.3g}",
                                        kind="action_scale", episode=name))
            if _against(own[:, 6], episode.state[1:, 6]):
                faults.append(DataError(f"{path} has the gripper of 'action' against that of 'state', which is 1 where "
                                        "open", kind="gripper_sign", episode=name))
        if _against(1.0 - episode.actions[:, 6], episode.state[1:, 6]):
            faults.append(DataError(f"{path} has 'continuous_gripper_state' rise with the gripper of 'state'; it is 0 "
                                    "where open, 'state' 1", kind="gripper_sign", episode=name))
        return faults

    def frames(self, number: int, camera: str, ticks: Sequence[int]) -> np.ndarray:
        """See `Recordings`."""
        check_camera(self, camera)
        file, first = self.video(number, camera)
        try:
            return file.read([first + tick for tick in ticks])
        except DataError as error:
            raise DataError(f"episode {self._names[number]}: {error}", kind=error.kind,
                            episode=self._names[number]) from error

    def video(self, number: int, camera: str) -> tuple[VideoFile, int]:
        """The video of an episode, and the number of the episode's first frame in it."""
        told, place = self._annotation(number).get("videos") or (), int(camera.rsplit("_", 1)[1])
        if place >= len(told) or "video_path" not in told[place]:
            raise DataError(f"{self._path(number)} names no video of {camera}", episode=self._names[number])
        return self._videos.get(self.path / told[place]["video_path"]), 0

    def files(self) -> list[Path]:
        """Annotations and videos."""
        return [*self._paths.values(), *sorted((self.path / "videos").rglob("*.mp4"))]

    def _path(self, number: int) -> Path:
        return self._paths[self._names[number]]

    def _annotation(self, number: int) -> dict[str, Any]:
        return read_json(self._path(number))


def _order(path: Path) -> tuple[str, int, str]:
    return str(path.parent), int(path.stem) if path.stem.isdigit() else -1, path.stem


def _text(told: dict[str, Any]) -> str:
    texts = told.get("texts") or [""]
    return str(texts[0])


def _array(told: dict[str, Any], key: str, path: Path, name: str) -> np.ndarray:
    if key not in told:
        raise DataError(f"{path} has no {key!r}; it has {', '.join(told)}", episode=name)
    try:
        return np.asarray(told[key], np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} has rows of different length or no numbers in {key!r}", kind="action_count",
                        episode=name) from error


def _against(values: np.ndarray, reference: np.ndarray) -> bool:
    """Whether two series that move in [0, 1] move against each other."""
    if np.ptp(values) < 0.1 or np.ptp(reference) < 0.1:
        return False
    return bool(np.corrcoef(values, reference)[0, 1] < -0.5)
