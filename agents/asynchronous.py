"""Acting every tick while thinking takes several: what is done until the next chunk arrives.

A chunk is asked for at a tick, made from what is seen then, and arrives `d` ticks later.  Easy to get wrong: when it
arrives its first d actions are past, so they are skipped; only a robot that held its place may begin at its first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np

from wcsim.agents.chunks import ChunkSource
from wcsim.agents.policies import Hold, Observation
from wcsim.errors import ConfigError
from wcsim.estimate import Episode

Mode = Literal["wait", "naive", "ensemble", "freeze"]
"""wait: hold until the chunk arrives.  naive: go on with the last chunk, then switch to the new one.  ensemble:
average all chunks that cover a tick (ACT, arXiv 2304.13705).  freeze: as naive, but the new chunk is made knowing which
actions will be past when it arrives (real-time chunking, arXiv 2506.07339)."""

Delay = Callable[[float], int]
"""Milliseconds that a chunk took to the ticks after which it arrives."""


def fixed_delay(ticks: int) -> Delay:
    """Always so many ticks."""
    return lambda ms: ticks


def ticks_of(tick_ms: float, *, free_ms: float = 0.0) -> Delay:
    """Whole ticks that the milliseconds fill, `free_ms` apart, in which the robot would wait anyway."""
    return lambda ms: max(0, ceil((ms - free_ms) / tick_ms - 1e-9))


@dataclass(frozen=True, slots=True)
class Chunk:
    """actions: `[H, A]`.  began: tick of the first of them.  ready: tick at which they arrive."""

    actions: np.ndarray
    began: int
    ready: int

    def covers(self, tick: int) -> bool:
        """Whether it says what to do at `tick`."""
        return self.began <= tick < self.began + len(self.actions)

    def at(self, tick: int) -> np.ndarray:
        """That action; the last one after its end."""
        action: np.ndarray = self.actions[min(tick - self.began, len(self.actions) - 1)]
        return action


class AsynchronousPolicy:
    """A `LanePolicy` that acts every tick on the chunks of `source`.

    execute: ticks from one request to the next, or more where the last chunk has not arrived yet.  delay: see `Delay`;
    `freeze` expects the delay that the last chunk had.  memory: weight of each older chunk in an ensemble, relative to
    the next older one, is exp(-memory); ACT uses 0.01.  hold: an observation to the action that keeps the robot where
    it is; once it has acted, it repeats its last action instead.  waited: ticks of this episode that were held.
    """

    def __init__(
        self, source: ChunkSource, *, mode: Mode, execute: int, delay: Delay, hold: Hold, memory: float = 0.01,
    ) -> None:
        if execute < 1:
            raise ConfigError(f"execute must be 1 or more ticks, got {execute}")
        self.source, self._mode, self._execute, self._delay = source, mode, execute, delay
        self._memory, self._hold = memory, hold

    def reset(self, episode: Episode) -> None:
        """See `LanePolicy`."""
        self.source.reset(episode)
        self._tick, self._next, self._expected, self.waited = 0, 0, 0, 0
        self._arrived: list[Chunk] = []
        self._coming: Chunk | None = None
        self._action: np.ndarray | None = None

    def act(self, observation: Observation, steps_left: int | None = None) -> np.ndarray:
        """The action `[A]` of this tick."""
        if self._action is None:
            self._held = np.asarray(self._hold(observation), np.float64)
        else:
            self.source.see(observation, self._action)
        self._receive()
        if self._coming is None and self._tick >= self._next:
            self._ask(observation)
            self._receive()
        self._action = self._choose()
        self._tick += 1
        return self._action.copy()

    def _receive(self) -> None:
        """Take in the chunk that is due."""
        coming = self._coming
        if coming is not None and self._tick >= coming.ready:
            if self._mode == "wait":  # the robot held its place: its chunk begins now
                coming = Chunk(coming.actions, self._tick, coming.ready)
                self._next = self._tick + self._execute
            self._arrived = [chunk for chunk in self._arrived if chunk.covers(self._tick)] + [coming]
            self._coming = None

    def _ask(self, observation: Observation) -> None:
        """Have a chunk made from what is seen now."""
        prefix = np.zeros((0, len(self._held)))
        if self._mode == "freeze" and self._arrived and self._expected:
            prefix = np.array([self._arrived[-1].at(self._tick + i) for i in range(self._expected)])
        actions = self.source.chunk(observation, prefix)
        delay = self._delay(self.source.last_ms)
        if delay < 0:
            raise ConfigError(f"a chunk cannot arrive before it is asked for, got a delay of {delay}")
        self._expected = min(delay, len(actions) - 1)
        self._coming = Chunk(actions, self._tick, self._tick + delay)
        self._next = self._tick + self._execute

    def _choose(self) -> np.ndarray:
        if not self._arrived or (self._mode == "wait" and self._coming is not None):
            self.waited += 1
            return self._held if self._action is None else self._action
        if self._mode == "ensemble":
            live = [chunk for chunk in self._arrived if chunk.covers(self._tick)]
            if live:
                weights = np.exp(-self._memory * np.arange(len(live)))  # the oldest first, as ACT weighs them
                return np.asarray(np.average([chunk.at(self._tick) for chunk in live], axis=0, weights=weights))
        return self._arrived[-1].at(self._tick)
