"""Tasks: what an environment is about, apart from who imagines it.

A task names its actions and spaces, makes starts from its ground truth, and turns frames into numbers.  Its judge reads
nothing but pixels, so the same code scores the simulator, the world and the cached world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import gymnasium as gym
import numpy as np

from wcsim.envs.judge import Judgement
from wcsim.errors import ConfigError

Seen = TypeVar("Seen")

if TYPE_CHECKING:
    from wcsim.types import ActionSpec


@dataclass(frozen=True, slots=True)
class Start:
    """Where an episode begins.

    frames: `[T, H, W, 3]` uint8, real, newest last.  actions: `[T-1, A]` float32, the t-th led to frame t+1.  truth:
    the snapshot of the newest frame, for the task's own ground truth.
    """

    frames: np.ndarray
    actions: np.ndarray
    truth: Any


def action_box(action: ActionSpec) -> gym.spaces.Box:
    """The space `[A]` float32 of a specification's bounds."""
    low, high = (np.array(bound, dtype=np.float32) for bound in (action.low, action.high))
    return gym.spaces.Box(low, high, dtype=np.float32)


def observed(frame_size: tuple[int, int], *, reach: float) -> gym.spaces.Dict:
    """The space of a frame `[H, W, 3]` and an agent's position `[2]` between 0 and `reach`."""
    return gym.spaces.Dict({
        "pixels": gym.spaces.Box(0, 255, (*frame_size, 3), np.uint8),
        "agent_pos": gym.spaces.Box(0.0, reach, (2,), np.float32),
    })


class TruthFrame(Protocol):
    """One look at the ground truth."""

    @property
    def pixels(self) -> np.ndarray:
        """`[H, W, 3]` uint8."""
        ...

    @property
    def state(self) -> np.ndarray:
        """`[S]` float64, the simulator's own numbers."""
        ...

    @property
    def judgement(self) -> Judgement:
        """One lane, made from the simulator's state and not from pixels."""
        ...


class Truth(Protocol):
    """A simulator that can go back: after `restore` its future is bit-equal to the one before."""

    @property
    def state(self) -> np.ndarray:
        """The present as `TruthFrame.state` has it, without rendering."""
        ...

    def restore(self, snapshot: Any) -> TruthFrame: ...

    def step(self, action: np.ndarray) -> TruthFrame: ...

    def advance(self, action: np.ndarray) -> None:
        """As `step`, without rendering."""
        ...

    def look(self) -> TruthFrame: ...

    def snapshot(self) -> Any: ...

    def close(self) -> None: ...


class Task(Protocol):
    """What to do, on what table, and how well it went.

    frame_size: H, W.  fps: frames and actions per second.  goal: the goal pose of the block, x, y and angle; the block
    is whatever the task is to bring there, and the agent what acts.  A task may also have `judge_quantities`, its
    judge of quantities `[N, size]` by name: planners then score what a world's state model predicts.
    """

    name: str
    description: str
    action: ActionSpec
    frame_size: tuple[int, int]
    fps: float
    max_episode_steps: int
    goal: tuple[float, float, float]

    @property
    def action_space(self) -> gym.spaces.Box: ...

    @property
    def observation_space(self) -> gym.spaces.Dict:
        """`pixels` uint8 `[H, W, 3]` and `agent_pos` float32 in simulator units."""
        ...

    def start(self, seed: int) -> Start:
        """The start that belongs to `seed`, always the same one."""
        ...

    def judge(self, frames: np.ndarray) -> Judgement:
        """Frames `[N, H, W, 3]` uint8 to what they show."""
        ...

    def reward(self, judgement: Judgement) -> np.ndarray:
        """`[N]` float64, 0 to 1."""
        ...

    def make_truth(self) -> Truth:
        """A new ground truth, which the caller closes."""
        ...

    def goal_frame(self) -> np.ndarray:
        """`[H, W, 3]` uint8, the table when all is done."""
        ...

    def stay(self, frame: np.ndarray) -> np.ndarray:
        """The action `[A]` that keeps the agent of `frame` `[H, W, 3]` where it is."""
        ...

    def explore(self, rng: np.random.Generator, truth: Truth) -> Iterator[np.ndarray]:
        """Actions `[A]` without end that show a world much of what can happen; may read the truth's state."""
        ...


def play_exploration(task: Task, seed: int, steps: int) -> tuple[list[TruthFrame], np.ndarray]:
    """One recorded episode of exploration from the start of `seed`: `steps + 1` looks and actions `[steps, A]`."""
    return watch_exploration(task, seed, steps, lambda truth: truth.look())


def watch_exploration(
    task: Task, seed: int, steps: int, see: Callable[[Truth], Seen]
) -> tuple[list[Seen], np.ndarray]:
    """As `play_exploration`, with what `see` makes of the truth at every tick; without a look nothing is rendered."""
    truth = task.make_truth()
    try:
        truth.restore(task.start(seed).truth)
        seen, actions = [see(truth)], []
        behaviour = task.explore(np.random.default_rng([seed, 1]), truth)
        for _ in range(steps):
            actions.append(next(behaviour))
            truth.advance(actions[-1])
            seen.append(see(truth))
        return seen, np.array(actions)
    finally:
        truth.close()


TASKS = {
    "footage": "wcsim.envs.footage:Footage",
    "pendulum": "wcsim.envs.pendulum:Pendulum",
    "pusht": "wcsim.envs.pusht:PushT",
}
"""Task name to `module:class`; the class is called with the task's options.  Loaded on first use."""


def make_task(name: str, **options: Any) -> Task:
    """The task called `name`.  Raises ConfigError for an unknown name, option or value, and says what is known."""
    if name not in TASKS:
        raise ConfigError(f"task {name!r} is unknown; known: {', '.join(sorted(TASKS))}")
    module, _, attribute = TASKS[name].partition(":")
    kind = getattr(import_module(module), attribute)
    known = signature(kind).parameters
    for option in options:
        if option not in known:
            raise ConfigError(f"task {name!r} has no option {option!r}; known: {', '.join(known)}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(f"task {name!r} needs its option {option!r}")
    task: Task = kind(**options)
    return task
