"""A table that somebody left for a while: what to bring about is how it then looked.

The protocol of DINO-WM and stable-worldmodel for PushT: from a held-out start, the goal is where a demonstrator is 25
ticks later, agent included.  Easy to get wrong: coverage is of the task's own goal and says nothing about this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from wcsim.agents.policies import Policy
from wcsim.envs.judge import Judgement
from wcsim.envs.tasks import Start, Task
from wcsim.experiments.lanes import Sight


@dataclass(frozen=True, slots=True)
class Goal:
    """start: where an episode begins.  frame: `[H, W, 3]` how it should end.  agent, block: `[2]`, `[3]` there, by the
    simulator's state.  actions: `[T, A]` that led there."""

    start: Start
    frame: np.ndarray
    agent: np.ndarray
    block: np.ndarray
    actions: np.ndarray

    def distances(self, judged: Judgement) -> np.ndarray:
        """Of the one lane judged: agent and block in pixels, the block's turn in degrees, `[3]`; inf where not seen."""
        turn = np.mod(judged.block[0, 2] - self.block[2] + np.pi, 2 * np.pi) - np.pi
        off = np.array([np.linalg.norm(judged.agent[0] - self.agent),
                        np.linalg.norm(judged.block[0, :2] - self.block[:2]), np.degrees(abs(turn))])
        return np.where(np.isfinite(off), off, np.inf)


class GoalTask:
    """A task with another goal; whatever is not about the goal is the task's own."""

    def __init__(self, task: Task, goal: Goal) -> None:
        self._task, self._frame = task, goal.frame
        self.goal = tuple(float(value) for value in goal.block)
        self.agent_goal = tuple(float(value) for value in goal.agent)

    def goal_frame(self) -> np.ndarray:
        """`[H, W, 3]` uint8, how it should end."""
        return self._frame

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


def with_goal(task: Task, goal: Goal) -> Task:
    """The task as an agent that pursues `goal` is told it."""
    return cast(Task, GoalTask(task, goal))


def make_goal(task: Task, seed: int, demonstrator: Policy, *, ticks: int) -> Goal:
    """The goal that belongs to `seed`: what the truth shows after `ticks` of `demonstrator` from its start."""
    start = task.start(seed)
    sight, truth = Sight(task, [start]), task.make_truth()
    try:
        look, actions = truth.restore(start.truth), []
        demonstrator.reset(sight.observation(0), episode=seed)
        for _ in range(ticks):
            actions.append(np.asarray(demonstrator.act(sight.observation(0))))
            look = truth.step(actions[-1])
            sight.look(look.pixels[None])
        told = look.judgement
        return Goal(start, look.pixels, told.agent[0], told.block[0], np.array(actions))
    finally:
        truth.close()
