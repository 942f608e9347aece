"""Many episodes of one policy at once, in the truth or in a world, lanes side by side.

A policy sees the same in either: pixels, and what the judge reads in them.  Scores differ in their source: the truth's
come from the simulator's state, a world's from the judge.  Easy to get wrong: a lane that has ended leaves the batch,
so positions in it move; `alive` holds whose they are.  Shapes: M starts, n lanes still alive, H W frame, A action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from wcsim.agents.policies import Policy
from wcsim.envs.judge import Judgement
from wcsim.envs.tasks import Start, Task
from wcsim.types import Fidelity
from wcsim.world.world import World


class Lanes(Protocol):
    """n lanes in lock-step.  hit_rate, skipped: `[n]` shares of the last step, see `wcsim.types.Trace`."""

    hit_rate: np.ndarray
    skipped: np.ndarray

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, Judgement | None]:
        """Frames `[n, H, W, 3]` after actions `[n, A]`, and the exact judgement where one is to be had."""
        ...

    def keep(self, lanes: np.ndarray) -> None:
        """Go on with these lanes alone (indices into the present ones)."""
        ...


class TruthLanes:
    """A simulator per start."""

    def __init__(self, task: Task, starts: Sequence[Start]) -> None:
        self.hit_rate = self.skipped = np.zeros(len(starts))
        self._truths = [task.make_truth() for _ in starts]
        for truth, start in zip(self._truths, starts, strict=True):
            truth.restore(start.truth)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, Judgement | None]:
        """Simulate."""
        looks = [truth.step(action) for truth, action in zip(self._truths, actions, strict=True)]
        told = [look.judgement for look in looks]
        exact = Judgement(*(np.concatenate([getattr(one, name) for one in told]) for name in Judgement.__slots__))
        return np.stack([look.pixels for look in looks]), exact

    def keep(self, lanes: np.ndarray) -> None:
        """Close the other simulators."""
        kept = [self._truths[lane] for lane in lanes]
        for truth in self._truths:
            if truth not in kept:
                truth.close()
        self._truths = kept


class WorldLanes:
    """A lane of one imagined batch per start."""

    def __init__(self, world: World, fidelity: Fidelity, starts: Sequence[Start], seeds: Sequence[int]) -> None:
        self.hit_rate = self.skipped = np.zeros(len(starts))
        self._world, self._fidelity = world, fidelity
        frames, actions = (np.stack([getattr(start, name) for start in starts]) for name in ("frames", "actions"))
        self._state = world.init(frames, actions, np.asarray(seeds))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, Judgement | None]:
        """Imagine and decode."""
        self._state, latents, trace = self._world.advance(self._state, actions[:, None], self._fidelity)
        self.hit_rate = trace.hit.mean(axis=(0, 1))
        self.skipped = 1.0 - trace.blocks.mean(axis=(0, 1)) / trace.depth
        return self._world.decode(latents)[:, 0], None

    def keep(self, lanes: np.ndarray) -> None:
        """Drop the others from the batch."""
        self._state = self._state.select(lanes.tolist())


@dataclass(slots=True)
class Episode:
    """What one lane did.  coverage: after each step, as scored.  judged: the judge's, likewise.  reward: of each step.
    success: whether it ever succeeded, which ends it.  hit_rate, skipped: of each step."""

    coverage: list[float] = field(default_factory=list)
    judged: list[float] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    hit_rate: list[float] = field(default_factory=list)
    skipped: list[float] = field(default_factory=list)
    success: bool = False
    judged_success: bool = False


class Sight:
    """What policies see: frames, and what the judge last read in them."""

    def __init__(self, task: Task, starts: Sequence[Start]) -> None:
        self._task = task
        self.frames = np.stack([start.frames[-1] for start in starts])
        self.agent = np.zeros((len(starts), len(task.action.low)), dtype=np.float32)
        self.look(self.frames)

    def look(self, frames: np.ndarray) -> Judgement:
        """Take in frames `[n, H, W, 3]`; an agent that is not seen stays where it was last seen."""
        judged = self._task.judge(frames)
        found = judged.agent_found[:, None]
        seen = np.clip(np.nan_to_num(judged.agent), self._task.action.low, self._task.action.high)
        self.frames, self.agent = frames, np.where(found, seen, self.agent).astype(np.float32)
        self.block = judged.block
        return judged

    def keep(self, lanes: np.ndarray) -> None:
        """As `Lanes.keep`."""
        self.frames, self.agent, self.block = self.frames[lanes], self.agent[lanes], self.block[lanes]

    def observation(self, lane: int) -> dict[str, np.ndarray]:
        """One policy's: pixels, agent_pos, and block_pose, which is NaN where the block is not found."""
        return {"pixels": self.frames[lane], "agent_pos": self.agent[lane], "block_pose": self.block[lane]}


def play(
    task: Task, lanes: Lanes, starts: Sequence[Start], policies: Sequence[Policy], numbers: Sequence[int], *,
    max_steps: int,
) -> list[Episode]:
    """Play every start to its success or `max_steps`.  numbers: of the episodes, which number policies' randomness."""
    sight, episodes = Sight(task, starts), [Episode() for _ in starts]
    for lane, policy in enumerate(policies):
        policy.reset(sight.observation(lane), episode=numbers[lane])
    alive = np.arange(len(starts))
    for _ in range(max_steps):
        actions = np.stack([policies[int(one)].act(sight.observation(lane)) for lane, one in enumerate(alive)])
        frames, exact = lanes.step(actions)
        judged = sight.look(frames)
        scored = judged if exact is None else exact
        rewards = task.reward(scored)
        for lane, one in enumerate(alive):
            episode = episodes[one]
            episode.coverage.append(float(scored.coverage[lane]))
            episode.judged.append(float(judged.coverage[lane]))
            episode.reward.append(float(rewards[lane]))
            episode.hit_rate.append(float(lanes.hit_rate[lane]))
            episode.skipped.append(float(lanes.skipped[lane]))
            episode.success = bool(scored.success[lane])
            episode.judged_success |= bool(judged.success[lane])
        on = np.flatnonzero(~scored.success)
        lanes.keep(on)
        sight.keep(on)
        alive = alive[on]
        if not len(alive):
            break
    lanes.keep(np.arange(0))
    return episodes
