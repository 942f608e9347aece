"""The policies that need no model."""

from __future__ import annotations

import numpy as np
import pytest

from linear_world import SPEC, frame_at
from wcsim.agents.policies import NoisyPolicy, Policy, RandomPolicy, ReplayPolicy, StillPolicy
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


def test_a_still_policy_stays() -> None:
    policy = StillPolicy()
    policy.reset({"agent_pos": np.array([3.0, 4.0])})
    assert (policy.act({"agent_pos": np.array([9.0, 9.0])}) == [3.0, 4.0]).all()


def test_an_unsteady_hand_wanders_within_bounds_and_belongs_to_its_episode() -> None:
    def noisy(**options: float) -> NoisyPolicy:
        return NoisyPolicy(ReplayPolicy(np.ones((200, 2))), SPEC.action, **options)

    assert (played(noisy(), 5) == 1.0).all()
    actions = played(noisy(std=0.5), 200)
    assert np.abs(actions).max() <= 4.0
    assert actions.std() == pytest.approx(0.5, rel=0.2)
    steps = actions - actions.mean(0)
    assert (steps[1:] * steps[:-1]).mean() / steps.var() == pytest.approx(0.7, abs=0.1)
    policy = noisy(std=0.5)
    first = played(policy, 9, episode=3)
    played(policy, 4, episode=2)
    assert (played(policy, 9, episode=3) == first).all()


def test_a_lapse_is_held() -> None:
    policy = NoisyPolicy(ReplayPolicy(np.zeros((40, 2))), SPEC.action, lapse=0.2, hold=3)
    actions = played(policy, 40)
    lapsed = np.flatnonzero(actions.any(1))
    assert 0 < len(lapsed) < 40
    assert (actions[lapsed[0]] == actions[lapsed[0] + 2]).all()
    with pytest.raises(ConfigError, match="noise needs"):
        NoisyPolicy(StillPolicy(), SPEC.action, memory=1.0)
