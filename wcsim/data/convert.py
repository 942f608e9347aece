"""Recordings from one format into another, changed only as asked.

Easy to get wrong: a stopped conversion goes on in a hidden folder; a folder that exists already is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from wcsim.data.lerobot_writer import SOURCE, LeRobotWriter, begin_partial
from wcsim.data.npz import write_npz
from wcsim.data.recordings import Recordings, RecordingsSpec
from wcsim.data.views import View, ViewOptions
from wcsim.errors import ConfigError, DataError

Form = Literal["lerobot", "npz"]
BATCH = 32
"""Frames in memory at a time."""


def convert(source: Recordings, out: Path, options: ViewOptions | None = None, *, form: Form = "lerobot",
            progress: Callable[[int, int], None] | None = None) -> Path:
    """Write all episodes of `source` into the folder `out`, which must not exist; goes on where it was stopped.

    progress: called with episodes done and in all.  DataError names the episode that cannot be read or written.
    """
    if form not in get_args(Form):
        raise ConfigError(f"format {form!r} cannot be written; allowed: {', '.join(get_args(Form))}")
    options = options or ViewOptions()
    view = View(source, options)
    if out.exists():
        raise DataError(f"{out} exists; name a folder that does not")
    tell = progress or (lambda done, total: None)
    told = {"name": source.path.name, "options": asdict(options), "episodes": [row.name for row in view.episodes]}
    return (_to_npz if form == "npz" else _to_lerobot)(view, told, out, tell)


def _to_lerobot(view: View, told: dict[str, Any], out: Path, tell: Callable[[int, int], None]) -> Path:
    notes = {**view.spec.notes, "from": {"format": view.format, "name": view.path.name}}
    spec: RecordingsSpec = replace(view.spec, notes=notes)
    total = len(view.episodes)
    success = view.episode(0).success is not None
    with LeRobotWriter(out, spec, source=told, success=success) as writer:
        for number in range(writer.done, total):
            tell(number, total)
            episode = view.episode(number)
            writer.add(episode, {camera.name: batches(view, number, camera.name, episode.frames)
                                 for camera in spec.cameras.cameras})
    tell(total, total)
    return out


def batches(recordings: Recordings, number: int, camera: str, count: int) -> Iterator[np.ndarray]:
    """All frames of an episode, a few at a time."""
    for first in range(0, count, BATCH):
        yield recordings.frames(number, camera, range(first, min(first + BATCH, count)))


def _to_npz(view: View, told: dict[str, Any], out: Path, tell: Callable[[int, int], None]) -> Path:
    """One file per episode, frames in memory one episode at a time; whole files of an earlier attempt are kept."""
    cameras = view.spec.cameras.cameras
    if len(cameras) != 1:
        raise ConfigError(f"a .npz file has one camera; choose one of {', '.join(camera.name for camera in cameras)}")
    partial = out.with_name(f".{out.name}.partial")
    begin_partial(partial, told)
    total = len(view.episodes)
    digits = len(str(max(total - 1, 0)))
    for number in range(total):
        tell(number, total)
        path = partial / f"{number:0{digits}d}.npz"
        if not path.is_file():
            episode = view.episode(number)
            frames = np.concatenate(list(batches(view, number, cameras[0].name, episode.frames)))
            try:
                write_npz(path, frames, episode, view.spec)
            except OSError as error:
                raise DataError(f"{out}: writing episode {episode.name} failed ({error}); {number} are whole; make "
                                "room and run it again, it goes on", episode=episode.name) from error
    (partial / SOURCE).unlink()
    partial.rename(out)
    tell(total, total)
    return out

