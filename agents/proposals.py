"""Policies as a planner's ideas: each is played in the imagination, closed loop, and its actions become candidates.

TD-MPC2 (arXiv 2310.16828) seeds its planner so.  Easy to get wrong: proposals cost world time before the search begins,
lanes x ticks of it, which the budget of the search does not see; `spend` receives it.
Shapes: P policies, T ticks, A action, H W frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wcsim.agents.policies import LanePolicy, Observation, Observations, lane_of
from wcsim.estimate import Episode
from wcsim.types import Fidelity, WorldState

if TYPE_CHECKING:
    from wcsim.world.world import World

Propose = Callable[[WorldState, Observation, int, Episode], np.ndarray]
"""A state of one lane, what is seen there, T and the episode to ideas `[P, T, A]`."""

Observe = Callable[[np.ndarray, Observations], Observations]
"""Frames `[P, H, W, 3]` to what policies see in them, given what they saw before: what is not found stays."""


@dataclass(frozen=True, slots=True)
class ImaginedPolicies:
    """A `Propose`: what `policies` would do for T ticks.

    observe: makes observations of imagined frames.  fidelity: of the imagining.  frame_of: an observation to the mosaic
    of all cameras.  spend: receives lanes and ticks imagined.
    """

    world: World
    policies: Sequence[LanePolicy]
    observe: Observe
    fidelity: Fidelity
    frame_of: Callable[[Observation], np.ndarray] = lambda observation: np.asarray(observation["pixels"])
    spend: Callable[[int, int], object] = lambda lanes, ticks: None

    def __call__(self, state: WorldState, observation: Observation, length: int, episode: Episode) -> np.ndarray:
        """Every policy begins anew at `observation`, towards the episode's goal, in episode 0 of its randomness."""
        lanes, low, high = len(self.policies), self.world.spec.action.low, self.world.spec.action.high
        state = state.branch(lanes)
        seen = self.observe(np.repeat(self.frame_of(observation)[None], lanes, axis=0), repeated(observation, lanes))
        for policy in self.policies:
            policy.reset(replace(episode, number=0, seed=0))
        actions: list[np.ndarray] = []
        for tick in range(length):
            wish = np.stack([policy.act(lane_of(seen, lane)) for lane, policy in enumerate(self.policies)])
            actions.append(np.clip(wish, low, high))
            if tick + 1 < length:
                state, latents, _ = self.world.advance(state, actions[-1][:, None], self.fidelity)
                seen = self.observe(self.world.decode(latents)[:, 0], seen)
        self.spend(lanes, length - 1)
        return np.stack(actions, axis=1)


def repeated(observation: Observation, lanes: int) -> Observations:
    """One lane's observation in each of `lanes`."""
    def repeat(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: repeat(view) for name, view in value.items()}
        return [value] * lanes if isinstance(value, str) else np.repeat(np.asarray(value)[None], lanes, axis=0)

    return {key: repeat(value) for key, value in observation.items()}
