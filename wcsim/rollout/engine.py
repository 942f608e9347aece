"""The one rollout loop: N lanes of any places under the same actions, one policy acting in one of them.

Closed loops, evaluations, goals and budgets are configurations of it.  Easy to get wrong: only what the policy waits
for is its latency, so every place times itself; and places take turns in going first, because the first one pays
for cold caches of the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from wcsim.actions import bounds
from wcsim.agents.policies import Policy, announced, reports_of
from wcsim.envs.observations import Observations, no_robot_state, observations, robot_state
from wcsim.envs.tasks import Start, Task
from wcsim.errors import ActionError
from wcsim.estimate import Episode, Estimate
from wcsim.rollout.events import EpisodeBegin, EpisodeEnd, Event, Seen, Step
from wcsim.rollout.places import Place
from wcsim.spans import Spans
from wcsim.types import ActionSpec

Ends = Callable[[Estimate, np.ndarray], np.ndarray]
"""What is known of lanes `[n]`, and which they are, to whether their episodes end here, `[n]` bool."""


def on_success(estimate: Estimate, lanes: np.ndarray) -> np.ndarray:
    """An episode ends when its task is solved."""
    return estimate.success


def opening(task: Task, number: int, seed: int) -> tuple[Start, Episode]:
    """How an episode begins: its start, and what a policy may know of it."""
    start = task.start(seed)
    return start, Episode(number, seed, start.instruction or task.description, start.goal or task.goal, start.recorded)


def rollout(
    task: Task, places: Mapping[str, Place], policy: Policy, episodes: Sequence[Episode], starts: Sequence[Start], *,
    acts_in: str, max_steps: int, ends: Ends = on_success,
) -> Iterator[Event]:
    """Play every episode to its end or for `max_steps`, and tell what happens.

    acts_in: the place whose frames the policy sees and whose end ends an episode.  Places are reset, never closed.
    """
    every = np.arange(len(starts))
    seeds = [episode.seed for episode in episodes]
    seen = {name: place.reset(starts, seeds) for name, place in places.items()}
    view = View(task, episodes, seen[acts_in])
    policy.reset(np.ones(len(starts), dtype=bool), episodes)
    yield EpisodeBegin(every, episodes, starts, seen)
    lanes, chunk = every, max(place.chunk for place in places.values())
    for step in range(max_steps):
        spans = Spans()
        with spans("plan"):
            wishes = policy.act(view.observations(lanes), steps_left=max_steps - step)
        actions, clipped = within(task.action, np.asarray(wishes)[lanes])
        ahead = announced(policy, lanes.tolist(), min(chunk, max_steps - step)) if chunk > 1 else None
        if ahead is not None:
            for place in places.values():
                place.expect(np.clip(ahead, task.action.low, task.action.high))
        order = list(places) if step % 2 == 0 else list(places)[::-1]
        seen = {name: places[name].step(actions) for name in order}
        ended = np.asarray(ends(seen[acts_in].scored, lanes))
        yield Step(step, lanes, actions, clipped, {name: seen[name] for name in places},
                   task.reward(seen[acts_in].scored), ended, spans.ms()["plan"],
                   reports_of(policy, lanes.tolist()))
        view.look(lanes, seen[acts_in])
        last = step + 1 == max_steps
        for lane in lanes[ended] if not last else lanes:
            yield EpisodeEnd(int(lane), step + 1, bool(ended[lanes == lane][0]))
        going = np.flatnonzero(~ended)
        for place in places.values():
            place.keep(going)
        lanes = lanes[going]
        if not len(lanes):
            return


def within(action: ActionSpec, wishes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions `[n, A]` within their bounds, and `[n]` whether any number of each was not.  ActionError where one is not
    finite."""
    if not np.isfinite(wishes).all():
        raise ActionError(f"a policy's actions must be finite, got {wishes.tolist()}")
    actions = np.clip(wishes, *bounds(action))
    return actions, (actions != wishes).any(axis=1)


class View:
    """What the policy sees of all lanes; those that have ended keep what they last showed."""

    def __init__(self, task: Task, episodes: Sequence[Episode], seen: Seen) -> None:
        self._task = task
        self._instructions = [episode.instruction or task.description for episode in episodes]
        self._frames, self._estimate = seen.frames.copy(), seen.estimate
        self._robot = no_robot_state(task.state, len(episodes))
        self.look(np.arange(len(episodes)), seen)

    def look(self, lanes: np.ndarray, seen: Seen) -> None:
        """Take in what `lanes` show."""
        self._frames[lanes] = seen.frames
        self._robot[lanes] = robot_state(self._task.state, seen.estimate, self._robot[lanes])
        self._estimate = self._estimate.put(lanes, seen.estimate)

    def observations(self, lanes: np.ndarray) -> Observations:
        """Of all lanes, of which `lanes` are active."""
        active = np.zeros(len(self._frames), dtype=bool)
        active[lanes] = True
        return observations(self._task, self._frames, self._robot, self._estimate, instructions=self._instructions,
                            active=active)
