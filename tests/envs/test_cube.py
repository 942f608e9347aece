"""The arm: exact snapshots, states without pictures, the hand that picks up, and what is read from pixels."""

from __future__ import annotations

import numpy as np
import pytest

from gl import need_gl
from wcsim.envs.cube import Cube
from wcsim.envs.cube_estimator import decode, encode, patches, red
from wcsim.envs.cube_expert import CubeExpert
from wcsim.envs.cube_hand import Hand, grasp_yaw, move
from wcsim.envs.cube_truth import GOAL_CM, LEAST_WAY_CM, CubeTruth, judge, new_simulator, values_of
from wcsim.envs.tasks import Start, make_task, play_exploration, watch_exploration
from wcsim.errors import ConfigError, SnapshotError
from wcsim.estimate import Episode, Goal

pytest.importorskip("ogbench")


@pytest.fixture(scope="module")
def gl() -> None:
    """OpenGL without a display."""
    need_gl()


@pytest.fixture(scope="module")
def episode(gl: None) -> tuple[np.ndarray, np.ndarray]:
    """Frames and states of an explored episode."""
    seen, _ = play_exploration(make_task("cube"), 700_003, 24)
    return np.array([look.pixels for look in seen]), np.array([look.state for look in seen])


def actions_of(seed: int, ticks: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).uniform(-1, 1, (ticks, 5))
    drawn[:, 2] -= 0.4  # down to the table, where there are contacts
    return np.clip(drawn, -1, 1)


def states_after(truth: CubeTruth, actions: np.ndarray) -> list[np.ndarray]:
    found = []
    for action in actions:
        truth.advance(action)
        found.append(truth.state)
    return found


def test_a_snapshot_has_the_same_future_here_and_in_another_simulator() -> None:
    truth, other = CubeTruth(render=False), CubeTruth(render=False)
    with pytest.raises(SnapshotError, match="call reset"):
        other.snapshot()
    other._env = new_simulator()
    truth.reset(700_001)
    states_after(truth, actions_of(1, 20))
    snapshot = truth.snapshot()
    future = states_after(truth, actions_of(2, 20))
    for place in (truth, other):
        place.restore(snapshot)
        np.testing.assert_array_equal(states_after(place, actions_of(2, 20)), future)
        place.close()


def test_a_snapshot_of_something_else_is_refused() -> None:
    truth = CubeTruth(render=False)
    truth.reset(700_001)
    good, before = truth.snapshot(), truth.state
    with pytest.raises(SnapshotError, match="another version"):
        truth.restore(type(good)(good.state[:-1], good.site_xpos, good.site_xmat))
    np.testing.assert_array_equal(truth.state, before)
    truth.close()


def test_starts_follow_from_their_seeds_and_are_not_done() -> None:
    truth, states = CubeTruth(render=False), {}
    for seed in range(700_000, 700_012):
        states[seed] = truth.reset(seed).state
        assert np.linalg.norm(states[seed][5:8] - np.array(GOAL_CM)) >= LEAST_WAY_CM
        assert np.abs(states[seed][[1, 6]]).max() <= 20.5
    np.testing.assert_array_equal(truth.reset(700_004).state, states[700_004])
    assert len(np.unique(np.array(list(states.values())), axis=0)) == 12
    truth.close()


def test_without_pictures_there_are_states_and_no_frames() -> None:
    task = make_task("cube", render=False)
    truth = task.make_truth()
    look = truth.restore(task.start(700_002).truth)
    assert look.estimate.found["cube"].all()
    with pytest.raises(ConfigError, match="render=False"):
        look.pixels  # noqa: B018  the reading is the test
    truth.close()


def test_success_is_within_four_centimetres() -> None:
    goal = np.array(GOAL_CM)
    success, progress = judge(goal + np.array([[0, 0, 0], [3.9, 0, 0], [0, 4.1, 0], [np.nan, 0, 0], [0, 90, 0]]))
    assert success.tolist() == [True, True, False, False, False]
    assert progress[0] == progress[1] == 1.0
    assert progress[3] == progress[4] == 0.0


def test_a_square_looks_alike_four_times_a_turn() -> None:
    state = np.zeros((3, 9))
    state[:, 8] = [0.1, 0.1 + np.pi / 2, 0.1 - np.pi]
    np.testing.assert_allclose(values_of(state)["cube_yaw"], 0.1)
    spec = Cube.state["cube_yaw"]
    np.testing.assert_allclose(spec.error(np.array([np.pi / 4 - 0.01]), np.array([-np.pi / 4 + 0.01])),
                               np.degrees(0.02))
    assert spec.most == 22.5


def test_the_network_says_what_it_was_asked() -> None:
    rng = np.random.default_rng(0)
    state = np.column_stack([rng.uniform(25, 60, 50), rng.uniform(-20, 20, 50), rng.uniform(2, 30, 50),
                             rng.uniform(-3, 3, 50), rng.uniform(0, 1, 50), rng.uniform(25, 60, (50, 3)),
                             rng.uniform(-3, 3, 50)])
    wanted, told = values_of(state), decode(encode(state))
    for name, error in Cube.state.errors(told, wanted).items():
        assert error.max() < 1e-4, name


def test_the_grasp_is_the_nearest_of_four() -> None:
    hand = Hand(np.zeros(3), 3.0, np.zeros(3), 0.0)
    for side in np.linspace(-7, 7, 29):
        yaw = grasp_yaw(hand, side)
        assert abs((yaw - hand.yaw + np.pi) % (2 * np.pi) - np.pi) <= np.pi / 4 + 1e-9
        turn = (yaw - side) / (np.pi / 2)
        assert turn == pytest.approx(round(turn), abs=1e-9)
    assert np.abs(move(hand, np.array([99.0, -99.0, 1.0]), -3.0, 1.0)).max() <= 1.0


@pytest.mark.parametrize(("options", "expected"), [({}, 3), ({"closes": False}, 0)])
def test_the_expert_picks_up_and_puts_down(options: dict[str, bool], expected: int) -> None:
    task = make_task("cube", render=False)
    truth, expert, done = task.make_truth(), CubeExpert(task, **options), 0
    for seed in range(700_010, 700_013):
        truth.restore(task.start(seed).truth)
        expert.reset(Episode(0, seed))
        rng = np.random.default_rng(seed)
        for _ in range(task.max_episode_steps):
            state = truth.state
            cube = state[5:] + np.append(rng.normal(0, 0.6, 3), 0.0)
            truth.advance(expert.act({"agent_pos": state[:5], "environment_state": cube}))
        done += int(truth.look().estimate.success[0])
    truth.close()
    assert done == expected


def test_the_expert_needs_a_goal_of_the_cube() -> None:
    with pytest.raises(ConfigError, match="goal of cube"):
        CubeExpert(make_task("cube", render=False)).reset(Episode(0, 0, goal=Goal({"effector": np.zeros(3)})))


def test_exploration_is_a_function_of_the_seed_and_moves_the_cube() -> None:
    task, moved = make_task("cube", render=False), []
    for seed in range(700_020, 700_026):
        states, actions = watch_exploration(task, seed, 64, lambda truth: truth.state)
        assert np.abs(actions).max() <= 1.0
        moved.append(np.ptp(np.array(states)[:, 5:8], axis=0).max())
    again, _ = watch_exploration(task, 700_025, 64, lambda truth: truth.state)
    np.testing.assert_array_equal(again, states)
    assert np.sum(np.array(moved) > 3.0) >= 3


def test_a_start_shows_what_its_snapshot_is(gl: None) -> None:
    task = make_task("cube")
    start: Start = task.start(700_003)
    truth = task.make_truth()
    np.testing.assert_array_equal(truth.restore(start.truth).pixels, start.frames[-1])
    truth.close()


def test_hand_and_cube_are_read_from_pixels(episode: tuple[np.ndarray, np.ndarray]) -> None:
    frames, states = episode
    seen = make_task("cube").estimate(frames)
    errors = Cube.state.errors(seen.values, values_of(states))
    assert seen.found["cube"].mean() > 0.9
    assert np.nanmedian(errors["cube_cm"]) < 1.2
    assert np.nanmedian(errors["effector_cm"]) < 1.2
    assert seen.shape_ok.mean() > 0.9


def test_a_frame_is_read_by_itself(episode: tuple[np.ndarray, np.ndarray]) -> None:
    task, frames = make_task("cube"), episode[0][:6]
    together = task.estimate(frames)
    for number, frame in enumerate(frames):
        alone = task.estimate(frame[None])
        np.testing.assert_array_equal(alone.values["cube"][0], together.values["cube"][number])


def test_what_is_not_there_is_not_found(episode: tuple[np.ndarray, np.ndarray]) -> None:
    task, frame = make_task("cube"), episode[0][0]
    hidden = frame.copy()
    hidden[red(frame)] = (40, 50, 70)
    doubled = frame.copy()
    doubled[60:66, 10:16] = (200, 50, 70)
    seen = task.estimate(np.array([frame, hidden, doubled, np.zeros_like(frame)]))
    assert seen.found["cube"].tolist() == [True, False, True, False]
    assert seen.found["effector"].tolist() == [True, True, True, False]
    assert seen.shape_ok.tolist() == [True, False, False, False]
    assert np.isnan(seen.values["cube"][1]).all()
    assert patches(red(doubled)) == patches(red(frame)) + 1
