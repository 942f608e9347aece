"""What is served: one world, and sessions, each of which is one lane.

All of it runs in the one compute thread, in order.  Easy to get wrong: lanes are immutable values, so a snapshot or a
branch is a reference; what a session may keep of them is counted (`Limits.snapshots`, `Limits.history`).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wcsim.agents.policies import Policy
from wcsim.cache.fidelity import parse_fidelity
from wcsim.cache.policy import presets
from wcsim.envs.agreement import check_world
from wcsim.envs.driving import driving_for, places_of
from wcsim.envs.lanes import Imagination, Lane, Tick, fingerprint, load_world, read_only
from wcsim.envs.observations import no_robot_state, robot_state
from wcsim.envs.remote_messages import ELSEWHERE, VERSION, unpack_start
from wcsim.envs.tasks import Truth, TruthFrame, episode_of, make_task
from wcsim.errors import ConfigError, RemoteError, SnapshotError
from wcsim.estimate import Episode
from wcsim.experiments.policies import PolicyConfig
from wcsim.serve.drivers import Drivers
from wcsim.serve.limits import Limits
from wcsim.serve.reel import Reel
from wcsim.spans import Spans


class Host:
    """The world that is served, and its task, loaded once.

    world: a shipped world's name or a folder.  task: `module:Class` where the world's own task does not ship.  drivers:
    policies that may take over (`wcsim.serve.drivers`).
    """

    def __init__(self, world: str, limits: Limits, *, task: str | None = None,
                 task_options: Mapping[str, Any] | None = None, device: str = "cpu", compiled: bool = False,
                 drivers: Sequence[PolicyConfig] | None = None) -> None:
        self.limits = limits
        self.world = load_world(world, device=device, compiled=compiled)
        self.spec = self.world.spec
        self.task = make_task(task or self.spec.task, **(task_options or {}))
        check_world(self.task, self.spec)
        self.fingerprint = fingerprint(world)
        self.driving = driving_for(self.task)
        self.drivers = Drivers(self.task, self.world, drivers)
        self._known: OrderedDict[str, Imagination] = OrderedDict()
        self.has_truth = self._tries_truth()

    def imagination(self, fidelity: Mapping[str, Any] | None) -> Imagination:
        """The one of this fidelity, which its sessions share; ConfigError for one that is unknown or too fine."""
        key = json.dumps(fidelity or {}, sort_keys=True)
        if key not in self._known:
            built = parse_fidelity(fidelity, cache="wcsim").build(self.spec)
            if built.steps > self.limits.denoise_steps:
                raise ConfigError(f"fidelity.steps is {built.steps}; this server allows {self.limits.denoise_steps}")
            self._known[key] = Imagination(self.task, self.world, built)
            if len(self._known) > self.limits.fidelities:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def hello(self) -> dict[str, Any]:
        """What a server says first."""
        spec, action = self.spec, self.task.action
        return {
            "version": VERSION, "world": spec.name, "fingerprint": self.fingerprint, "task": self.task.name,
            "description": self.task.description, "frame_size": list(self.task.frame_size), "fps": float(self.task.fps),
            "action": {"low": list(action.low), "high": list(action.high), "names": list(action.names),
                       "units": action.units, "absolute": list(action.absolute)},
            "driving": {**self.driving.to_json(), "places": places_of(action)},
            "drivers": self.drivers.names,
            "state": self.task.state.to_json(), "max_episode_steps": self.task.max_episode_steps,
            "truth": self.has_truth, "caches": presets(), "default_steps": spec.default_steps,
            "limits": {name: getattr(self.limits, name) for name in (
                "lanes", "sessions_each", "message_bytes", "chunk", "start_frames", "snapshots", "history",
                "denoise_steps", "idle_s")},
        }

    def _tries_truth(self) -> bool:
        try:
            self.task.make_truth().close()
        except ConfigError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot on the server.  at: the lane.  truth: of a session in the truth.  steps: of its history."""

    at: Lane
    truth: Any
    steps: int


class Session:
    """A lane in the world (`truth` is None) or in the task's ground truth.

    record: keep the episode for a video or a recording.
    """

    def __init__(
        self, host: Host, imagination: Imagination, *, truth: Truth | None = None, record: bool = False
    ) -> None:
        self.host, self.imagination, self.truth, self.record = host, imagination, truth, record
        self._lane: Lane | None = None
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._next = 0
        self.reel = Reel()
        self.episode = Episode(0, 0)
        self._driver: tuple[str, Policy] | None = None
        self._acted = False

    @property
    def lane(self) -> Lane:
        """Where it stands; RemoteError before the first reset."""
        if self._lane is None:
            raise RemoteError("the session has not been reset yet")
        return self._lane

    @lane.setter
    def lane(self, lane: Lane) -> None:
        self._lane = lane

    def reset(self, seed: int, start: Mapping[str, np.ndarray] | None) -> Tick:
        """Begin at the task's start of `seed`, or at frames of the client's own."""
        if self.truth is not None:
            if start is not None:
                raise RemoteError("the truth begins at the start of a seed, not at frames")
            begins = self.host.task.start(seed)
            tick = self._tick_of(self.truth.restore(begins.truth), None)
        else:
            begins = self.host.task.start(seed) if start is None else unpack_start(start)
            tick = self.imagination.begin(begins, seed)
        self._lane, self._driver = tick.lane, None
        self.episode = episode_of(self.host.task, begins, number=0, seed=seed)
        self.reel = Reel.begin(tick) if self.record else Reel()
        return tick

    def act(self, name: str) -> np.ndarray:
        """The next action `[1, A]` of a driver, which begins anew here unless it gave the last one, too."""
        if self._driver is None or self._driver[0] != name:
            self._driver = name, self.host.drivers.make(name, self.episode)
        self._acted = True
        return self.host.drivers.act(self._driver[1], self.lane.pixels, self.lane.robot, self.episode)

    def play_truth(self, actions: np.ndarray) -> list[Tick]:
        """Ticks of the simulator under actions `[k, A]`."""
        assert self.truth is not None
        ticks = []
        for action in actions:
            ticks.append(self._tick_of(self.truth.step(action), self.lane.robot))
            self.lane = ticks[-1].lane
        self.note(actions, ticks)
        return ticks

    def note(self, actions: np.ndarray, ticks: list[Tick]) -> None:
        """Keep what a recorded session played; a driver that did not give it begins anew."""
        if not self._acted:
            self._driver = None
        self._acted = False
        self.record = self.record and len(self.reel.actions) + len(ticks) <= self.host.limits.history
        if self.record:
            self.reel.add(actions, ticks)

    def show(self, count: int) -> None:
        """Go on by `count` ticks that were announced; nothing is imagined for it."""
        for _ in range(count):
            ahead = self.lane.ahead
            if ahead is None:
                raise RemoteError("more ticks were shown than announced")
            (tick,) = self.imagination.step([self.lane], ahead.actions[None, ahead.shown], Spans())
            self.lane = tick.lane

    def keep(self) -> int:
        """Keep a snapshot here; its number.  The oldest one goes where there are too many."""
        truth = None if self.truth is None else self.truth.snapshot()
        self._kept[self._next] = Kept(self.lane, truth, len(self.reel.actions))
        self._next += 1
        if len(self._kept) > self.host.limits.snapshots:
            self._kept.popitem(last=False)
        return self._next - 1

    def restore(self, number: int) -> None:
        """Return to a snapshot kept here; SnapshotError for an unknown one."""
        if number not in self._kept:
            raise SnapshotError(f"snapshot {number} is not kept (any more)")
        kept = self._kept[number]
        if self.truth is not None:
            self.truth.restore(kept.truth)
        self.lane, self._driver = kept.at, None
        self.reel.cut(kept.steps)

    def put(self, lane: Lane) -> None:
        """Go to a lane from elsewhere."""
        if self.truth is not None:
            raise RemoteError("a session in the truth returns to snapshots kept here")
        self.lane, self._driver = lane, None
        self.reel = Reel([lane.pixels], [lane.robot], [False]) if self.record else Reel()

    def branch(self) -> Session:
        """Another session that goes on from here."""
        if self.truth is not None:
            raise RemoteError("a session in the truth does not branch")
        other = Session(self.host, self.imagination, record=self.record)
        other._lane, other.reel, other.episode = self.lane, self.reel.copy(), self.episode
        return other

    def end(self) -> None:
        """Free what it holds."""
        self._lane = None
        self._kept.clear()
        self.reel, self._driver = Reel(), None
        if self.truth is not None:
            self.truth.close()

    def _tick_of(self, seen: TruthFrame, robot: np.ndarray | None) -> Tick:
        task = self.host.task
        last = no_robot_state(task.state, 1) if robot is None else robot[None]
        pixels = read_only(np.array(seen.pixels))
        lane = Lane(ELSEWHERE, pixels, read_only(robot_state(task.state, seen.estimate, last)[0]))
        return Tick(lane, seen.estimate, float(task.reward(seen.estimate)[0]), None)
