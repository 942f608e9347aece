"""A small clean set of recordings: an arm whose actions are moves in m, and a dot that follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wcsim.cameras import Camera, Cameras
from wcsim.data.lerobot_writer import LeRobotWriter
from wcsim.data.recordings import RecordedEpisode, RecordingsSpec, Signal

FPS = 10.0
SPEC = RecordingsSpec(
    FPS, Cameras((Camera("top", 32, 40), Camera("wrist", 24, 24))),
    Signal(("dx", "dy", "gripper"), "m; gripper 0 open to 1 closed", absolute=("gripper",)),
    Signal(("x", "y", "gripper"), "m; gripper 0 open to 1 closed"), robot="dot")

Taken = tuple[RecordedEpisode, dict[str, np.ndarray]]
Spoil = Callable[[int, RecordedEpisode, dict[str, np.ndarray]], Taken]


def taken(number: int, ticks: int = 40) -> Taken:
    """One episode: a random walk of smooth steps, and its frames by camera."""
    rng = np.random.default_rng([7, number])
    steps = 0.02 * np.convolve(rng.normal(size=(ticks + 2)), [0.3, 0.4, 0.3], "valid")
    moves = np.stack([steps, 0.03 * rng.normal(size=ticks)], axis=1)
    grip = (np.arange(ticks) > ticks // 2).astype(float)
    place = np.vstack([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
    state = np.hstack([place, np.concatenate([[0.0], grip])[:, None]]).astype(np.float32)
    actions = np.hstack([moves, grip[:, None]]).astype(np.float32)
    frames = {camera.name: draw(place, camera) for camera in SPEC.cameras.cameras}
    return RecordedEpisode(str(number), actions, state, f"go {number % 2}", seed=100 + number,
                           success=number % 2 == 0), frames


def draw(place: np.ndarray, camera: Camera) -> np.ndarray:
    """A bright blot on a coloured ground, `[n, H, W, 3]`."""
    rows, columns = np.mgrid[: camera.height, : camera.width]
    y, x = ((0.5 + place[:, axis, None, None]) * size
            for axis, size in ((1, camera.height), (0, camera.width)))
    blot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 20.0)
    ground = np.stack([rows * 3 + 40, columns * 3 + 40, np.full_like(rows, 80)], axis=-1)
    frames = np.clip(ground[None] + 120 * blot[..., None], 0, 255).astype(np.uint8)
    return np.asarray(frames)


def same(number: int, episode: RecordedEpisode, frames: dict[str, np.ndarray]) -> Taken:
    """Spoils nothing."""
    del number
    return episode, frames


def write(folder: Path, *, episodes: int = 3, spoil: Spoil = same, spec: RecordingsSpec = SPEC,
          frames_per_file: int = 100) -> list[Taken]:
    """The set in a folder, and what was written."""
    all_of_it = [spoil(number, *taken(number)) for number in range(episodes)]
    with LeRobotWriter(folder, spec, success=True, frames_per_file=frames_per_file) as writer:
        for episode, frames in all_of_it:
            writer.add(episode, {name: [frames[name]] for name in frames})
    return all_of_it


def with_actions(change: Callable[[np.ndarray], np.ndarray], only: Sequence[int] | None = None) -> Spoil:
    """Spoils the actions `[T, A]` of some episodes, or of all."""
    def spoil(number: int, episode: RecordedEpisode, frames: dict[str, np.ndarray]) -> Taken:
        if only is not None and number not in only:
            return episode, frames
        return replace(episode, actions=change(episode.actions.copy()).astype(np.float32)), frames

    return spoil


def with_frames(change: Callable[[np.ndarray], np.ndarray], only: int) -> Spoil:
    """Spoils the frames of the camera `top` in one episode."""
    def spoil(number: int, episode: RecordedEpisode, frames: dict[str, np.ndarray]) -> Taken:
        return episode, frames if number != only else frames | {"top": change(frames["top"].copy())}

    return spoil
