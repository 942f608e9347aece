"""Policies as a planner's ideas: each is played in the imagination, closed loop, and its actions become candidates.

TD-MPC2 (arXiv 2310.16828) seeds its planner so.  Easy to get wrong: proposals cost world time before the search begins,
lanes x ticks of it, which the budget of the search does not see; `latency` lets a simulated clock see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wcsim.agents.objectives import Judge
from wcsim.agents.policies import Observation, Policy
from wcsim.types import Fidelity, WorldState

if TYPE_CHECKING:
    from wcsim.world.world import World


@dataclass(frozen=True, slots=True)
class ImaginedPolicies:
    """Calls as `propose(state, observation, T)`: what `policies` would do for T ticks, `[P, T, A]`.

    judge: gives the policies `agent_pos` and `block_pose` in imagined frames; fidelity: of the imagining.  spend: told
    of lanes and ticks imagined.
    """

    world: World
    policies: Sequence[Policy]
    judge: Judge
    fidelity: Fidelity
    spend: Callable[[int, int], object] = lambda lanes, ticks: None

    def __call__(self, state: WorldState, observation: Observation, length: int) -> np.ndarray:
        """Every policy begins anew at `observation`, in episode 0 of its randomness."""
        lanes, low, high = len(self.policies), self.world.spec.action.low, self.world.spec.action.high
        state = state.branch(lanes)
        frames = np.repeat(observation["pixels"][None], lanes, axis=0)
        seen, actions = self._read(frames), []
        for policy, one in zip(self.policies, seen, strict=True):
            policy.reset(one)
        for tick in range(length):
            wish = np.stack([policy.act(one) for policy, one in zip(self.policies, seen, strict=True)])
            actions.append(np.clip(wish, low, high))
            if tick + 1 < length:
                state, latents, _ = self.world.advance(state, actions[-1][:, None], self.fidelity)
                seen = self._read(self.world.decode(latents)[:, 0])
        self.spend(lanes, length - 1)
        return np.stack(actions, axis=1)

    def _read(self, frames: np.ndarray) -> list[dict[str, np.ndarray]]:
        poses = self.judge(frames)
        middle = (np.asarray(self.world.spec.action.low) + np.asarray(self.world.spec.action.high)) / 2
        agent = np.where(np.isfinite(poses.agent), poses.agent, middle)
        return [{"pixels": frame, "agent_pos": at, "block_pose": block}
                for frame, at, block in zip(frames, agent, poses.block, strict=True)]
