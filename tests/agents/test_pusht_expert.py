"""The scripted expert, in the simulator that it was written for."""

from __future__ import annotations

import numpy as np
import pytest

from wcsim.agents.expert import TEE, PushExpert, to_body, to_table
from wcsim.envs.pusht import SCENE
from wcsim.envs.tasks import make_task
from wcsim.envs.truth import GRAVITY_CENTRE
from wcsim.errors import ActionError

GOAL = (256.0, 256.0, np.pi / 4)


def coverage_after(seed: int, ticks: int, *, judged: bool = False) -> tuple[float, float]:
    """Coverage at the start and at the end."""
    task = make_task("pusht", start="near")
    truth = task.make_truth()
    look = truth.restore(task.start(seed).truth)
    expert = PushExpert(task.goal, estimator=task.judge)
    first = look.coverage
    expert.reset({})
    for _ in range(ticks):
        seen = {"pixels": look.pixels} if judged else {"block_pose": look.state[2:5]}
        look = truth.step(expert.act({"agent_pos": look.state[:2], **seen}))
        if look.judgement.success[0]:
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
    first, last = coverage_after(700_100, 40, judged=True)
    assert last > first + 0.2


def test_it_rests_at_the_goal_and_does_not_lose_its_head_without_a_block() -> None:
    expert = PushExpert(GOAL)
    expert.reset({})
    agent = np.array([100.0, 100.0])
    assert expert.act({"agent_pos": agent, "block_pose": np.array(GOAL)}) == pytest.approx(agent)
    lost = {"agent_pos": agent, "block_pose": np.full(3, np.nan)}
    assert expert.act(lost) == pytest.approx(agent)
    expert.reset({})
    assert np.isfinite(expert.act(lost)).all()
    with pytest.raises(ActionError, match="needs observation"):
        expert.act({"agent_pos": agent})


def test_an_imagined_push_through_the_centre_only_moves() -> None:
    expert, pose = PushExpert((0.0, 0.0, 0.0)), np.array([100.0, 200.0, 0.3])
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
