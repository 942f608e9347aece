from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wcsim.envs.pusht import SCENE
from wcsim.envs.pusht_estimator import BLAS, PushTEstimator
from wcsim.envs.pusht_scene import rotation
from wcsim.envs.pusht_truth import PushTTruth, start_at
from wcsim.estimate import Estimate
from wcsim.spec import wrap_angle

# Drawn exactly where they are, without the simulator's habits and walls; anti-aliasing adds half a pixel to the disc.
PLAIN = replace(SCENE, block_outline=0.0, block_drawn=((0.0, 0.0, 0.0),), agent_radius=15.0, agent_drawn=(0.0, 0.0),
                agent_discs=((15.5, SCENE.agent_colour),), rim=())
ESTIMATOR = PushTEstimator(PLAIN)


def polygon(image: np.ndarray, box: tuple[float, ...], pose: tuple[float, ...], colour: tuple[int, ...]) -> None:
    low_u, low_v, high_u, high_v = box
    corners = np.array([(low_u, low_v), (high_u, low_v), (high_u, high_v), (low_u, high_v)])
    points = np.asarray(pose[:2]) + corners @ rotation(np.array(pose[2:3]))[0].T
    cv2.fillConvexPoly(image, np.round(points * 16).astype(np.int32), colour, cv2.LINE_AA, shift=4)


def draw(
    agent: tuple[float, float] | None = (100.0, 100.0),
    *blocks: tuple[float, float, float],
    boxes: tuple[tuple[float, ...], ...] = PLAIN.block,
) -> np.ndarray:
    """A frame of the table, from the scene's own definition."""
    image = np.full((512, 512, 3), PLAIN.table_colour, dtype=np.uint8)
    for box in PLAIN.block:
        polygon(image, box, PLAIN.goal, PLAIN.goal_colour)
    for pose in blocks:
        for box in boxes:
            polygon(image, box, pose, PLAIN.block_colour)
    if agent is not None:
        centre = np.round(np.array(agent) * 16).astype(int)
        cv2.circle(image, centre.tolist(), 15 * 16, PLAIN.agent_colour, -1, cv2.LINE_AA, shift=4)
    return cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def episode() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simulator frames `[N, 96, 96, 3]` with the block in view, their states `[N, 7]` and coverage `[N]`."""
    truth, seen = PushTTruth(), []
    for seed in range(700_010, 700_018):
        rng = np.random.default_rng(seed)
        near = start_at(np.array([256.0, 120.0]), np.array([256.0, 256.0, np.pi / 4]) + rng.normal(0, [9, 9, 0.1]))
        seen.append(truth.reset(seed) if seed % 2 else truth.reset(start=near))
        for _ in range(24):
            seen.append(truth.step(np.clip(seen[-1].state[2:4] + rng.normal(0, 60, 2), 20, 492)))
    truth.close()
    table = shapely.box(5, 5, 507, 507)
    seen = [frame for frame in seen if table.contains(SCENE.polygons(frame.state[None, 2:5])[0])]
    pixels, states = (np.array([getattr(frame, name) for frame in seen]) for name in ("pixels", "state"))
    return pixels, states, np.array([frame.coverage for frame in seen])


@settings(max_examples=25, deadline=None)
@given(x=st.floats(160, 350), y=st.floats(160, 350), angle=st.floats(-3.14, 3.14), side=st.floats(-1, 1))
def test_a_drawn_pose_is_recovered(x, y, angle, side):
    # The agent stands against the block's bar, anywhere along it.
    agent = np.array([x, y]) + rotation(np.array([angle]))[0] @ [60 * side, -15.0]
    found = ESTIMATOR(draw(tuple(agent), (x, y, angle))[None])
    assert found.shape_ok[0]
    assert np.hypot(*(found.values["block"][0] - [x, y])) < 1.2
    assert abs(wrap_angle(found.values["block_angle"][0, 0] - angle)) < np.radians(0.8)
    assert np.hypot(*(found.values["agent"][0] - agent)) < 1.0


def assert_accurate(pixels: np.ndarray, states: np.ndarray) -> None:
    found = PushTEstimator(SCENE)(pixels)
    assert found.found["block"].all()
    assert found.found["agent"].all()
    for error, median, high in (
        (np.hypot(*(found.values["block"] - states[:, 2:4]).T), 1.0, 2.5),
        (np.degrees(np.abs(wrap_angle(found.values["block_angle"][:, 0] - states[:, 4]))), 0.7, 2.0),
        (np.hypot(*(found.values["agent"] - states[:, :2]).T), 1.0, 2.5),
    ):
        assert np.median(error) < median
        assert np.percentile(error, 95) < high


def test_simulator_frames_are_read_within_the_stated_bounds(episode):
    assert_accurate(episode[0], episode[1])
    assert PushTEstimator(SCENE)(episode[0]).shape_ok.all()


def test_an_agent_beneath_a_wall_is_where_its_bare_part_says():
    bare = replace(SCENE, rim=((0.8, 0.0), (0.0, 0.5))).bare
    np.testing.assert_allclose(bare[[0, 1, 1, 0, 95, 50], [50, 50, 94, 1, 0, 50]], [0.8, 0.5, 0.25, 0.8, 0.96, 1.0],
                               rtol=1e-6)
    truth, seen = PushTTruth(), []
    for number, depth in enumerate(np.linspace(4.0, 20.0, 48)):
        place = np.array([[depth, 511 - depth][number % 2], 60.0 + 8.1 * number])
        seen.append(truth.reset(start=start_at(place[:: 1 - 2 * (number // 2 % 2)], np.array([256.0, 256.0, 0.0]))))
    truth.close()
    pixels, places = np.array([frame.pixels for frame in seen]), np.array([frame.state[:2] for frame in seen])
    soft = np.array([cv2.GaussianBlur(frame, (0, 0), 0.6) for frame in pixels])  # about as soft as a codec's
    seen = (PushTEstimator(scene)(frames).values["agent"] for scene, frames in (
        (SCENE, pixels), (SCENE, soft), (replace(SCENE, rim=()), soft)))
    error, softly, blindly = (np.hypot(*(agents - places).T) for agents in seen)
    assert np.median(error) < 0.6
    assert error.max() < 1.5
    assert softly.mean() < 0.93 * blindly.mean(), "an estimator to whom the wall is a part of the agent that is missing"


def test_a_mark_of_contact_takes_no_bite_out_of_the_agent(episode):
    pixels, states, _ = episode
    marked = pixels.copy()
    columns, rows = SCENE.pixel(states[:, :2] + [12.0, 0.0]).T
    marked[np.arange(len(pixels)), rows, columns] = SCENE.mark_colour
    moved = np.hypot(*(PushTEstimator(SCENE)(marked).values["agent"] - PushTEstimator(SCENE)(pixels).values["agent"]).T)
    assert np.median(moved) < 0.3
    assert np.percentile(moved, 95) < 1.0


def test_noise_of_36_db_is_no_harm(episode):
    noisy = episode[0] + np.random.default_rng(0).normal(0, 4.0, episode[0].shape)
    assert_accurate(np.clip(noisy, 0, 255).astype(np.uint8), episode[1])


def test_blur_is_no_harm(episode):
    assert_accurate(np.array([cv2.GaussianBlur(frame, (0, 0), 0.8) for frame in episode[0]]), episode[1])


def test_coverage_and_success_agree_with_the_simulator(episode):
    pixels, states, coverage = episode
    found = PushTEstimator(SCENE)(pixels)
    assert (coverage > 0.5).sum() > 10
    assert np.abs(found.progress - coverage).max() < 0.03
    np.testing.assert_allclose(SCENE.coverage(states[:, 2:5]), coverage, atol=1e-9)
    clear = np.abs(coverage - 0.95) > 0.03
    np.testing.assert_array_equal(found.success[clear], coverage[clear] > 0.95)


def test_the_goal_pose_is_success():
    found = ESTIMATOR(draw((100.0, 100.0), PLAIN.goal)[None])
    assert found.progress[0] > 0.98
    assert found.success[0]


def test_an_empty_table_shows_nothing():
    found = ESTIMATOR(draw(None)[None])
    assert not found.found["agent"][0]
    assert not found.found["block"][0]
    assert not found.shape_ok[0]
    assert np.isnan(found.values["agent"]).all()
    assert np.isnan(found.values["block"]).all()
    assert found.progress[0] == 0.0
    assert not found.success[0]


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (144, 238, 144), (128, 128, 128), (72, 116, 241)])
def test_a_frame_of_one_colour_shows_nothing(colour):
    found = ESTIMATOR(np.full((1, 96, 96, 3), colour, dtype=np.uint8))
    assert not found.found["block"][0]
    assert not found.shape_ok[0]


def test_a_block_pushed_partly_off_the_table_is_still_placed():
    pose = (490.0, 300.0, 2.0)
    found = ESTIMATOR(draw((100.0, 100.0), pose)[None])
    assert np.hypot(*(found.values["block"][0] - pose[:2])) < 2.5


def test_a_block_mostly_off_the_table_is_not_guessed_at():
    found = ESTIMATOR(draw((100.0, 100.0), (500.0, 300.0, -np.pi / 2))[None])
    assert not found.found["block"][0]
    assert not found.shape_ok[0]


def test_an_agent_on_top_of_the_block_neither_moves_nor_splits_it():
    pose = (200.0, 150.0, 0.3)
    middle = np.array(pose[:2]) + rotation(np.array([pose[2]]))[0] @ [0.0, 75.0]
    found = ESTIMATOR(draw(tuple(middle), pose)[None])
    assert found.shape_ok[0]
    assert np.hypot(*(found.values["block"][0] - pose[:2])) < 1.0


@pytest.mark.parametrize("boxes", [
    ((-60.0, 0.0, 60.0, 30.0), (-15.0, 0.0, 15.0, 70.0)),
    ((-60.0, 0.0, 60.0, 30.0), (-15.0, 55.0, 15.0, 120.0)),
    ((-60.0, 0.0, 20.0, 30.0), (-15.0, 0.0, 15.0, 120.0)),
    ((-60.0, 0.0, 60.0, 30.0), (20.0, 0.0, 50.0, 120.0)),
    ((-40.0, 0.0, 40.0, 80.0),),
], ids=["short stem", "cut in two", "short bar", "stem aside", "square"])
def test_a_broken_block_is_not_ok(boxes):
    assert not ESTIMATOR(draw((100.0, 100.0), (300.0, 250.0, 0.5), boxes=boxes)[None]).shape_ok[0]


def test_two_blocks_are_not_ok():
    assert not ESTIMATOR(draw((100.0, 100.0), (120.0, 250.0, 0.5), (380.0, 250.0, 0.5))[None]).shape_ok[0]


def test_two_agents_are_not_ok():
    frame = np.minimum(draw((100.0, 100.0), (300.0, 250.0, 0.5)), draw((100.0, 400.0)))
    assert not ESTIMATOR(frame[None]).shape_ok[0]


def test_a_missing_agent_is_not_ok_but_the_block_is_found():
    found = ESTIMATOR(draw(None, (300.0, 250.0, 0.5))[None])
    assert not found.found["agent"][0]
    assert not found.shape_ok[0]
    assert found.found["block"][0]


class Threads(PushTEstimator):
    """Notes how many threads numpy's BLAS has while it estimates."""

    def _estimate(self, frames: np.ndarray) -> Estimate:
        self.seen = blas_threads()
        return super()._estimate(frames)


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in BLAS.info() if pool["user_api"] == "blas"]


def test_estimating_keeps_blas_on_one_thread_and_gives_the_others_back() -> None:
    estimator = Threads(PLAIN)
    with BLAS.limit(limits=2, user_api="blas"):
        before = blas_threads()
        estimator(draw()[None])
        assert before
        assert blas_threads() == before
    assert estimator.seen == [1] * len(before)


def test_frames_do_not_disturb_each_other():
    frames = np.array([draw((100.0, 100.0), (120.0, 250.0, 0.5)), draw(None), draw((60.0, 300.0), (300.0, 250.0, 2.0))])
    together = ESTIMATOR(frames)
    for lane, frame in enumerate(frames):
        alone = ESTIMATOR(frame[None])
        for name, value in alone.values.items():
            np.testing.assert_array_equal(value[0], together.values[name][lane])
        assert alone.progress[0] == together.progress[lane]


def test_no_frames_give_no_estimates():
    assert ESTIMATOR(np.zeros((0, 96, 96, 3), dtype=np.uint8)).values["block"].shape == (0, 2)


@pytest.mark.parametrize("frames", [np.zeros((96, 96, 3), np.uint8), np.zeros((1, 96, 96, 3), np.float32),
                                    np.zeros((1, 64, 64, 3), np.uint8)])
def test_other_frames_are_refused(frames):
    with pytest.raises(ValueError, match=r"the estimator of PushT reads uint8 \[N, 96, 96, 3\]"):
        ESTIMATOR(frames)
