from __future__ import annotations

import numpy as np
import pytest

from gl import need_gl
from wcsim.actions import check_action
from wcsim.envs.pusht import BESIDE_PX, START_COVERAGE, block_gap
from wcsim.envs.pusht_truth import GOAL_POSE
from wcsim.envs.tasks import TASKS, make_task
from wcsim.errors import ConfigError
from wcsim.estimate import Estimate
from wcsim.spec import wrap_angle

READ_WITHIN = {"gripper_closed": 1.0, "cube_yaw_deg": 45.0}
"""What 96 pixels hardly show; docs/estimators.md has its errors.  All else is read to 3 of its unit."""
UNREAD = {"effector_yaw_deg"}
"""What the robot reports and no pixel shows."""


@pytest.mark.parametrize("name", [name for name in TASKS.names() if name != "recordings"])  # needs a path
def test_every_task_keeps_the_contract(name):
    if name == "cube":
        need_gl()
    task = make_task(name)
    height, width = task.frame_size
    start = task.start(3)
    assert task.name == name
    assert start.frames.dtype == np.uint8
    assert start.frames.shape[1:] == (height, width, 3)
    assert start.actions.shape == (len(start.frames) - 1, task.action.dim)
    assert set(task.observation_space.spaces) == {"pixels", "agent_pos"}
    assert task.observation_space["pixels"].contains(start.frames[-1])
    check_action(task.action, task.action_space.sample())
    np.testing.assert_array_equal(task.action_space.low, np.float32(task.action.low))
    np.testing.assert_array_equal(task.action_space.high, np.float32(task.action.high))

    truth = task.make_truth()
    seen = truth.restore(start.truth)
    np.testing.assert_array_equal(seen.pixels, start.frames[-1])
    estimate, known = task.estimate(start.frames), seen.estimate
    assert estimate.values.keys() == known.values.keys() == set(task.state.names)
    for metric, error in task.state.errors(estimate.select(-1).values, known.values).items():
        assert metric in UNREAD or error[0] < READ_WITHIN.get(metric, 3.0), metric
    again = task.estimate_state(known.values)
    assert again.success[0] == known.success[0]
    np.testing.assert_allclose(again.progress, known.progress, atol=1e-9)
    assert task.reward(estimate).shape == (len(start.frames),)
    truth.close()


@pytest.mark.parametrize("options", [{}, {"start": "near"}])
def test_a_seed_names_a_start(options):
    task = make_task("pusht", **options)
    first, again, other = (make_task("pusht", **options).start(seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert first.truth.start == again.truth.start
    assert first.truth.start != other.truth.start
    np.testing.assert_array_equal(task.start(5).frames, first.frames)


@pytest.mark.parametrize(("pixels", "degrees"), [(60.0, 25.0), (20.0, 10.0)])
def test_near_starts_are_near_and_not_done(pixels, degrees):
    task = make_task("pusht", start="near", near_px=pixels, near_degrees=degrees)
    truth = task.make_truth()
    for seed in range(20):
        state = truth.restore(task.start(seed).truth)
        estimate = state.estimate
        assert np.hypot(*(estimate.values["block"][0] - GOAL_POSE[:2])) <= pixels + 1e-6
        assert abs(wrap_angle(estimate.values["block_angle"][0, 0] - GOAL_POSE[2])) <= np.radians(degrees) + 1e-6
        assert estimate.progress[0] <= START_COVERAGE
        gap = block_gap(state.state[:2], state.state[2:5])
        assert BESIDE_PX[0] - 1e-6 <= gap <= BESIDE_PX[1] + 1e-6
    truth.close()


def test_an_impossible_near_start_says_so():
    with pytest.raises(ConfigError, match="raise near_px"):
        make_task("pusht", start="near", near_px=0.5, near_degrees=0.5).start(0)


def test_reward_is_coverage_up_to_success():
    task = make_task("pusht")
    coverage = np.array([0.0, 0.475, 0.95, 0.951, 1.0])
    estimate = Estimate.exact({}, progress=coverage, success=coverage > 0.95)
    np.testing.assert_allclose(task.reward(estimate), [0.0, 0.5, 1.0, 1.0, 1.0])


def test_a_block_on_its_goal_is_success():
    task = make_task("pusht")
    at_goal = {name: value[None] for name, value in task.goal.values.items()}
    estimate = task.estimate_state(at_goal)
    assert estimate.progress[0] == pytest.approx(1.0)
    assert estimate.success[0]
    assert estimate.found["block"][0]
    assert not estimate.found["agent"][0]
    lost = task.estimate_state({**at_goal, "block": np.full((1, 2), np.nan)})
    assert not lost.success[0]
    assert not lost.progress.any()


@pytest.mark.parametrize(("name", "options", "words"), [
    ("push", {}, "task 'push' is unknown; known: cube, pendulum, pusht, recordings"),
    ("recordings", {}, "task 'recordings' needs its option 'path'"),
    ("pusht", {"begin": "near"}, "no option 'begin'; known: start, near_px, near_degrees, max_episode_steps"),
    ("pusht", {"start": "far"}, "start 'far' is unknown; known: random, near"),
    ("pusht", {"near_px": -1.0}, "near_px is -1"),
    ("pusht", {"near_degrees": float("nan")}, "near_degrees is nan"),
    ("pusht", {"max_episode_steps": 0}, "max_episode_steps is 0"),
])
def test_bad_options_are_refused_in_words(name, options, words):
    with pytest.raises(ConfigError, match=words):
        make_task(name, **options)
