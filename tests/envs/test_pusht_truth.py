from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from wcsim.envs.pusht_truth import PushTTruth, start_at
from wcsim.errors import SnapshotError


@pytest.fixture(scope="module")
def truth():
    simulator = PushTTruth()
    yield simulator
    simulator.close()


def pushes(truth: PushTTruth, seed: int, count: int) -> list[np.ndarray]:
    """Targets near the block: many contacts."""
    rng, block = np.random.default_rng(seed), truth.look().state[2:4]
    return [np.clip(block + rng.normal(0, 50, 2), 0, 512) for _ in range(count)]


def play(truth: PushTTruth, actions: list[np.ndarray]) -> list[bytes]:
    seen = [truth.step(action) for action in actions]
    return [frame.pixels.tobytes() + frame.state.tobytes() + np.float64(frame.coverage).tobytes() for frame in seen]


@pytest.mark.parametrize("seed", [0, 7, 700_001])
def test_the_start_draw_is_the_simulators_own(truth, seed):
    env = gym.make("gym_pusht/PushT-v0", obs_type="state", disable_env_checker=True)
    expected, _ = env.reset(seed=seed)
    state = truth.reset(seed).state
    np.testing.assert_array_equal(np.mod(state[4], 2 * np.pi), expected[4])
    np.testing.assert_array_equal(state[:4], expected[:4])
    env.close()


def test_a_restored_snapshot_has_the_same_future_bit_for_bit(truth):
    truth.reset(700_002)
    actions = pushes(truth, 1, 24)
    play(truth, actions[:10])
    snapshot, here = truth.snapshot(), truth.look()
    future = play(truth, actions[10:])

    restored = truth.restore(snapshot)
    np.testing.assert_array_equal(restored.pixels, here.pixels)
    np.testing.assert_array_equal(restored.state, here.state)
    assert play(truth, actions[10:]) == future

    other = PushTTruth()
    other.restore(snapshot)
    assert play(other, actions[10:]) == future
    other.close()


def test_a_snapshot_does_not_change_when_the_episode_goes_on(truth):
    truth.reset(700_003)
    snapshot = truth.snapshot()
    truth.step(np.array([100.0, 100.0]))
    assert snapshot.actions.shape == (0, 2)
    assert truth.snapshot().actions.shape == (1, 2)


def test_a_snapshot_before_the_first_reset_is_refused():
    fresh = PushTTruth()
    with pytest.raises(SnapshotError, match="call reset"):
        fresh.snapshot()
    fresh.close()


def test_start_at_puts_the_block_where_it_says(truth):
    agent, block = np.array([100.0, 120.0]), np.array([300.0, 250.0, 2.0])
    state = truth.reset(start=start_at(agent, block)).state
    np.testing.assert_allclose(state[:5], [*agent, *block], atol=1e-9)


def test_the_exact_estimate_is_the_state(truth):
    frame = truth.reset(700_004)
    estimate = frame.estimate
    np.testing.assert_array_equal(estimate.values["agent"][0], frame.state[:2])
    np.testing.assert_array_equal(estimate.values["block"][0], frame.state[2:4])
    assert estimate.progress[0] == frame.coverage
    assert estimate.success[0] == (frame.coverage > 0.95)
    assert -np.pi < estimate.values["block_angle"][0, 0] <= np.pi
