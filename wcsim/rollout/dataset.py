"""A rollout written as recordings: every episode of one place becomes one of a LeRobotDataset.

Easy to get wrong: the writer is the caller's, so that several rollouts can share a dataset; an episode that does not
end is not written.  Shapes: T steps, A action, R robot state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wcsim.data.lerobot_writer import LeRobotWriter
from wcsim.data.recordings import RecordedEpisode, RecordingsSpec, Signal
from wcsim.envs.observations import no_robot_state, robot_state
from wcsim.envs.tasks import Task
from wcsim.estimate import Episode
from wcsim.rollout.events import EpisodeBegin, EpisodeEnd, Event, Seen, Step


def recordings_spec(task: Task) -> RecordingsSpec:
    """What recordings of a task are: its cameras and actions, and the robot's state where the task has one."""
    told = task.action
    robot = [f"{quantity.name}_{number}" if quantity.size > 1 else quantity.name
             for quantity in task.state.robot for number in range(quantity.size)]
    units = ", ".join(dict.fromkeys(quantity.unit for quantity in task.state.robot))
    return RecordingsSpec(
        task.fps, task.cameras, Signal(told.names, told.units, told.low, told.high, told.absolute),
        Signal(tuple(robot), units) if robot else None, robot=task.name)


@dataclass(slots=True)
class _Lane:
    """What one lane has shown so far."""

    episode: Episode
    frames: list[np.ndarray] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    success: bool = False


class DatasetSink:
    """Adds every episode that ends to `writer`: frames and robot state of one place, actions, rewards, seed, success.

    The writer is made with `recordings_spec(task)`, rewards and success.
    """

    def __init__(self, writer: LeRobotWriter, task: Task, *, place: str) -> None:
        self._writer, self._task, self._place = writer, task, place
        self._lanes: dict[int, _Lane] = {}

    def on(self, event: Event) -> None:
        """See `Sink`."""
        if isinstance(event, EpisodeBegin):
            self._lanes = {lane: _Lane(episode)
                           for lane, episode in zip(event.lanes.tolist(), event.episodes, strict=True)}
            self._see(event.lanes.tolist(), event.seen)
        elif isinstance(event, Step):
            for row, lane in enumerate(event.lanes.tolist()):
                self._lanes[lane].actions.append(event.actions[row])
                self._lanes[lane].rewards.append(float(event.rewards[row]))
            self._see(event.lanes.tolist(), event.seen)
        elif isinstance(event, EpisodeEnd):
            self._write(self._lanes.pop(event.lane))

    def close(self) -> None:
        """An episode that did not end is not written."""
        self._lanes = {}

    def _see(self, lanes: Sequence[int], seen: Mapping[str, Seen]) -> None:
        shown = seen[self._place]
        for row, number in enumerate(lanes):
            lane, estimate = self._lanes[number], shown.scored.select(row)
            last = lane.states[-1][None] if lane.states else no_robot_state(self._task.state, 1)
            lane.frames.append(shown.frames[row])
            lane.states.append(robot_state(self._task.state, estimate, last)[0])
            lane.success = bool(estimate.success[0])

    def _write(self, lane: _Lane) -> None:
        pixels = self._task.cameras.split(np.stack(lane.frames))
        views = pixels if isinstance(pixels, dict) else {self._task.cameras.cameras[0].name: pixels}
        told = lane.episode
        episode = RecordedEpisode(
            str(told.number), np.array(lane.actions, np.float32),
            np.stack(lane.states) if self._task.state.robot else None, told.instruction, seed=told.seed,
            success=lane.success)
        self._writer.add(episode, {name: [frames] for name, frames in views.items()},
                         rewards=np.array(lane.rewards, np.float32))
