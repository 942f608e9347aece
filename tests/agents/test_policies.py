"""The policies that need no world."""

from __future__ import annotations

import numpy as np
import pytest

from linear_world import SPEC, frame_at
from wcsim.agents.policies import Policy, RandomPolicy, ReplayPolicy
from wcsim.errors import ActionError, ConfigError

SEEN = {"pixels": frame_at(0, 0)}


def played(policy: Policy, ticks: int, episode: int = 0) -> np.ndarray:
    policy.reset(SEEN, episode=episode)
    return np.array([policy.act(SEEN) for _ in range(ticks)])


def test_random_actions_stay_in_bounds_and_are_held() -> None:
    actions = played(RandomPolicy(SPEC.action, hold=3), 30)
    assert np.abs(actions).max() <= 4.0
    assert (actions.reshape(10, 3, 2) == actions[::3, None]).all()
    assert len(np.unique(actions[::3], axis=0)) == 10


def test_random_actions_belong_to_their_episode() -> None:
    policy = RandomPolicy(SPEC.action, seed=4)
    first = played(policy, 5, episode=1)
    assert (played(policy, 5, episode=2) != first).all()
    assert (played(policy, 5, episode=1) == first).all()
    assert (played(RandomPolicy(SPEC.action, seed=4), 5, episode=1) == first).all()
    assert (played(RandomPolicy(SPEC.action, seed=5), 5, episode=1) != first).all()
    with pytest.raises(ConfigError, match="hold must be 1 or more ticks, got 0"):
        RandomPolicy(SPEC.action, hold=0)


def test_a_replay_ends_with_its_recording() -> None:
    actions = np.arange(6.0).reshape(3, 2)
    policy = ReplayPolicy(actions)
    assert (played(policy, 3) == actions).all()
    assert (played(policy, 2) == actions[:2]).all()
    policy.act(SEEN)[:] = 99.0
    with pytest.raises(ActionError, match="holds 3 actions and all have been played"):
        policy.act(SEEN)
    assert (played(policy, 3) == actions).all()
