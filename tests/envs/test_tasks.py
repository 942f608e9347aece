from __future__ import annotations

import numpy as np
import pytest

from wcsim.actions import check_action
from wcsim.envs.judge import Judgement
from wcsim.envs.pusht import BESIDE_PX, START_COVERAGE, block_gap
from wcsim.envs.scene import wrap
from wcsim.envs.tasks import TASKS, make_task
from wcsim.envs.truth import GOAL_POSE
from wcsim.errors import ConfigError


@pytest.mark.parametrize("name", [name for name in TASKS if name != "footage"])  # recordings, and nothing to judge
def test_every_task_keeps_the_contract(name):
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
    judged, known = task.judge(start.frames), seen.judgement
    np.testing.assert_allclose(judged.agent[-1], known.agent[0], atol=3)
    np.testing.assert_allclose(judged.block[-1, :2], known.block[0, :2], atol=3)
    assert task.reward(judged).shape == (len(start.frames),)
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
        judgement = state.judgement
        assert np.hypot(*(judgement.block[0, :2] - GOAL_POSE[:2])) <= pixels + 1e-6
        assert abs(wrap(judgement.block[0, 2] - GOAL_POSE[2])) <= np.radians(degrees) + 1e-6
        assert judgement.coverage[0] <= START_COVERAGE
        gap = block_gap(judgement.agent[0], judgement.block[0])
        assert BESIDE_PX[0] - 1e-6 <= gap <= BESIDE_PX[1] + 1e-6
    truth.close()


def test_an_impossible_near_start_says_so():
    with pytest.raises(ConfigError, match="raise near_px"):
        make_task("pusht", start="near", near_px=0.5, near_degrees=0.5).start(0)


def test_reward_is_coverage_up_to_success():
    task = make_task("pusht")
    coverage = np.array([0.0, 0.475, 0.95, 0.951, 1.0])
    judgement = Judgement.of_state(np.zeros((5, 2)), np.zeros((5, 3)), coverage, 0.95)
    np.testing.assert_allclose(task.reward(judgement), [0.0, 0.5, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(judgement.success, [False, False, False, True, True])


@pytest.mark.parametrize(("name", "options", "words"), [
    ("push", {}, "task 'push' is unknown; known: footage, pendulum, pusht"),
    ("footage", {}, "task 'footage' needs its option 'folder'"),
    ("pusht", {"begin": "near"}, "no option 'begin'; known: start, near_px, near_degrees, max_episode_steps"),
    ("pusht", {"start": "far"}, "start 'far' is unknown; known: random, near"),
    ("pusht", {"near_px": -1.0}, "near_px is -1"),
    ("pusht", {"near_degrees": float("nan")}, "near_degrees is nan"),
    ("pusht", {"max_episode_steps": 0}, "max_episode_steps is 0"),
])
def test_bad_options_are_refused_in_words(name, options, words):
    with pytest.raises(ConfigError, match=words):
        make_task(name, **options)
