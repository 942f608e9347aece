"""Goals that somebody reached: from a held-out start, how the scene is after some ticks of a demonstrator.

The protocol of DINO-WM and stable-worldmodel: every quantity counts, the robot's own state included, unless fewer are
chosen.  Easy to get wrong: `progress` is of the task's own goal and says nothing about this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wcsim.agents.policies import Policy
from wcsim.envs.tasks import Start, Task
from wcsim.estimate import Episode, Estimate, Goal
from wcsim.rollout.engine import opening, rollout
from wcsim.rollout.places import TruthPlace
from wcsim.rollout.sinks import Recorder, listen


@dataclass(frozen=True, slots=True)
class GoalStart:
    """start: where an episode begins.  goal: where it shall end.  actions: `[T, A]` that led there."""

    start: Start
    goal: Goal
    actions: np.ndarray

    def episode(self, number: int, seed: int, instruction: str, max_steps: int) -> Episode:
        """What a policy may know; a replay of the actions repeats the last of them to the end."""
        rest = np.repeat(self.actions[-1:], max(0, max_steps - len(self.actions)), axis=0)
        return Episode(number, seed, instruction, self.goal, np.concatenate([self.actions, rest]))


def never(estimate: Estimate, lanes: np.ndarray) -> np.ndarray:
    """Nothing ends a demonstration early."""
    return np.zeros(len(lanes), dtype=bool)


def goal_start(
    task: Task, seed: int, demonstrator: Policy, *, ticks: int, quantities: Sequence[str] | None = None
) -> GoalStart:
    """The goal that belongs to `seed`: what the truth shows after `ticks` of `demonstrator`, a policy of one lane, in
    `quantities` (None: all)."""
    start, episode = opening(task, seed, seed)
    recorder, place = Recorder(), TruthPlace(task)
    try:
        listen(rollout(task, {"truth": place}, demonstrator, [episode], [start], acts_in="truth", max_steps=ticks,
                       ends=never), [recorder])
    finally:
        place.close()
    shown = recorder.episodes[0].places["truth"]
    last = shown.scored[-1].values
    values = {name: last[name][0] for name in quantities or last}
    return GoalStart(start, Goal(values, shown.frames[-1]), np.array(recorder.episodes[0].actions))
