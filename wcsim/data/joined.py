"""Several recordings of one robot as one: their episodes, one set after the other.

Easy to get wrong: an episode is then called FOLDER/NAME, since every set counts its episodes from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from wcsim.data.recordings import EpisodeRow, RecordedEpisode, Recordings, RecordingsSpec
from wcsim.errors import DataError


class Joined:
    """Recordings joined.  DataError where cameras, fps, actions or state of one differ from the first's."""

    def __init__(self, parts: Sequence[Recordings]) -> None:
        if not parts:
            raise DataError("there are no recordings to join")
        self._parts = list(parts)
        self.path, self.format = parts[0].path, parts[0].format
        for part in parts[1:]:
            _check_alike(parts[0], part)
        self._places = [(part, number) for part in parts for number in range(len(part.episodes))]

    @property
    def spec(self) -> RecordingsSpec:
        """The first's."""
        return self._parts[0].spec

    @cached_property
    def episodes(self) -> Sequence[EpisodeRow]:
        """Of all, in order."""
        return [replace(part.episodes[number], name=self._name(part, number)) for part, number in self._places]

    @property
    def left_out(self) -> Sequence[DataError]:
        """Of all."""
        return [error for part in self._parts for error in part.left_out]

    def episode(self, number: int) -> RecordedEpisode:
        """See `Recordings`."""
        part, inside = self._places[number]
        return replace(part.episode(inside), name=self._name(part, inside))

    def frames(self, number: int, camera: str, ticks: Sequence[int]) -> np.ndarray:
        """See `Recordings`."""
        part, inside = self._places[number]
        return part.frames(inside, camera, ticks)

    def files(self) -> list[Path]:
        """Of all."""
        return [path for part in self._parts for path in part.files()]

    @staticmethod
    def _name(part: Recordings, number: int) -> str:
        return f"{part.path.name}/{part.episodes[number].name}"


def _check_alike(first: Recordings, other: Recordings) -> None:
    a, b = first.spec, other.spec
    pairs = {"cameras": (a.cameras, b.cameras), "fps": (a.fps, b.fps), "actions": (a.action.names, b.action.names),
             "units of actions": (a.action.units, b.action.units),
             "state": (a.state and a.state.names, b.state and b.state.names)}
    for what, (one, two) in pairs.items():
        if one != two:
            raise DataError(f"{first.path} and {other.path} differ in {what}: {one} and {two}; recordings that are "
                            "joined are of one robot")
