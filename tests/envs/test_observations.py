"""Observations are built in one place: the whole robot, its last value where it is not seen, and every camera."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from outside_task import Press
from wcsim.envs.observations import no_robot_state, observation, observation_space, observations, robot_state
from wcsim.envs.pendulum import Pendulum
from wcsim.estimate import Estimate
from wcsim.spec import Quantity, StateSpec

TASK = Press()


def estimate_of(hand, grip, pressed=((np.nan,), (1.0,))):
    return TASK.estimate_state({"hand": np.array(hand), "grip": np.array(grip), "pressed": np.array(pressed)})


def test_the_robot_keeps_what_is_not_found_quantity_by_quantity():
    seen = estimate_of([[3.0, 4.0], [np.nan, np.nan]], [[np.nan], [0.75]])
    last = np.array([[9.0, 9.0, 0.5], [8.0, 7.0, 0.25]], np.float32)
    np.testing.assert_array_equal(robot_state(TASK.state, seen, last), np.float32([[3, 4, 0.5], [8, 7, 0.75]]))
    assert robot_state(TASK.state, seen, last).dtype == np.float32


def test_a_value_is_clipped_to_the_bounds_of_its_own_quantity_alone():
    seen = estimate_of([[-3.0, 30.0], [40.0, 2.0]], [[2.0], [-1.0]])
    np.testing.assert_array_equal(robot_state(TASK.state, seen, no_robot_state(TASK.state, 2)),
                                  np.float32([[0, 30, 1], [32, 2, 0]]))
    # A pendulum's tip is in pixels; its action, within 2 N m, has no say in that.
    pendulum = Pendulum()
    seen = pendulum.estimate_state({"angle": np.array([[0.5]])})
    robot = robot_state(pendulum.state, seen, no_robot_state(pendulum.state, 1))
    np.testing.assert_array_equal(robot[0], np.float32([*seen.values["tip"][0], 0.5]))
    assert robot[0, 0] > 100


def test_a_robot_that_was_never_seen_is_in_its_space():
    spec = StateSpec((Quantity("height", 1, "m", "scalar", role="robot", low=0.5, high=2.0),
                      Quantity("place", 2, "m", "position", role="robot")))
    np.testing.assert_array_equal(no_robot_state(spec, 2), np.float32([[0.5, 0, 0]] * 2))


def test_policies_see_every_lane():
    frames = np.random.default_rng(0).integers(0, 256, (2, *TASK.frame_size, 3)).astype(np.uint8)
    seen = estimate_of([[3.0, 4.0], [5.0, 6.0]], [[0.0], [0.75]])
    robot = robot_state(TASK.state, seen, no_robot_state(TASK.state, 2))
    told = observations(TASK, frames, robot, seen, active=np.array([True, False]))
    assert {name: view.shape for name, view in told["pixels"].items()} == {"front": (2, 32, 32, 3),
                                                                          "wrist": (2, 16, 16, 3)}
    np.testing.assert_array_equal(told["pixels"]["wrist"], frames[:, :16, 32:])
    np.testing.assert_array_equal(told["agent_pos"], robot)
    np.testing.assert_array_equal(told["environment_state"], [[np.nan], [1.0]])
    assert told["task"] == ["Press the button."] * 2
    assert told["active"].tolist() == [True, False]
    single = observation(TASK, frames[1], robot[1])
    assert TASK.observation_space.contains(single)
    single["pixels"]["front"][:] = 0
    assert frames[1].any(), "a copy"


def test_a_task_without_quantities_has_a_robot_of_no_numbers():
    spec = StateSpec(())
    assert no_robot_state(spec, 3).shape == (3, 0)
    assert robot_state(spec, Estimate.nothing(spec, 3), no_robot_state(spec, 3)).shape == (3, 0)
    space = observation_space(spec, TASK.cameras)
    assert space["agent_pos"].shape == (0,)
    gym.vector.utils.batch_space(space, 3)
