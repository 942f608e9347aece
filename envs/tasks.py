"""Tasks: what an environment is about, whatever imagines it.

A task names its cameras, its actions and the quantities of its state, makes starts from its ground truth, and turns
frames into numbers.  A task of one's own derives from `wcsim.envs.base_task.BaseTask`.  Easy to get wrong: an estimate
reads nothing but pixels and never its neighbours in the batch, so the same code scores the simulator and the worlds.

Shapes: N frames, T frames of a start, H W of the mosaic of all cameras, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import gymnasium as gym
import numpy as np

from wcsim.cameras import Cameras
from wcsim.errors import ConfigError, WcsimError
from wcsim.estimate import Episode, Estimate, Goal
from wcsim.registry import Registry
from wcsim.spec import StateSpec, Values

Seen = TypeVar("Seen")

if TYPE_CHECKING:
    from wcsim.types import ActionSpec


@dataclass(frozen=True, slots=True)
class Start:
    """Where an episode begins.

    frames: `[T, H, W, 3]` uint8, real, newest last.  actions: `[T-1, A]` float32, the t-th led to frame t+1.  truth:
    the snapshot of the newest frame, for the task's own ground truth.  instruction: of this episode; empty: the task's
    description.  goal: of this episode; None: the task's.  recorded: actions `[K, A]` that were recorded from here on.
    """

    frames: np.ndarray
    actions: np.ndarray
    truth: Any
    instruction: str = ""
    goal: Goal | None = None
    recorded: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a ground truth.  pixels: `[H, W, 3]` uint8.  state: `[S]` float64, the simulator's own numbers.
    estimate: of one lane, made from that state."""

    pixels: np.ndarray
    state: np.ndarray
    estimate: Estimate


class TruthFrame(Protocol):
    """What a `Look` has."""

    @property
    def pixels(self) -> np.ndarray: ...

    @property
    def state(self) -> np.ndarray: ...

    @property
    def estimate(self) -> Estimate: ...


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
    """What to do, with which robot, and how well it went.

    description: the instruction of episodes that have none of their own.  fps: frames and actions per second.  goal:
    where an episode shall end, None where the task has no such place.  expert: `module:Class` of a scripted policy for
    one lane, called with the task and options, or None.  proprioception: whether the robot reports its own state, as
    `agent_pos`: exact in the truth, in a world what its state model predicts.  Else it is what the estimator reads.
    """

    name: str
    description: str
    action: ActionSpec
    state: StateSpec
    cameras: Cameras
    fps: float
    max_episode_steps: int
    goal: Goal | None
    expert: str | None
    proprioception: bool

    @property
    def frame_size(self) -> tuple[int, int]:
        """H, W of the mosaic of all cameras."""
        ...

    @property
    def action_space(self) -> gym.spaces.Box: ...

    @property
    def observation_space(self) -> gym.spaces.Dict:
        """See `wcsim.envs.observations`."""
        ...

    def start(self, seed: int) -> Start:
        """The start that belongs to `seed`, always the same one."""
        ...

    def estimate(self, frames: np.ndarray) -> Estimate:
        """What frames `[N, H, W, 3]` uint8 show, each by itself; ValueError for other frames."""
        ...

    def estimate_state(self, values: Values) -> Estimate:
        """What the quantities `[N, size]` of a state mean, as if they had been seen; NaN is not found."""
        ...

    def reward(self, estimate: Estimate) -> np.ndarray:
        """`[N]` float64, 0 to 1."""
        ...

    def make_truth(self) -> Truth:
        """A new ground truth, which the caller closes; ConfigError where the task has none."""
        ...

    def goal_frame(self) -> np.ndarray:
        """`[H, W, 3]` uint8, what it looks like when all is done; ConfigError where the task cannot say."""
        ...

    def hold_action(self, frame: np.ndarray) -> np.ndarray:
        """The action `[A]` that keeps the robot of `frame` `[H, W, 3]` where it is."""
        ...

    def explore(self, rng: np.random.Generator, truth: Truth) -> Iterator[np.ndarray]:
        """Actions `[A]` without end that show a world much of what can happen; may read the truth's state."""
        ...

    def files(self) -> list[Path]:
        """Files, besides the code, on which results depend."""
        ...


def episode_of(task: Task, start: Start, *, number: int, seed: int) -> Episode:
    """What policies may know of an episode that begins at `start`."""
    return Episode(number, seed, start.instruction or task.description, start.goal or task.goal, start.recorded)


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


TASKS = Registry("task", "wcsim.tasks", {
    "cube": "wcsim.envs.cube:Cube",
    "pendulum": "wcsim.envs.pendulum:Pendulum",
    "pusht": "wcsim.envs.pusht:PushT",
    "recordings": "wcsim.envs.recordings:RecordingsTask",
})
"""Tasks by name, `module:Class` or entry point.  The class is called with the task's options."""

NEEDED = ("name", "description", "action", "state", "cameras", "goal", "start", "estimate", "reward")


def make_task(name: str, **options: Any) -> Task:
    """The task called `name`, or that of a class given as `module:Class`.

    Raises ConfigError for an unknown name, option or value, and says what is known.
    """
    kind = TASKS.load(name)
    if not callable(kind):
        raise ConfigError(f"{name!r} is no task: it names {type(kind).__name__}, not a class")
    known = signature(kind).parameters
    open_ended = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values())
    for option in options:
        if option not in known and not open_ended:
            raise ConfigError(f"task {name!r} has no option {option!r}; known: {', '.join(known) or 'none'}")
    for option, parameter in known.items():
        variadic = parameter.kind in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and option not in options and not variadic:
            raise ConfigError(f"task {name!r} needs its option {option!r}")
    try:
        task: Task = kind(**options)
    except (TypeError, ValueError) as error:
        if isinstance(error, WcsimError):
            raise
        raise ConfigError(f"task {name!r} cannot be made with options {options}: {error}") from error
    # Of the class first: what a task of recordings says of itself is read from them when it is needed.
    missing = [part for part in NEEDED if not (hasattr(kind, part) or hasattr(task, part))]
    if missing:
        raise ConfigError(f"{name!r} is no task: it lacks {', '.join(missing)}; see wcsim.envs.base_task.BaseTask")
    return task
