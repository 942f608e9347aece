"""Recordings as training reads them: numbers in memory, frames decoded once, latents in a file.

All arrays are flat over the frames of all episodes, one after the other.  Easy to get wrong: the t-th action led to
frame t, so the first frame of an episode has none that is known; and a window never crosses the end of an episode.

Shapes: E episodes, F frames in all, n frames, A action, R robot state, H W of the mosaic of all cameras.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wcsim.actions import check_action, features
from wcsim.data.joined import Joined
from wcsim.data.recordings import Recordings, open_recordings, read_mosaic
from wcsim.data.views import View, ViewOptions
from wcsim.errors import ActionError, ConfigError, DataError
from wcsim.runs import files
from wcsim.train.recipe import DataRecipe
from wcsim.types import ActionSpec
from wcsim.world.codec import Codec

Count = Callable[[int, int], None]
"""Told how many are done, of how many."""

TOGETHER = 64
"""Frames that are decoded or encoded at once."""


@dataclass(frozen=True)
class Footage:
    """Some episodes of recordings.

    first: `[E+1]` int64, where each episode begins, and F.  actions: `[F, A]` float32, those that led to the frames,
    zero where `known` `[F]` is False.  state: `[F, R]` float32 or None.  simulator: `[F, S]` float32, the state of a
    simulator, where a recipe asks for it (`wcsim.train.privileged`).
    """

    recordings: Recordings
    numbers: tuple[int, ...]
    first: np.ndarray
    actions: np.ndarray
    known: np.ndarray
    state: np.ndarray | None
    simulator: np.ndarray | None = None

    @classmethod
    def of(cls, recordings: Recordings, numbers: list[int], action: ActionSpec) -> Footage:
        """Read the numbers of some episodes.  DataError where an action is outside what the world's actions allow."""
        episodes = [recordings.episode(number) for number in numbers]
        for episode in episodes:
            try:
                check_action(action, episode.actions)
            except ActionError as error:
                raise DataError(f"{recordings.path} episode {episode.name}: {error}", kind="action_scale",
                                episode=episode.name) from error
        first = np.cumsum([0, *(episode.frames for episode in episodes)])
        led = [np.pad(episode.actions, ((1, 0), (0, 0))) for episode in episodes]
        known = np.ones(first[-1], bool)
        known[first[:-1]] = False
        states = [episode.state for episode in episodes if episode.state is not None]
        whole = len(states) == len(episodes)
        return cls(recordings, tuple(numbers), first, np.concatenate(led).astype(np.float32), known,
                   np.concatenate(states).astype(np.float32) if whole else None)

    def __len__(self) -> int:
        return int(self.first[-1])

    @property
    def lengths(self) -> np.ndarray:
        """Frames of every episode, `[E]`."""
        return np.diff(self.first)

    def frames(self, episode: int, ticks: list[int]) -> np.ndarray:
        """Mosaics `[n, H, W, 3]` uint8 of an episode."""
        return read_mosaic(self.recordings, self.numbers[episode], ticks)

    def names(self) -> list[str]:
        """What its episodes are called."""
        return [self.recordings.episodes[number].name for number in self.numbers]

    def fingerprint(self) -> str:
        """SHA-256 of which frames these are and of all their numbers; frames themselves are not read."""
        told = hashlib.sha256(repr(self.names()).encode())
        for array in (self.first, self.actions, self.state):
            told.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return told.hexdigest()


def open_footage(recipe: DataRecipe, paths: tuple[str, ...], action: Callable[[Recordings], ActionSpec]
                 ) -> tuple[Footage, Footage, ActionSpec]:
    """What is trained on, what is held out, and what the actions mean.  action: of the recordings that are trained on.

    A share is held out as every n-th episode, at least one.
    """
    train = see(paths, recipe)
    spec = action(train)
    every = list(range(len(train.episodes)))
    if not isinstance(recipe.validation, float):
        held = see((recipe.validation,) if isinstance(recipe.validation, str) else recipe.validation, recipe)
        if held.spec.cameras != train.spec.cameras or held.spec.fps != train.spec.fps:
            raise DataError(f"{held.path} has other cameras or another fps than {train.path}")
        return Footage.of(train, every, spec), Footage.of(held, list(range(len(held.episodes))), spec), spec
    if len(every) < 2:
        raise DataError(f"{train.path} has {len(every)} episode; 2 or more are needed, one of them held out")
    nth = max(2, round(1 / recipe.validation))
    out = every[nth - 1 :: nth] or every[-1:]
    return Footage.of(train, [one for one in every if one not in set(out)], spec), Footage.of(train, out, spec), spec


def parts_of(name: str) -> list[str]:
    """A path; or, of a folder in which a collection lies in parts, theirs in order."""
    parts = sorted(str(path) for path in Path(name).glob("part-*") if path.is_dir())
    return parts or [name]


def see(paths: tuple[str, ...], recipe: DataRecipe) -> Recordings:
    """Recordings as the recipe wants them."""
    if not paths:
        raise ConfigError("there are no recordings to train on; say data.path in the recipe, or --data")
    opened = [open_recordings(path) for name in paths for path in parts_of(name)]
    joined: Recordings = opened[0] if len(opened) == 1 else Joined(opened)
    return View(joined, ViewOptions(recipe.fps, recipe.frame_size, recipe.fit, recipe.actions, recipe.cameras))


@dataclass(frozen=True)
class FramePool:
    """Frames `[n, H, W, 3]` uint8, mapped from a file, and the episode `[n]` of each; those of one episode are side by
    side, from `begin` `[E]` up to `end` `[E]`.  simulator: `[n, S]`, see `Footage`."""

    frames: np.ndarray
    episode: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    simulator: np.ndarray | None = None

    @classmethod
    def of(cls, footage: Footage, path: Path, most: int, count: Count) -> FramePool:
        """Up to `most` frames, evenly taken, decoded once into a file."""
        chosen = np.unique(np.linspace(0, len(footage) - 1, min(most, len(footage))).round().astype(np.int64))
        episode = np.searchsorted(footage.first, chosen, side="right") - 1
        every = np.arange(len(footage.lengths))
        begin, end = (np.searchsorted(episode, every, side=side) for side in ("left", "right"))

        def decoded() -> Iterator[np.ndarray]:
            for number, (start, stop) in enumerate(zip(begin, end, strict=True)):
                ticks = (chosen[start:stop] - footage.first[number]).tolist()
                for some in range(0, len(ticks), TOGETHER):
                    yield footage.frames(number, ticks[some : some + TOGETHER])

        height, width = footage.recordings.spec.cameras.frame_size
        frames = kept(path, (len(chosen), height, width, 3), np.dtype(np.uint8), decoded, count)
        return cls(frames, episode, begin, end, None if footage.simulator is None else footage.simulator[chosen])

    def other(self, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For every frame another one of its episode, by index."""
        begin, end = self.begin[self.episode[index]], self.end[self.episode[index]]
        chosen: np.ndarray = begin + (rng.random(len(index)) * (end - begin)).astype(np.int64)
        return chosen


@dataclass(frozen=True)
class LatentFootage:
    """Footage as a transformer reads it.

    latents: `[F, C, h, w]` float16, mapped from a file.  actions: `[F, A']` features.  known: `[F]`.  change: `[F]`,
    mean absolute change of the latents on the way to each frame, 0 at the first of an episode.  room: `[F]`, frames
    from each to the end of its episode, itself included.  first: `[F]`, where its episode begins.  state, state_change:
    `[F, R]` with mean 0 and variance 1 in training, and what the last step did to it; R is 0 where none is used.
    """

    latents: np.ndarray
    actions: Tensor
    known: Tensor
    change: np.ndarray
    room: np.ndarray
    first: np.ndarray
    state: Tensor
    state_change: Tensor

    @classmethod
    def of(cls, footage: Footage, codec: Codec, action: ActionSpec, path: Path, count: Count,
           like: Footage | None = None, robot_state: bool = True) -> LatentFootage:
        """Encode footage once into a file.  like: by whose statistics the state is scaled; None: its own."""
        height, width = footage.recordings.spec.cameras.frame_size
        shape = (codec.latent_channels, height // codec.compression, width // codec.compression)

        def encoded() -> Iterator[np.ndarray]:
            for number, length in enumerate(footage.lengths):
                for some in range(0, length, TOGETHER):
                    seen = footage.frames(number, list(range(some, min(some + TOGETHER, length))))
                    yield codec.encode(seen).half().cpu().numpy()

        latents = kept(path, (len(footage), *shape), np.dtype(np.float16), encoded, count)
        state, state_change = scaled_state(footage, like or footage) if robot_state else (None, None)
        nothing = torch.zeros(len(footage), 0)
        known = torch.from_numpy(footage.known)
        return cls(latents, torch.from_numpy(features(action, footage.actions)) * known.unsqueeze(1), known,
                   changes(latents, footage.known), np.repeat(footage.first[1:], footage.lengths) - np.arange(
                       len(footage)), np.repeat(footage.first[:-1], footage.lengths),
                   nothing if state is None else state, nothing if state_change is None else state_change)

    def __len__(self) -> int:
        return len(self.latents)


def changes(latents: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean absolute change `[F]` float64 of latents `[F, C, h, w]` from frame to frame, 0 where none is known."""
    change = np.zeros(len(latents))
    for some in range(1, len(latents), TOGETHER):
        stop = min(some + TOGETHER, len(latents))
        now, before = latents[some:stop].astype(np.float32), latents[some - 1 : stop - 1].astype(np.float32)
        change[some:stop] = np.abs(now - before).mean((1, 2, 3))
    return np.where(known, change, 0.0)


def scaled_state(footage: Footage, like: Footage) -> tuple[Tensor | None, Tensor | None]:
    """Robot state and its change `[F, R]`, with the mean 0 and the variances 1 of `like`; None without any."""
    if footage.state is None or like.state is None:
        return None, None
    mean, std = like.state.mean(0), np.maximum(like.state.std(0), 1e-6)
    steps = [np.where(one.known[:, None], np.diff(one.state, axis=0, prepend=one.state[:1]), 0.0)
             for one in (footage, like) if one.state is not None]
    return (torch.from_numpy(((footage.state - mean) / std).astype(np.float32)),
            torch.from_numpy((steps[0] / np.maximum(steps[1].std(0), 1e-6)).astype(np.float32)))


def kept(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], parts: Callable[[], Iterator[np.ndarray]],
         count: Count) -> np.ndarray:
    """An array in a file, mapped; made of `parts`, one after the other along its first axis, where it is not there yet.

    The file has its name only once it is whole.
    """
    if path.is_file():
        there: np.ndarray = np.load(path, mmap_mode="r")
        if there.shape != shape or there.dtype != dtype:
            raise DataError(f"{path} holds {there.dtype} {list(there.shape)}, needed is {dtype} {list(shape)}; the "
                            "recordings are others than before: train into another folder")
        return there
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        array = np.lib.format.open_memmap(partial, "w+", dtype=dtype, shape=shape)
        done = 0
        for part in parts():
            array[done : done + len(part)] = part
            done += len(part)
            count(done, shape[0])
        array.flush()
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; make room and run it again") from error
    del array
    partial.rename(path)
    files.sync_folder(path.parent)
    whole: np.ndarray = np.load(path, mmap_mode="r")
    return whole
