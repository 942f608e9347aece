"""The scripted expert, in the simulator that it was written for."""

from __future__ import annotations

import numpy as np
import pytest

from wcsim.agents.pusht_expert import TEE, PushExpert, to_body, to_table
from wcsim.envs.pusht import SCENE
from wcsim.envs.pusht_truth import GRAVITY_CENTRE
from wcsim.envs.tasks import make_task
from wcsim.errors import ConfigError
from wcsim.estimate import Episode, Estimate, Goal

GOAL = (256.0, 256.0, np.pi / 4)


class Table:
    """A task of one goal, which shows nothing."""

    def __init__(self, x: float, y: float, angle: float) -> None:
        self.goal = goal_at(x, y, angle)

    def estimate(self, frames: np.ndarray) -> Estimate:
        raise AssertionError("nobody should look")


def goal_at(x: float, y: float, angle: float) -> Goal:
    return Goal({"block": np.array([x, y]), "block_angle": np.array([angle])})


def coverage_after(seed: int, ticks: int, *, estimated: bool = False) -> tuple[float, float]:
    """Coverage at the start and at the end."""
    task = make_task("pusht", start="near")
    truth = task.make_truth()
    look = truth.restore(task.start(seed).truth)
    expert = PushExpert(task)
    first = look.coverage
    expert.reset(Episode(0, 0))
    for _ in range(ticks):
        seen = {"pixels": look.pixels} if estimated else {"environment_state": look.state[2:5]}
        look = truth.step(expert.act({"agent_pos": look.state[:2], **seen}))
        if look.estimate.success[0]:
            break
    truth.close()
    return first, look.coverage


def test_it_knows_the_block_that_the_simulator_has() -> None:
    assert SCENE.outline.equals(type(SCENE.outline)(TEE.outline))
    assert TEE.centre == tuple(GRAVITY_CENTRE)


def test_it_pushes_the_block_home() -> None:
    runs = [coverage_after(seed, 50) for seed in range(700_100, 700_103)]
    first, last = np.mean(runs, axis=0)
    assert last > max(0.75, first + 0.2)


def test_it_reads_pixels_through_an_estimator() -> None:
    first, last = coverage_after(700_100, 40, estimated=True)
    assert last > first + 0.2


def test_it_rests_at_the_goal_and_does_not_lose_its_head_without_a_block() -> None:
    expert = PushExpert(Table(*GOAL))
    expert.reset(Episode(0, 0))
    agent = np.array([100.0, 100.0])
    assert expert.act({"agent_pos": agent, "environment_state": np.array(GOAL)}) == pytest.approx(agent)
    lost = {"agent_pos": agent, "environment_state": np.full(3, np.nan)}
    assert expert.act(lost) == pytest.approx(agent)
    expert.reset(Episode(0, 0))
    assert np.isfinite(expert.act(lost)).all()


def test_the_goal_is_that_of_the_episode_or_of_the_task() -> None:
    expert = PushExpert(Table(*GOAL), speed_px=25.0)
    assert expert.config.speed_px == 25.0
    expert.reset(Episode(0, 0, goal=goal_at(100.0, 120.0, 0.5)))
    assert expert.goal == (100.0, 120.0, 0.5)
    expert.reset(Episode(0, 0))
    assert expert.goal == GOAL
    with pytest.raises(ConfigError, match="block and block_angle, and has agent"):
        expert.reset(Episode(0, 0, goal=Goal({"agent": np.zeros(2)})))


def test_an_imagined_push_through_the_centre_only_moves() -> None:
    expert, pose = PushExpert(Table(0.0, 0.0, 0.0)), np.array([100.0, 200.0, 0.3])
    contact = to_table(pose, np.array([[0.0, 120.0]]))
    heading = to_table(pose, np.array([[0.0, 1.0]])) - pose[:2]
    left = expert._imagine(pose, contact, -heading)[0]
    # The centre of the block is in line with this push, so its distance falls or rises and its angle stays.
    centre = to_table(pose, np.array(TEE.centre)) - TEE.centre
    expected = [np.hypot(np.linalg.norm(centre - length * heading[0]), 60.0 * 0.3)
                for length in expert.config.lengths_px]
    assert left == pytest.approx(expected)


def test_body_and_table_are_inverse_and_contacts_look_outward() -> None:
    pose, points = np.array([10.0, -20.0, 0.7]), np.array([[1.0, 2.0], [3.0, -4.0]])
    assert to_body(pose, to_table(pose, points)) == pytest.approx(points)
    where, normals = TEE.contacts(10.0)
    assert TEE.distance(where) == pytest.approx(0.0, abs=1e-9)
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1.0)
    assert TEE.distance(where + 5.0 * normals).max() == pytest.approx(5.0)
