"""The policies that need no model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from linear_world import SPEC, frame_at
from wcsim.agents.policies import HoldPolicy, LanePolicy, NoisyPolicy, PerLane, RandomPolicy, ReplayPolicy, lane_of
from wcsim.errors import ActionError, ConfigError
from wcsim.estimate import Episode

SEEN = {"pixels": frame_at(0, 0)}


def played(policy: LanePolicy, ticks: int, episode: int = 0) -> np.ndarray:
    policy.reset(Episode(episode, 0))
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
    actions = np.arange(6.0).reshape(3, 2) - 2
    policy = ReplayPolicy(SPEC.action, actions)
    assert (played(policy, 3) == actions).all()
    assert (played(policy, 2) == actions[:2]).all()
    policy.act(SEEN)[:] = 99.0
    with pytest.raises(ActionError, match="holds 3 actions and all have been played"):
        policy.act(SEEN)
    assert (played(policy, 3) == actions).all()


@pytest.mark.parametrize("actions", [np.zeros(2), np.zeros((0, 2)), np.zeros((3, 3)), np.full((3, 2), np.nan)])
def test_what_cannot_be_replayed_is_refused_up_front(actions: np.ndarray) -> None:
    with pytest.raises(ActionError, match=r"must be finite \[T >= 1, 2\]"):
        ReplayPolicy(SPEC.action, actions)
    with pytest.raises(ActionError, match=r"must be finite \[T >= 1, 2\]"):
        ReplayPolicy(SPEC.action).reset(Episode(0, 0, actions=actions))
    with pytest.raises(ActionError, match="out of range"):
        ReplayPolicy(SPEC.action, np.full((3, 2), 5.0))


def test_recorded_actions_are_those_of_the_episode() -> None:
    policy = ReplayPolicy(SPEC.action)
    policy.reset(Episode(0, 0, actions=np.array([[9.0, 2.0]], np.float32)))
    assert policy.act(SEEN).tolist() == [9.0, 2.0]  # as it was meant, not clipped
    policy.reset(Episode(1, 0, actions=np.array([[3.0, 4.0]])))
    assert policy.act(SEEN).tolist() == [3.0, 4.0]
    with pytest.raises(ConfigError, match="episode 2 has no recorded actions"):
        policy.reset(Episode(2, 0))


def test_holding_is_what_holds_the_first_place_and_no_position() -> None:
    policy = HoldPolicy(lambda seen: seen["agent_pos"][:1] * 0.5)
    for first in (3.0, 7.0):
        policy.reset(Episode(0, 0))
        assert policy.act({"agent_pos": np.array([first, 4.0])}).tolist() == [first / 2]
        assert policy.act({"agent_pos": np.array([9.0, 9.0])}).tolist() == [first / 2]


class Counting:
    """Counts its ticks; the first number tells its lane."""

    def __init__(self, lane: int) -> None:
        self.lane, self.tick, self.left = lane, -1, list[int | None]()

    def reset(self, episode: Episode) -> None:
        self.tick = 100 * episode.number

    def act(self, observation: Any, steps_left: int | None = None) -> np.ndarray:
        assert observation["agent_pos"].tolist() == [float(self.lane)]
        assert observation["pixels"]["left"].shape == (2, 2, 3)
        assert observation["task"] == "abc"[self.lane]
        assert "active" not in observation
        self.left.append(steps_left)
        self.tick += 1
        return np.array([self.lane, self.tick])


def seen_by(lanes: int, **more: Any) -> dict[str, Any]:
    return {"pixels": {"left": np.zeros((lanes, 2, 2, 3), np.uint8)}, "task": list("abc"[:lanes]),
            "agent_pos": np.arange(float(lanes))[:, None], **more}


def test_lanes_are_reset_and_asked_alone() -> None:
    counting = [Counting(lane) for lane in range(3)]
    policy = PerLane(counting)
    policy.reset(np.ones(3, bool), [Episode(number, 0) for number in (1, 2, 3)])
    assert policy.act(seen_by(3), 9).tolist() == [[0, 101], [1, 201], [2, 301]]
    policy.reset(np.array([False, True, False]), [Episode(8, 0)] * 3)
    acted = policy.act(seen_by(3, active=np.array([True, True, False])), 8)
    assert acted.tolist() == [[0, 102], [1, 801], [0, 0]]
    assert acted.dtype == np.float64
    assert [one.left for one in counting] == [[9, 8], [9, 8], [9]]
    assert list(policy.reports) == [None] * 3


def test_lanes_that_do_not_fit_are_refused() -> None:
    policy = PerLane([Counting(0), Counting(1)])
    with pytest.raises(ConfigError, match=r"2 lanes; reset got a mask of \[3\] and 2 episodes"):
        policy.reset(np.ones(3, bool), [Episode(0, 0)] * 2)
    with pytest.raises(ConfigError, match=r"2 lanes, the observations \[3\]"):
        policy.act(seen_by(3, active=np.ones(3, bool)))
    assert lane_of(seen_by(2, active=np.ones(2, bool)), 1)["agent_pos"].tolist() == [1.0]


def test_an_unsteady_hand_wanders_within_bounds_and_belongs_to_its_episode() -> None:
    def noisy(**options: float) -> NoisyPolicy:
        return NoisyPolicy(ReplayPolicy(SPEC.action, np.ones((200, 2))), SPEC.action, **options)

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
    policy = NoisyPolicy(ReplayPolicy(SPEC.action, np.zeros((40, 2))), SPEC.action, lapse=0.2, hold=3)
    actions = played(policy, 40)
    lapsed = np.flatnonzero(actions.any(1))
    assert 0 < len(lapsed) < 40
    assert (actions[lapsed[0]] == actions[lapsed[0] + 2]).all()
    with pytest.raises(ConfigError, match="noise needs"):
        NoisyPolicy(HoldPolicy(lambda seen: np.zeros(2)), SPEC.action, memory=1.0)
